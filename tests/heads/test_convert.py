"""Other numbers of key/value heads: what repeating keeps, what joining means, and what transformers makes of the result."""

import json
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from checkpoints.errors import DestinationError
from checkpoints.headers import read_headers
from engine.checkpoint import Checkpoint, read_checkpoint
from engine.errors import ModelLoadError
from heads.convert import convert_heads, possible_kv_heads
from heads.errors import HeadsError
from heads.rewriting import Rewrite, rewrite_checkpoint
from heads.weights import HeadWeights
from tests.engine.parity.harness import Served, assert_parity
from tests.engine.parity.oracles import build_oracle, save
from tests.engine.parity.rows import ROWS
from tests.engine.parity.rows.row import VOCAB_SIZE
from tests.engine.tiny_models import build_model, save_model

IDS = torch.randint(3, VOCAB_SIZE, (12,), generator=torch.Generator().manual_seed(1)).tolist()
FAMILIES = {row.model: name for name, row in reversed(ROWS.items()) if not name.endswith(("-mha", "-mqa"))}
"""A row for each architecture, of grouped heads where it has them."""
del FAMILIES["OpenELMForCausalLM"]  # Of its layers with different counts, those of MQA can be given the same number.
OTHER_LAYOUTS = ["Falcon-7b", "GPTBigCode-mqa", "Gemma3-vision", "OpenELM-mqa", "PicoLLM-mqa", "StableLm-qk-norm"]
ROTATABLE = ["Llama-mqa", "Glm-mqa", "GPTBigCode-mqa", "NanoChat-mqa"]
"""Rope of halves; of neighbours, in a part of the head, with biases; none, fused with biases; with norms without weights."""


def logits(folder: Path) -> Tensor:
    return Served(folder, max_model_len=16).logits([IDS], [[len(IDS)]])[0]


def head_counts(folder: Path) -> list[tuple[int, int]]:
    return [(layer.num_q_heads, layer.num_kv_heads) for layer in read_checkpoint(folder).spec.layers]


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """6 query heads on 2."""
    return save_model(build_model("llama"), tmp_path / "source")


@pytest.mark.parametrize("name", [*FAMILIES.values(), *OTHER_LAYOUTS])
def test_repeated_heads_compute_the_same_in_every_family(name: str, tmp_path: Path) -> None:
    source = save(build_oracle(ROWS[name]), tmp_path / "source")
    most = max(set.intersection(*(set(possible_kv_heads(layer)) for layer in read_checkpoint(source).spec.layers)))
    try:
        done = convert_heads(source, tmp_path / "more", most)
    except ModelLoadError as error:
        assert "no field for a number of key/value heads" in str(error)
        assert all(q == kv for q, kv in head_counts(source))
        return
    assert done.is_exact
    assert {kv for _, kv in head_counts(tmp_path / "more")} == {most}
    assert_parity(logits(tmp_path / "more"), logits(source), 1e-4)


