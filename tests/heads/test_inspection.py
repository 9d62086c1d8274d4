"""Models made so that the answers are known."""

from pathlib import Path

import msgspec
import pytest
import torch

from heads.ablation import ablate_heads, without
from heads.errors import HeadsError
from heads.importance import head_importance
from heads.inspection import inspect_heads
from heads.plots import draw_inspection
from heads.results import Inspection
from heads.subject import load_subject, mean_loss
from heads.texts import MAX_TEXT_TOKENS, cut_windows, read_text
from heads.weights import HeadWeights
from tests.engine.tiny_models import build_model, save_model
from tests.heads.tiny import TEXT, add_tokenizer, change_heads

WINDOW = 16
WIDTH = 48


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 query heads on 2, of which 0 and 1 are copies, and 3 says nothing."""
    folder = tmp_path_factory.mktemp("models")
    source = add_tokenizer(save_model(build_model("llama"), folder / "source"))

    def change(layer_idx: int, weights: HeadWeights) -> HeadWeights:
        weights.q[1] = weights.q[0]
        weights.o[:, 3] = 0
        return weights

    return change_heads(source, folder / "llama", change)


@pytest.fixture(scope="module")
def found(llama: Path) -> Inspection:
    return inspect_heads(llama, TEXT, WINDOW, model="tiny")


@torch.no_grad()
def looking_back(folder: Path) -> Path:
    """A GPT-2 whose stream holds positions only, and whose first head looks for the position before."""
    model = build_model("gpt2", n_head=3, n_positions=WINDOW)
    head_dim = WIDTH // 3
    model.transformer.wte.weight.zero_()
    model.transformer.wpe.weight.copy_(torch.eye(WINDOW, WIDTH))
    qkv = torch.zeros(WIDTH, 3, 3, head_dim, dtype=torch.float64)
    qkv[:head_dim, 1, 0] = torch.eye(head_dim)
    qkv[1:head_dim, 0, 0] = 100 * torch.eye(head_dim)[:-1]
    for block in model.transformer.h:
        block.attn.c_attn.weight.copy_(qkv.flatten(1))
        block.attn.c_proj.weight.zero_()
        block.mlp.c_proj.weight.zero_()
    return add_tokenizer(save_model(model, folder))


def test_a_head_made_to_look_at_the_token_before_scores_1(tmp_path: Path) -> None:
    heads = inspect_heads(looking_back(tmp_path), TEXT, WINDOW).heads
    first = heads[0]
    assert (first.layer, first.head) == (0, 0)
    assert first.previous_token == pytest.approx(1, abs=1e-4)
    assert first.entropy == pytest.approx(0, abs=1e-3)
    assert heads[1].previous_token < 0.5


def test_copies_have_distance_0_and_a_silent_head_importance_0(found: Inspection) -> None:
    for layer, (distances, similarity) in enumerate(zip(found.js_divergence, found.cosine_similarity, strict=True)):
        heads = [head for head in found.heads if head.layer == layer]
        assert distances[0][1] == pytest.approx(0, abs=1e-6)
        assert similarity[0][1] == pytest.approx(1, abs=1e-6)
        assert heads[0].nearest_distance == pytest.approx(0, abs=1e-6)
        assert distances[0][2] > 1e-5
        assert heads[3].importance == 0
        assert sum(head.relative_importance**2 for head in heads) == pytest.approx(1)
        assert [head.kv_head for head in heads] == [0, 0, 0, 1, 1, 1]


def test_the_figures_add_up(found: Inspection) -> None:
    assert found.num_tokens == 60
    assert len(found.heads) == 18
    for head in found.heads:
        assert all(0 <= share <= 1 for share in (head.previous_token, head.first_token, head.delimiter, head.induction))
    assert any(head.delimiter > 0.1 for head in found.heads)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Inspection) == found


def test_leaving_a_head_out_changes_the_loss_as_its_importance_says_to_first_order(llama: Path) -> None:
    subject = load_subject(llama)
    [window] = subject.windows(" ".join(TEXT.split()[:WINDOW]), WINDOW)
    importance = head_importance(subject, [window])
    factors = subject.all_heads()
    factors[1][2] -= 0.01
    change = (mean_loss(subject, [window], factors) - mean_loss(subject, [window])) / 0.01
    assert abs(change) == pytest.approx(float(importance[1][2]), rel=0.05, abs=1e-5)
    assert mean_loss(subject, [window], without(subject, 0, 3)) == mean_loss(subject, [window])


def test_ablation_ranks_by_importance_and_measures_both_ends(llama: Path, found: Inspection) -> None:
    done = ablate_heads(llama, TEXT, 3, WINDOW)
    assert done.loss == pytest.approx(found.loss)
    ranked = sorted(found.heads, key=lambda head: -head.relative_importance)
    assert [(head.layer, head.head) for head in done.most_important] == [(h.layer, h.head) for h in ranked[:3]]
    assert {head.head for head in done.least_important} == {3}
    assert [head.loss_change for head in done.least_important] == [0.0, 0.0, 0.0]
    assert any(head.loss_change != 0 for head in done.most_important)
    with pytest.raises(HeadsError, match="must be 1 to 9, half of the model's 18, got 10"):
        ablate_heads(llama, TEXT, 10, WINDOW)


def test_the_pictures_are_drawn(found: Inspection, tmp_path: Path) -> None:
    files = draw_inspection(found, tmp_path / "new")
    assert [file.name for file in files] == ["heads.png", "distances.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)


def test_texts_that_cannot_be_looked_at(llama: Path, tmp_path: Path) -> None:
    subject = load_subject(llama)
    for text, window, message in (
        ("w1 w2 w3", WINDOW, "the text must be at least 8 tokens, got 3"),
        (TEXT, 4, "the window must be at least 8 tokens, got 4"),
        (TEXT, 300, "at most the model's context of 256 tokens, got 300"),
    ):
        with pytest.raises(HeadsError, match=message):
            subject.windows(text, window)
    with pytest.raises(HeadsError, match=r"may be at most 16,384 tokens, got 16,385"):
        cut_windows([0] * (MAX_TEXT_TOKENS + 1), WINDOW)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HeadsError, match="is no UTF-8 text"):
        read_text(str(tmp_path / "binary"))


def test_a_text_is_a_file_or_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("inside")
    assert read_text(str(tmp_path / "file")) == "inside"
    for text in ("outside", "long " * 1000, "nul \0"):
        assert read_text(text) == text


def test_a_short_rest_is_left_out() -> None:
    assert [len(window) for window in cut_windows(list(range(21)), 16)] == [16]
    assert [len(window) for window in cut_windows(list(range(24)), 16)] == [16, 8]
