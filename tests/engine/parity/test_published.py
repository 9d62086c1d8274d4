"""A published config.json says the same as what transformers makes of it: defaults, older names, older ropes."""

import json
import warnings
from typing import Any

import pytest

from engine.models.registry import FAMILIES, PAGES, find_family, load_spec
from tests.engine.parity.rows import ROWS

WRITTEN_HERE = {row.model for row in ROWS.values() if row.oracle is not None}
"""Architectures that transformers lacks."""


@pytest.mark.parametrize(
    "architecture", [page.family.architectures[0] for page in PAGES if page.family.architectures[0] not in WRITTEN_HERE]
)
def test_published_config_reads_as_transformers_reads_it(architecture: str) -> None:
    published = {**FAMILIES[architecture].published.config, "architectures": [architecture]}
    assert load_spec(published) == load_spec(_as_transformers_saves(published, architecture))


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("MPTForCausalLM", "MptForCausalLM"), ("PicoLLMForCausalLM", "PicoLlmForCausalLM")],
)
def test_architectures_go_by_the_names_of_their_first_checkpoints_too(name: str, architecture: str) -> None:
    assert find_family({"architectures": [name]}) is FAMILIES[architecture]


def test_picollm_is_known_by_its_model_type_alone() -> None:
    family = FAMILIES["PicoLlmForCausalLM"]
    named = load_spec({**family.published.config, "architectures": ["PicoLlmForCausalLM"]})
    assert load_spec({**family.published.config, "model_type": "picollm"}) == named


def _as_transformers_saves(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    name = next(row.config for row in ROWS.values() if row.model == architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        saved: dict[str, Any] = json.loads(getattr(transformers, name)(**config).to_json_string())
    return saved