@pytest.mark.parametrize("name", ["Llama-gqa", "Phi3-gqa", "Qwen3-gqa", "Falcon-new", "Falcon-7b", "GPTBigCode-mqa"])
def test_transformers_loads_what_comes_out_and_computes_the_same(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    source = save(build_oracle(row), tmp_path / "source")
    for num_kv_heads in (row.fields.get("num_attention_heads", row.fields.get("n_head")), 1):
        folder = tmp_path / str(num_kv_heads)
        convert_heads(source, folder, num_kv_heads, "mean")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import transformers

            model = getattr(transformers, row.model).from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            expected = model(torch.tensor([IDS])).logits[0]
        assert_parity(logits(folder), expected, 1e-4)


@pytest.mark.parametrize("name", ["GPT2-tied", "GPTNeoX-parallel"])
def test_a_family_that_cannot_say_it_is_refused_before_anything_is_written(name: str, tmp_path: Path) -> None:
    source = save(build_oracle(ROWS[name]), tmp_path / "source")
    with pytest.raises(ModelLoadError, match="has no field for a number of key/value heads"):
        convert_heads(source, tmp_path / "out", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_pooled_heads_are_means_and_first_ones_are_kept(llama: Path, tmp_path: Path) -> None:
    assert not convert_heads(llama, tmp_path / "mean", 1, "mean").is_exact
    convert_heads(llama, tmp_path / "first", 1, "first")
    had = load_file(llama / "model.safetensors")
    mean, first = (load_file(tmp_path / method / "model.safetensors") for method in ("mean", "first"))
    assert had.keys() == mean.keys() == first.keys()
    for name, tensor in had.items():
        if "k_proj" in name or "v_proj" in name:
            torch.testing.assert_close(mean[name], tensor.unflatten(0, (2, -1)).mean(0))
            torch.testing.assert_close(first[name], tensor.unflatten(0, (2, -1))[0])
        else:
            assert mean[name].equal(tensor)
            assert first[name].equal(tensor)


@pytest.mark.parametrize("name", ROTATABLE)
def test_heads_that_are_rotations_of_one_are_pooled_without_loss(name: str, tmp_path: Path) -> None:
    row = ROWS[name]
    source = save(build_oracle(row), tmp_path / "source")
    convert_heads(source, tmp_path / "mha", row.fields.get("num_attention_heads", row.fields.get("n_head")))
    rewrite_checkpoint(tmp_path / "mha", tmp_path / "rotated", rotate_at_random)
    assert_parity(logits(tmp_path / "rotated"), logits(source), 1e-4)
    convert_heads(tmp_path / "rotated", tmp_path / "aligned", 1, "aligned")
    assert_parity(logits(tmp_path / "aligned"), logits(source), 1e-3)
    convert_heads(tmp_path / "rotated", tmp_path / "mean", 1, "mean")
    assert (logits(tmp_path / "mean") - logits(source)).abs().max() > 0.1


def rotate_at_random(checkpoint: Checkpoint) -> Rewrite:
    """Every head in a basis of its own, and what reads it in the same."""

    def change(layer_idx: int, weights: HeadWeights) -> HeadWeights:
        rope = checkpoint.spec.layers[layer_idx].rope
        heads = [rotate_head(weights, head, rope) for head in range(weights.k.shape[0])]
        q, k, v, o = (
            torch.stack(parts, dim) for parts, dim in zip(zip(*heads, strict=True), (0, 0, 0, 1), strict=True)
        )
        return weights._replace(q=q, k=k, v=v, o=o)

    return Rewrite(checkpoint.config, checkpoint.spec, change)


def rotate_head(weights: HeadWeights, head: int, rope: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(head)
    width, turned = weights.k.shape[1], rope.rotary_dim if rope else 0
    turn_v = torch.linalg.qr(torch.randn(width, width, generator=generator))[0]
    turn_k = torch.eye(width)
    for pair in range(turned // 2):
        at = [2 * pair, 2 * pair + 1] if rope.is_interleaved else [pair, pair + turned // 2]
        angle = 6.28 * torch.rand((), generator=generator)
        small = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos())).view(2, 2)
        turn_k[torch.tensor(at)[:, None], torch.tensor(at)] = small
    free = width - turned
    turn_k[turned:, turned:] = torch.linalg.qr(torch.randn(free, free, generator=generator))[0]
    q, k, v, o = weights.q[head], weights.k[head], weights.v[head], weights.o[:, head]
    return turn_k @ q, turn_k @ k, turn_v @ v, o @ turn_v.T


def test_shards_stay_shards_and_other_files_come_along(tmp_path: Path) -> None:
    source = save_model(build_model("llama"), tmp_path / "source", max_shard_size="100KB")
    for name in ("tokenizer.json", "generation_config.json", "pytorch_model.bin", ".hidden"):
        (source / name).write_text("{}")
    convert_heads(source, tmp_path / "out", 6)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in source.iterdir()} - {"pytorch_model.bin", ".hidden"}
    places = [{n: h.file.name for n, h in read_headers(folder).items()} for folder in (source, tmp_path / "out")]
    assert places[0] == places[1]
    assert len(set(places[0].values())) > 2
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_key_value_heads"] == 6
    assert_parity(logits(tmp_path / "out"), logits(source), 1e-4)


def test_numbers_that_do_not_fit_are_refused_with_those_that_do(llama: Path, tmp_path: Path) -> None:
    for number in (0, 3, 4, 5, 12):
        with pytest.raises(HeadsError, match=rf"^{number} key/value heads cannot be made of 2 .* possible: 1, 2, 6$"):
            convert_heads(llama, tmp_path / "out", number)
    assert possible_kv_heads(read_checkpoint(llama).spec.layers[0]) == [1, 2, 6]
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_alignment_is_refused_where_a_rotation_would_show(tmp_path: Path) -> None:
    source = save(build_oracle(ROWS["Olmo-clipped"]), tmp_path / "source")
    with pytest.raises(HeadsError, match="clipped number by number; use the method mean"):
        convert_heads(source, tmp_path / "out", 1, "aligned")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_left_alone(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    with pytest.raises(DestinationError, match="exists already"):
        convert_heads(llama, tmp_path / "out", 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_disk_that_is_too_full_is_seen_first(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DestinationError, match=r"does not fit on its disk: expected .* free, got 1000 B"):
        convert_heads(llama, tmp_path / "below" / "out", 6)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


KILLED = """
import os, signal, sys
from pathlib import Path
from heads import rewriting
from heads.convert import convert_heads

whole = rewriting.write_shards
def write_some(folder, shards, on_progress):
    whole(folder, shards[:-1], on_progress)
    os.kill(os.getpid(), signal.SIGKILL)
rewriting.write_shards = write_some
convert_heads(Path(sys.argv[1]), Path(sys.argv[2]), 6)
"""


def test_a_killed_conversion_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    source = save_model(build_model("llama"), tmp_path / "source", max_shard_size="100KB")
    killed = subprocess.run([sys.executable, "-c", KILLED, source, tmp_path / "out"], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = {path.name for path in tmp_path.iterdir()}
    assert "out" not in left
    assert any(name.startswith(".out.part-") for name in left)
    convert_heads(source, tmp_path / "out", 6)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out"}
