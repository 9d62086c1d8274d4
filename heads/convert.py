"""A checkpoint with another number of key/value heads: MHA, GQA and MQA variants of one model."""

from pathlib import Path

import msgspec

from engine.checkpoint import Checkpoint, read_checkpoint
from engine.models.registry import find_family, load_spec
from engine.models.spec import DecoderSpec, LayerSpec
from heads.errors import HeadsError
from heads.evaluation import compare_quality, read_windows
from heads.pooling import Method, pool_heads, repeat_heads
from heads.results import Conversion
from heads.rewriting import Rewrite, rewrite_checkpoint
from heads.weights import HeadWeights


def convert_heads(
    source: Path, destination: Path, num_kv_heads: int, method: Method = "mean", *, text: str = ""
) -> Conversion:
    """Write the checkpoint in `source` with `num_kv_heads` key/value heads in every layer, as the folder `destination`.

    More heads come from repeating each, which changes nothing that the model computes; fewer from joining neighbours,
    after which it computes something else, and worse, until it is trained further (Ainslie et al. 2023, section 2.1).

    Args:
        source: a folder with config.json and safetensors.
        destination: the folder to make; it must not exist.
        num_kv_heads: a multiple or a divisor of the number that each layer has, and a divisor of its query heads.
        method: how heads are joined, where there are to be fewer; see heads.pooling.Method.
        text: what both models are compared on afterwards, or the name of a file; "": they are not.

    Raises:
        HeadsError: the number does not fit the model, or the method does not, or the text is too short or too long.
        EngineError: the model is not supported, or its config.json cannot state that number.
        CheckpointError: a file is unreadable or corrupt, the destination exists, or the disk is too full.
    """
    windows = read_windows(source, text) if text else []
    kv_heads = [layer.num_kv_heads for layer in read_checkpoint(source).spec.layers]
    rewrite_checkpoint(source, destination, lambda checkpoint: _plan(checkpoint, num_kv_heads, method))
    before, after = compare_quality(source, destination, windows) if windows else (None, None)
    is_exact = all(num_kv_heads >= number for number in kv_heads)
    return Conversion(
        source=str(source),
        destination=str(destination),
        method="repeat" if is_exact else method,
        kv_heads_before=kv_heads,
        num_kv_heads=num_kv_heads,
        is_exact=is_exact,
        before=before,
        after=after,
    )


def possible_kv_heads(layer: LayerSpec) -> list[int]:
    """Numbers of key/value heads that a layer can be given."""
    had = layer.num_kv_heads
    return [n for n in range(1, layer.num_q_heads + 1) if layer.num_q_heads % n == 0 and (n % had == 0 or had % n == 0)]


def with_kv_heads(checkpoint: Checkpoint, num_kv_heads: int) -> tuple[dict[str, object], DecoderSpec]:
    """The config.json of the model with that many key/value heads in every layer, and the spec it gives.

    Raises:
        HeadsError: a layer cannot have that many.
        ModelLoadError: a config.json of this family cannot say so.
    """
    for layer_idx, layer in enumerate(checkpoint.spec.layers):
        if num_kv_heads not in (possible := possible_kv_heads(layer)):
            raise HeadsError(
                f"{num_kv_heads} key/value heads cannot be made of {layer.num_kv_heads} (layer {layer_idx}, with"
                f" {layer.num_q_heads} query heads): the number must be a multiple or a divisor of those there are, and"
                f" divide the query heads; possible: {', '.join(map(str, possible))}"
            )
    config = find_family(checkpoint.config).with_kv_heads(checkpoint.config, num_kv_heads)
    spec, wanted = load_spec(config), _with_heads(checkpoint.spec, num_kv_heads)
    if spec != wanted:
        raise HeadsError(
            f"{checkpoint.spec.architecture}: config.json has no way to state {num_kv_heads} key/value heads"
        )
    return config, spec


def _with_heads(spec: DecoderSpec, num_kv_heads: int) -> DecoderSpec:
    layers = tuple(msgspec.structs.replace(layer, num_kv_heads=num_kv_heads) for layer in spec.layers)
    return msgspec.structs.replace(spec, layers=layers)


def _plan(checkpoint: Checkpoint, num_kv_heads: int, method: Method) -> Rewrite:
    config, spec = with_kv_heads(checkpoint, num_kv_heads)

    def change(layer_idx: int, weights: HeadWeights) -> HeadWeights:
        layer = checkpoint.spec.layers[layer_idx]
        if num_kv_heads >= layer.num_kv_heads:
            return repeat_heads(weights, num_kv_heads // layer.num_kv_heads)
        return pool_heads(layer, weights, num_kv_heads, method)

    return Rewrite(config, spec, change)
