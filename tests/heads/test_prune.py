"""Checkpoints with fewer heads: they compute what the model computes where those say nothing."""

import json
import warnings
from pathlib import Path

import pytest
import torch

from checkpoints.errors import DestinationError
from engine.checkpoint import read_checkpoint
from heads.errors import HeadsError
from heads.prune import prune_heads
from heads.removal import choose_heads, find_units, remove_heads
from heads.weights import HeadWeights
from tests.engine.parity.harness import Served, assert_parity
from tests.engine.parity.oracles import build_oracle, save
from tests.engine.parity.rows import ROWS
from tests.engine.parity.rows.row import VOCAB_SIZE
from tests.engine.tiny_models import build_model, save_model
from tests.heads.tiny import TEXT, add_tokenizer, change_heads

IDS = torch.randint(3, VOCAB_SIZE, (12,), generator=torch.Generator().manual_seed(1)).tolist()
GROUP = [(0, 0), (0, 1), (0, 2)]
"""The first key/value head of layer 0, of 6 query heads on 2."""


def logits(folder: Path) -> torch.Tensor:
    return Served(folder, max_model_len=16).logits([IDS], [[len(IDS)]])[0]


def silence(source: Path, folder: Path, heads: list[tuple[int, int]]) -> Path:
    def change(layer_idx: int, weights: HeadWeights) -> HeadWeights:
        weights.o[:, [head for layer, head in heads if layer == layer_idx]] = 0
        return weights

    return change_heads(source, folder, change)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return add_tokenizer(save_model(build_model("llama"), tmp_path / "source"))


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("Llama-gqa", GROUP),
        ("Llama-biases-tied", GROUP),
        ("Llama-mha", [(1, 4), (2, 0), (2, 5)]),
        ("Llama-mqa", [(0, 1), (0, 5)]),
        ("Phi3-gqa", GROUP),
        ("Qwen3-gqa", GROUP),
        ("GptOss-gqa", GROUP),
        ("StableLm-qk-norm", GROUP),
        ("OpenELM-mha", [(0, 0), (1, 1)]),
    ],
)
def test_what_is_left_computes_what_silent_heads_leave(name: str, heads: list[tuple[int, int]], tmp_path: Path) -> None:
    source = save(build_oracle(ROWS[name]), tmp_path / "source")
    spec = remove_heads(source, tmp_path / "pruned", heads)
    assert sum(layer.num_q_heads for layer in spec.layers) == (
        sum(layer.num_q_heads for layer in read_checkpoint(source).spec.layers) - len(heads)
    )
    assert_parity(logits(tmp_path / "pruned"), logits(silence(source, tmp_path / "silent", heads)), 1e-4)
    assert not torch.allclose(logits(tmp_path / "pruned"), logits(source), atol=1e-3)


def test_where_all_layers_come_out_alike_transformers_loads_it(llama: Path, tmp_path: Path) -> None:
    remove_heads(llama, tmp_path / "pruned", [(layer, head) for layer in range(3) for head in (0, 1, 2)])
    config = json.loads((tmp_path / "pruned" / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (3, 1, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "pruned", dtype=torch.float32)
    with torch.no_grad():
        assert_parity(logits(tmp_path / "pruned"), model(torch.tensor([IDS])).logits[0], 1e-4)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ([(0, 0)], r"heads that share a key/value head can only go together: 0\.0,0\.1,0\.2"),
        ([(3, 0)], r"there is no head 3\.0: layers go from 0 to 2"),
        ([(0, 6)], r"there is no head 0\.6: the query heads of layer 0 go from 0 to 5"),
        ([(0, head) for head in range(6)], "layer 0 would have no heads left: keep some of its 6"),
    ],
)
def test_heads_that_cannot_go(llama: Path, tmp_path: Path, heads: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(HeadsError, match=message):
        prune_heads(llama, tmp_path / "out", heads=heads)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "heads", "message"),
    [
        ("Olmo2-gqa", GROUP, "normalises all heads of a layer together"),
        ("GPT2-tied", [(0, 1)], "cannot state head counts that differ from layer to layer"),
        ("Bloom-six-heads", [(0, 1)], "cannot state head counts"),
    ],
)
def test_families_that_cannot(name: str, heads: list[tuple[int, int]], message: str, tmp_path: Path) -> None:
    source = save(build_oracle(ROWS[name]), tmp_path / "source")
    with pytest.raises(HeadsError, match=message):
        remove_heads(source, tmp_path / "out", heads)
    assert not (tmp_path / "out").exists()


def test_the_least_important_groups_go_first_and_every_layer_keeps_one(llama: Path) -> None:
    spec = read_checkpoint(llama).spec
    assert [unit.q_heads for unit in find_units(spec)] == [(0, 1, 2), (3, 4, 5)] * 3
    importance = [[0.1, 0.1, 0.1, 0.2, 0.2, 0.2], [0.3] * 6, [0.9] * 6]
    assert choose_heads(spec, importance, 0.2) == GROUP
    assert choose_heads(spec, importance, 0.34) == [*GROUP, (1, 0), (1, 1), (1, 2)]
    assert len(choose_heads(spec, importance, 0.99)) == 9
    for fraction, message in ((0.1, "takes out nothing"), (1.0, "more than 0 and less than 1"), (0.0, "more than 0")):
        with pytest.raises(HeadsError, match=message):
            choose_heads(spec, importance, fraction)


def test_pruning_by_importance_measures_before_and_after(llama: Path, tmp_path: Path) -> None:
    done = prune_heads(llama, tmp_path / "out", fraction=0.2, text=TEXT)
    assert sorted(done.kv_heads) == [1, 2, 2]
    assert sorted(done.q_heads) == [3, 6, 6]
    assert done.before is not None
    assert done.after is not None
    assert done.before.top1_agreement == 1
    assert done.after.loss != done.before.loss
    assert done.speed_after.kv_bytes_per_token * 6 == done.speed_before.kv_bytes_per_token * 5
    assert done.speed_after.weights_bytes < done.speed_before.weights_bytes
    assert done.speed_after.decode_tokens_per_s > 0
    assert read_checkpoint(tmp_path / "out").spec.layers[done.removed[0][0]].num_kv_heads == 1


def test_what_prune_must_be_told(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(HeadsError, match="either which share"):
        prune_heads(llama, tmp_path / "out")
    with pytest.raises(HeadsError, match="a text is needed"):
        prune_heads(llama, tmp_path / "out", fraction=0.5)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(DestinationError, match="exists already"):
        prune_heads(llama, tmp_path / "out", fraction=0.5, text=TEXT)
