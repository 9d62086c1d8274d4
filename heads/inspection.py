"""The figures of every head of a model over a text."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from engine.observing import attention_weights
from heads import patterns
from heads.importance import head_importance, normalize
from heads.results import HeadFigures, Inspection
from heads.subject import Subject, load_subject, mean_loss
from heads.texts import find_delimiters

WINDOW_TOKENS = 256
NUM_REPEATED_TOKENS = 64
"""Of the random text that is repeated to find induction heads."""
SHARES = ("entropy", "previous_token", "first_token", "delimiter")
PAIRS = ("cosine_similarity", "js_divergence")

Figures = dict[str, list[Tensor]]
"""Name of a figure -> a layer each."""


def inspect_heads(folder: Path, text: str, window_tokens: int = WINDOW_TOKENS, *, model: str = "") -> Inspection:
    """Look at every head of a model while it reads a text.

    Args:
        folder: of the checkpoint.
        text: the text, or the name of a file that holds it.
        window_tokens: the text is cut into pieces of this length, each read from its own beginning.
        model: what to call it.

    Raises:
        HeadsError: the text is too short or too long, or the window longer than the model's context.
        EngineError, CheckpointError: the model cannot be loaded.
    """
    subject = load_subject(folder)
    windows = subject.windows(text, window_tokens)
    figures = average_figures(subject, windows)
    figures["induction"] = _induction(subject)
    importance = head_importance(subject, windows)
    figures |= {"importance": importance, "relative_importance": normalize(importance)}
    return Inspection(
        model=model or str(folder),
        num_tokens=sum(map(len, windows)),
        window_tokens=window_tokens,
        loss=mean_loss(subject, windows),
        heads=list(_by_head(subject, figures)),
        cosine_similarity=[layer.tolist() for layer in figures["cosine_similarity"]],
        js_divergence=[layer.tolist() for layer in figures["js_divergence"]],
    )


def average_figures(subject: Subject, windows: list[list[int]]) -> Figures:
    """What can be read off attention weights, as means over windows."""
    found: list[list[dict[str, Tensor]]] = []
    for window in windows:
        is_delimiter = torch.tensor(find_delimiters(subject.tokenizer, window), device=subject.decoder.device)
        found.append([_figures(layer, is_delimiter) for layer in attention_weights(subject.decoder, window)])
    return {
        name: [torch.stack([layer[name] for layer in layers]).mean(0) for layers in zip(*found, strict=True)]
        for name in (*SHARES, *PAIRS)
    }


def _figures(weights: Tensor, is_delimiter: Tensor) -> dict[str, Tensor]:
    return {
        "entropy": patterns.entropy(weights),
        "previous_token": patterns.previous_token(weights),
        "first_token": patterns.first_token(weights),
        "delimiter": patterns.share_of(weights, is_delimiter),
        "cosine_similarity": patterns.cosine_similarity(weights),
        "js_divergence": patterns.js_divergence(weights),
    }


def _induction(subject: Subject) -> list[Tensor]:
    """Over a random text, twice."""
    spec = subject.decoder.spec
    half = min(NUM_REPEATED_TOKENS, spec.max_position_embeddings // 2)
    once = torch.randint(0, spec.vocab_size, (half,), generator=torch.Generator().manual_seed(0)).tolist()
    return [patterns.induction(layer) for layer in attention_weights(subject.decoder, [*once, *once])]


def _by_head(subject: Subject, figures: Figures) -> Iterator[HeadFigures]:
    names = (*SHARES, "induction", "importance", "relative_importance")
    for layer_idx, layer in enumerate(subject.decoder.spec.layers):
        values = {name: figures[name][layer_idx].tolist() for name in names}
        nearest = _nearest(figures["js_divergence"][layer_idx])
        for head in range(layer.num_q_heads):
            yield HeadFigures(
                layer=layer_idx,
                head=head,
                kv_head=head * layer.num_kv_heads // layer.num_q_heads,
                nearest_distance=nearest[head] if nearest else None,
                **{name: values[name][head] for name in names},
            )


def _nearest(distances: Tensor) -> list[float]:
    """Of each head, the distance to the nearest other; none where it is alone."""
    if len(distances) == 1:
        return []
    others = distances + torch.diag(torch.full_like(distances.diagonal(), torch.inf))
    nearest: list[float] = others.min(1).values.tolist()
    return nearest
