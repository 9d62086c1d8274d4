"""Checkpoints that do not fit their config: each error names the tensor, what was expected and what it is."""

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from checkpoints.errors import CheckpointError
from engine.admission import check_request
from engine.checkpoint import read_checkpoint
from engine.core import EngineCore
from engine.errors import EngineError, KVCapacityError, ModelLoadError, RequestRefusedError
from engine.models.tensor_names import build_weight_map
from engine.weights import _by_file, load_parameters, match_names
from tests.engine.parity.oracles import build_oracle, save
from tests.engine.parity.rows import ROWS
from tests.engine.tiny_models import build_model, make_request, prompt, run, save_model, tokens

Load = Callable[..., EngineCore]
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(build_model("llama"), tmp_path)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = folder / "model.safetensors"
    found = load_file(path)
    change(found)
    save_file(found, path)


def test_missing_tensor(folder: Path, load: Load) -> None:
    edit_tensors(folder, lambda found: found.__delitem__(Q_PROJ))
    with pytest.raises(ModelLoadError, match=rf"missing {Q_PROJ}"):
        load(folder)


def test_extra_tensor(folder: Path, load: Load) -> None:
    edit_tensors(folder, lambda found: found.update({"model.layers.9.surprise": torch.zeros(1)}))
    with pytest.raises(ModelLoadError, match=r"not expected model\.layers\.9\.surprise"):
        load(folder)


def test_many_missing_tensors_are_counted(folder: Path, load: Load) -> None:
    edit_config(folder, num_hidden_layers=5)
    with pytest.raises(ModelLoadError, match=r"missing .* and 13 more"):
        load(folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(bad: float, folder: Path, load: Load) -> None:
    edit_tensors(folder, lambda found: found[Q_PROJ][3].fill_(bad))
    with pytest.raises(ModelLoadError, match=rf"'{Q_PROJ}': expected finite numbers, got 48 of 2304 .* at \[3, 0\]"):
        load(folder)
    assert load(folder, allow_non_finite_weights=True)


def test_a_number_too_large_for_the_dtype(folder: Path, load: Load) -> None:
    edit_tensors(folder, lambda found: found[Q_PROJ][0].fill_(1e5))
    with pytest.raises(
        ModelLoadError, match=rf"'{Q_PROJ}': its largest number, 1e\+05, does not fit in torch\.float16"
    ):
        load(folder, dtype="float16")
    load(folder, dtype="bfloat16")


def test_a_tied_head_that_is_no_copy_of_the_table(tmp_path: Path, load: Load) -> None:
    folder, name = save_model(build_model("llama", tie_word_embeddings=True), tmp_path), "lm_head.weight"
    edit_tensors(folder, lambda found: found.update({name: found["model.embed_tokens.weight"].clone()}))
    load(folder)
    edit_tensors(folder, lambda found: found[name][5].add_(1))
    with pytest.raises(ModelLoadError, match=r"'lm_head\.weight': expected the same as 'model\.embed_tokens\.weight'"):
        load(folder)
    edit_tensors(folder, lambda found: found.update({name: torch.zeros(3, 3)}))
    with pytest.raises(ModelLoadError, match=r"'lm_head\.weight': expected the same"):
        load(folder)
    edit_tensors(folder, lambda found: found.update({"model.lm_head.weight": torch.zeros(3, 3)}))
    with pytest.raises(ModelLoadError, match=r"not expected model\.lm_head\.weight"):
        load(folder)


def test_wrong_shape(folder: Path, load: Load) -> None:
    edit_tensors(folder, lambda found: found.update({Q_PROJ: torch.zeros(48, 47)}))
    with pytest.raises(ModelLoadError, match=rf"'{Q_PROJ}': expected shape \[48, 48\], got \[48, 47\]"):
        load(folder)


def test_wrong_dtype(folder: Path, load: Load) -> None:
    edit_tensors(folder, lambda found: found.update({Q_PROJ: torch.zeros(48, 48, dtype=torch.int32)}))
    with pytest.raises(ModelLoadError, match=rf"'{Q_PROJ}': expected dtype BF16, .*, got I32"):
        load(folder)


def test_truncated_file(folder: Path, load: Load) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(folder)


def test_corrupt_header(folder: Path, load: Load) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:8] + b"not json" + path.read_bytes()[16:])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load(folder)


def test_missing_shard(tmp_path: Path, load: Load) -> None:
    folder = save_model(build_model("llama"), tmp_path, max_shard_size="100KB")
    victim = sorted(folder.glob("*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(CheckpointError, match=victim.name):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_value_heads": 4}, r"query heads \(6\) must be a multiple of the key/value heads \(4\)"),
        (
            {"architectures": ["MambaForCausalLM"]},
            r"MambaForCausalLM; close to it: LlamaForCausalLM",
        ),
        ({"architectures": None}, r"architecture not supported: none"),
        ({"hidden_size": None}, r"lacks 'hidden_size'"),
        ({"hidden_size": "48"}, r"'hidden_size' must be of type int, got '48'"),
        ({"hidden_size": 50, "head_dim": None}, r"the hidden size \(50\) must be a multiple of the query heads \(6\)"),
        ({"num_hidden_layers": 0}, r"'num_hidden_layers' must be at least 1"),
        ({"hidden_act": "mish"}, r"'hidden_act' must be one of .*silu.*, got 'mish'"),
        (
            {"rope_parameters": {"rope_type": "spiral"}},
            r"'rope_type' of the rope must be one of default, .*, got 'spiral'",
        ),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, r"lacks 'low_freq_factor'"),
    ],
)
def test_a_config_that_makes_no_model(folder: Path, load: Load, changes: dict[str, Any], message: str) -> None:
    edit_config(folder, **changes)
    with pytest.raises(EngineError, match=message):
        load(folder)


