"""One small model that transformers and headcount both run."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

VOCAB_SIZE = 101

SMALL: dict[str, Any] = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "max_position_embeddings": 64,
    "num_attention_heads": 6,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "vocab_size": VOCAB_SIZE,
}
"""The fields that Llama named. Heads are of an odd number where a family leaves a choice."""


class Row(NamedTuple):
    """A model of transformers.

    Attributes:
        config: name of its config class.
        model: name of its model class, which is its architecture.
        fields: of the config.
        num_positions: tokens of the longest test sequence.
        attention: transformers' implementation of it.
        oracle: fields -> the model, written out here, where transformers has none.
    """

    config: str
    model: str
    fields: dict[str, Any]
    num_positions: int = 40
    attention: str = "eager"
    oracle: Callable[[dict[str, Any]], Any] | None = None


def rows(
    family: str,
    base: Mapping[str, Any],
    variants: Mapping[str, Mapping[str, Any]],
    model: str = "",
    config: str = "",
    **changes: Any,
) -> dict[str, Row]:
    """A row a variant, named `{family}-{variant}`.

    Args:
        family: `Llama` for LlamaConfig and LlamaForCausalLM.
        base: fields of all variants.
        variants: further fields of each.
        model: the model class, where its name does not follow from the family.
        config: the config class, likewise.
        changes: other fields of Row.
    """
    model, config = model or f"{family}ForCausalLM", config or f"{family}Config"
    # Each a copy: transformers writes into the dictionaries that a config is made of.
    all_fields = {name: copy.deepcopy({**base, **fields}) for name, fields in variants.items()}
    return {f"{family}-{name}": Row(config, model, fields, **changes) for name, fields in all_fields.items()}
