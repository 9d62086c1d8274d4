"""`headcount plan --list` and docs/models.md."""

import json
import math
from pathlib import Path

import pytest

from engine.models.registry import FAMILIES, load_spec
from headcount import main
from server.cli.model_list import as_markdown, list_models

MODELS = Path(__file__).parents[2] / "docs" / "models.md"
KNOWN_BYTES = {
    "openai-community/gpt2": 12 * 2 * 12 * 64 * 2,
    "meta-llama/Llama-3.1-8B": 32 * 2 * 8 * 128 * 2,
    "mistralai/Mistral-7B-v0.1": 32 * 2 * 8 * 128 * 2,
    "google/gemma-2b": 18 * 2 * 1 * 256 * 2,
}


def test_every_architecture_is_listed_with_true_bytes() -> None:
    models = list_models()
    assert sorted(name for model in models for name in model.architectures) == sorted(FAMILIES)
    found = {model.checkpoint: model.kv_bytes_per_token for model in models}
    assert {name: found[name] for name in KNOWN_BYTES} == KNOWN_BYTES
    assert all(model.family.endswith(".") for model in models)


def test_experts_that_a_token_does_not_pass_are_not_active() -> None:
    mixtral = next(model for model in list_models() if model.architectures == ["MixtralForCausalLM"])
    assert round(mixtral.num_parameters / 1e9, 1) == 46.7
    assert round(mixtral.num_active_parameters / 1e9, 1) == 12.9


def test_a_step_reads_rows_of_tables_and_the_experts_that_it_needs() -> None:
    published = FAMILIES["MixtralForCausalLM"].published
    mixtral = load_spec(published.config | {"architectures": ["MixtralForCausalLM"]})
    table = math.prod(mixtral.parameter_shapes()["embed.weight"])
    assert mixtral.num_read_parameters(1) == mixtral.num_active_parameters() - table + mixtral.hidden_size
    assert mixtral.num_read_parameters(4) == mixtral.num_parameters() - table + 4 * mixtral.hidden_size


def test_the_document_is_what_the_code_says() -> None:
    assert MODELS.read_text(encoding="utf-8") == as_markdown(list_models()), "run the command in its first lines"


def test_it_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--list"]) == 0
    assert "Llama-3.1-8B" in capsys.readouterr().out
    assert main(["plan", "--list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(list_models())
    assert main(["plan", "--list", "--markdown"]) == 0
    assert capsys.readouterr().out == MODELS.read_text(encoding="utf-8")