def test_a_context_beyond_the_models(folder: Path, load: Load) -> None:
    with pytest.raises(ModelLoadError, match=r"max_model_len must be at most 256.*got 300"):
        load(folder, max_model_len=300)


def test_a_pool_too_small_names_the_longest_context_that_fits(folder: Path, load: Load) -> None:
    with pytest.raises(KVCapacityError, match=r"needs 196608 bytes .* 100000 are available; .* fits is 128 tokens"):
        load(folder, kv_cache_memory_bytes=100_000, max_model_len=256)
    load(folder, kv_cache_memory_bytes=100_000, max_model_len=128)


def test_without_a_length_the_pool_sets_it(folder: Path, load: Load) -> None:
    info = load(folder, kv_cache_memory_bytes=100_000).info
    assert (info.max_model_len, info.longest_context) == (128, 256)
    too_long = make_request("r", prompt(120), max_tokens=30)
    with pytest.raises(
        RequestRefusedError, match=r"98304 bytes holds a context of 128 tokens.* 150 together"
    ) as refused:
        check_request(too_long, info)
    assert refused.value.code == "kv_capacity_exceeded"
    with pytest.raises(RequestRefusedError) as refused:
        check_request(make_request("r", prompt(120), max_tokens=200), info)
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(KVCapacityError, match="request of 1 tokens needs 3072 bytes"):
        load(folder, kv_cache_memory_bytes=1000)


def test_gpt2_without_its_prefix(tmp_path: Path, load: Load) -> None:
    folder = save_model(build_model("gpt2"), tmp_path / "with")
    bare = save_model(build_model("gpt2"), tmp_path / "without")
    path = bare / "model.safetensors"
    save_file({name.removeprefix("transformer."): t for name, t in load_file(path).items()}, path)
    outputs = [tokens(run(load(f), [make_request("r", prompt(6))])["r"]) for f in (folder, bare)]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_dtype_runs(folder: Path, load: Load, dtype: str) -> None:
    core = load(folder, dtype=dtype)
    assert core.info.dtype == dtype
    assert core.info.ledger.weights_bytes == core.info.geometry.dtype_bytes * sum(
        parameter.numel() for parameter in build_model("llama").parameters()
    )
    assert len(tokens(run(core, [make_request("r", prompt(9), ignore_eos=True)])["r"])) == 16


EXPERT = "model.layers.1.block_sparse_moe.experts.{}.{}.weight"


@pytest.fixture
def mixtral(tmp_path: Path) -> Path:
    """Five experts a layer, 48 columns in, 56 between."""
    return save(build_oracle(ROWS["Mixtral-gqa"]), tmp_path)


def test_each_experts_tensors_become_one_parameter(mixtral: Path) -> None:
    checkpoint = read_checkpoint(mixtral)
    weight_map = build_weight_map(checkpoint.spec, checkpoint.tensor_names)
    parameters = load_parameters(checkpoint.spec, weight_map, checkpoint.headers, torch.float32, torch.device("cpu"))
    found = load_file(mixtral / "model.safetensors")
    for expert in range(5):
        gate, down, up = (found[EXPERT.format(expert, name)] for name in ("w1", "w2", "w3"))
        assert parameters["layers.1.experts.gate_up.weight"][expert].equal(torch.cat((gate, up)))
        assert parameters["layers.1.experts.down.weight"][expert].equal(down)


def test_a_missing_expert(mixtral: Path, load: Load) -> None:
    edit_tensors(mixtral, lambda found: found.__delitem__(EXPERT.format(2, "w3")))
    with pytest.raises(ModelLoadError, match=rf"missing {EXPERT.format(2, 'w3')}"):
        load(mixtral)


def test_an_expert_too_many(mixtral: Path, load: Load) -> None:
    edit_tensors(mixtral, lambda found: found.update({EXPERT.format(5, "w1"): torch.zeros(56, 48)}))
    with pytest.raises(ModelLoadError, match=rf"not expected {EXPERT.format(5, 'w1')}"):
        load(mixtral)


def test_an_expert_of_another_shape(mixtral: Path, load: Load) -> None:
    edit_tensors(mixtral, lambda found: found.update({EXPERT.format(2, "w2"): torch.zeros(56, 48)}))
    with pytest.raises(ModelLoadError, match=r"experts\.2\.w2\.weight': expected shape \[48, 56\], got \[56, 48\]"):
        load(mixtral)


def test_more_experts_a_token_than_there_are(mixtral: Path, load: Load) -> None:
    edit_config(mixtral, num_experts_per_tok=6)
    with pytest.raises(ModelLoadError, match=r"'num_experts_per_tok' must be at most .* \(5\), got 6"):
        load(mixtral)


def test_the_speed_is_in_the_log(folder: Path, load: Load, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="headcount.engine"):
        load(folder)
    num_bytes = (folder / "model.safetensors").stat().st_size
    [line] = [line for line in caplog.messages if "of weights" in line]
    assert re.fullmatch(r"loaded [\d.]+ KiB of weights in \d+\.\d\d s: [\d.,]+ \wiB/s", line)
    assert float(line.split()[1]) == pytest.approx(num_bytes / 1024, rel=0.1)


def test_a_file_is_read_in_the_order_of_its_data(folder: Path) -> None:
    checkpoint = read_checkpoint(folder)
    sources = match_names(build_weight_map(checkpoint.spec, checkpoint.tensor_names), checkpoint.headers)
    [(file, names)] = _by_file(sources, checkpoint.headers).items()
    assert file == folder / "model.safetensors"
    with safe_open(file, framework="pt") as opened:
        assert names == list(opened.offset_keys())
