"""How a config.json of a family states its number of key/value heads. No torch."""

from collections.abc import Callable
from typing import Any

from engine.errors import ModelLoadError
from engine.models.config_fields import Config

WithKVHeads = Callable[[Config, int], dict[str, Any]]
"""See Family.with_kv_heads."""


def kv_heads_field(name: str) -> WithKVHeads:
    """A field of that name; of a model that also sees, in its text part."""

    def with_kv_heads(config: Config, num_kv_heads: int) -> dict[str, Any]:
        if "text_config" in config:
            return {**config, "text_config": {**config["text_config"], name: num_kv_heads}}
        return {**config, name: num_kv_heads}

    return with_kv_heads


def multi_query_flag(config: Config, num_kv_heads: int, num_q_heads: int) -> dict[str, Any]:
    """`multi_query` says one or all: a count between them cannot be said.

    Args:
        config: config.json.
        num_kv_heads: to state.
        num_q_heads: of the model.

    Raises:
        ModelLoadError: a number that is neither.
    """
    if num_kv_heads not in (1, num_q_heads):
        raise ModelLoadError(
            f"config.json of {config['architectures'][0]} can state 1 key/value head or {num_q_heads}, one for every query"
            f" head (multi_query), not {num_kv_heads}"
        )
    return {**config, "multi_query": num_kv_heads == 1}


def mha_only(config: Config, num_kv_heads: int) -> dict[str, Any]:
    """A family whose query heads have a key/value head each, always.

    Raises:
        ModelLoadError: always.
    """
    raise ModelLoadError(
        f"config.json of {config['architectures'][0]} has no field for a number of key/value heads: every query head has its"
        f" own, so a model with {num_kv_heads} could not be loaded again"
    )
