"""Fields of config.json that hold one entry a layer. No torch."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from engine.errors import ModelLoadError
from engine.models.config_fields import Config, positive
from engine.models.spec import DecoderSpec

HEADS = ("num_attention_heads", "num_key_value_heads")


def of_layer(config: Config, names: Iterable[str], layer_idx: int, num_layers: int) -> dict[str, Any]:
    """The config of one layer: fields of these names that are lists are reduced to its entry.

    Raises:
        ModelLoadError: a list is not as long as the model has layers.
    """
    entries = {name: config[name] for name in names if isinstance(config.get(name), list)}
    for name, entry in entries.items():
        if len(entry) != num_layers:
            raise ModelLoadError(
                f"config.json: {name!r} must be one number or one for each of {num_layers} layers, got {entry!r}"
            )
    return {**config, **{name: entry[layer_idx] for name, entry in entries.items()}}


def build_by_layer(build_spec: Callable[[Config], DecoderSpec], config: Config) -> DecoderSpec:
    """What `build_spec` makes of a config whose layers may have head counts of their own, as lists of one entry a layer.

    So any family whose config.json names its heads as Llama's does can have layers of which heads were taken out.

    Raises:
        ModelLoadError: a list is not as long as the model has layers, or `head_dim` is missing: it would follow from the
            number of heads.
    """
    if not any(isinstance(config.get(name), list) for name in HEADS):
        return build_spec(config)
    positive(config, "head_dim")
    num_layers = positive(config, "num_hidden_layers")
    specs = [build_spec(of_layer(config, HEADS, layer_idx, num_layers)) for layer_idx in range(num_layers)]
    layers = tuple(spec.layers[layer_idx] for layer_idx, spec in enumerate(specs))
    return msgspec.structs.replace(specs[0], layers=layers)
