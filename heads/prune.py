"""`headcount heads prune` as a whole: choose, measure, take out, measure again."""

from collections.abc import Sequence
from pathlib import Path

from checkpoints.folders import check_replaceable
from engine.checkpoint import read_checkpoint
from heads.errors import HeadsError
from heads.evaluation import foretell, load_for_evaluation, measure_speeds, read_windows
from heads.importance import head_importance, normalize
from heads.inspection import WINDOW_TOKENS
from heads.removal import Head, check_heads, choose_heads, remove_heads
from heads.results import Pruning
from heads.subject import load_subject


def prune_heads(
    source: Path,
    destination: Path,
    *,
    fraction: float | None = None,
    heads: Sequence[Head] = (),
    text: str = "",
) -> Pruning:
    """Write a checkpoint with fewer heads, and measure what it costs and what it gives.

    Args:
        source: a folder with config.json and safetensors.
        destination: the folder to make; it must not exist.
        fraction: of all query heads that go, the least important ones on `text`.
        heads: those that go, in place of a fraction.
        text: what importance and loss are measured on, or the name of a file; "": nothing is.

    Raises:
        HeadsError: the heads cannot be taken out, or what is needed to choose them is missing.
        EngineError, CheckpointError: the model cannot be read, or the destination is taken.
    """
    if (fraction is None) == (not heads):
        raise HeadsError("say either which share of the heads goes (fraction) or which heads")
    if fraction is not None and not text:
        raise HeadsError("a text is needed to find the least important heads")
    check_replaceable(destination, force=False)
    removed = _least_important(source, fraction, text) if fraction is not None else sorted(heads)
    check_heads(read_checkpoint(source).spec, removed)
    windows = read_windows(source, text) if text else []
    spec = remove_heads(source, destination, removed)
    cores = [load_for_evaluation(folder) for folder in (source, destination)]
    before, after = (foretell(core, windows) for core in cores)
    speed_before, speed_after = measure_speeds(cores)
    return Pruning(
        source=str(source),
        destination=str(destination),
        removed=list(removed),
        q_heads=[layer.num_q_heads for layer in spec.layers],
        kv_heads=[layer.num_kv_heads for layer in spec.layers],
        before=before.quality(before) if windows else None,
        after=after.quality(before) if windows else None,
        speed_before=speed_before,
        speed_after=speed_after,
    )


def _least_important(source: Path, fraction: float, text: str) -> list[Head]:
    subject = load_subject(source)
    spec = subject.decoder.spec
    windows = subject.windows(text, min(WINDOW_TOKENS, spec.max_position_embeddings))
    importance = [layer.tolist() for layer in normalize(head_importance(subject, windows))]
    return choose_heads(spec, importance, fraction)
