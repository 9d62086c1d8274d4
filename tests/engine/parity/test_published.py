"""A published config.json says the same as what transformers makes of it: defaults, older names, older ropes."""

import json
import warnings
from typing import Any

import pytest

from engine.models.registry import FAMILIES, PAGES, find_family, load_spec
from tests.engine.parity.rows import ROWS


@pytest.mark.parametrize("architecture", [page.family.architectures[0] for page in PAGES])
def test_published_config_reads_as_transformers_reads_it(architecture: str) -> None:
    published = {**FAMILIES[architecture].published.config, "architectures": [architecture]}
    assert load_spec(published) == load_spec(_as_transformers_saves(published, architecture))


@pytest.mark.parametrize(("name", "architecture"), [("MPTForCausalLM", "MptForCausalLM")])
def test_architectures_go_by_the_names_of_their_first_checkpoints_too(name: str, architecture: str) -> None:
    assert find_family({"architectures": [name]}) is FAMILIES[architecture]


def _as_transformers_saves(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    name = next(row.config for row in ROWS.values() if row.model == architecture)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        saved: dict[str, Any] = json.loads(getattr(transformers, name)(**config).to_json_string())
    return saved
