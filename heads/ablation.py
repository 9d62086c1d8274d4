"""What the model really loses without a head."""

from pathlib import Path

from torch import Tensor

from heads.errors import HeadsError
from heads.importance import head_importance, normalize
from heads.inspection import WINDOW_TOKENS
from heads.results import AblatedHead, Ablation
from heads.subject import Subject, load_subject, mean_loss


def ablate_heads(
    folder: Path, text: str, num_heads: int, window_tokens: int = WINDOW_TOKENS, *, model: str = ""
) -> Ablation:
    """Leave out the heads of most and of least importance, one at a time, and measure the loss each time.

    Args:
        folder: of the checkpoint.
        text: the text, or the name of a file that holds it.
        num_heads: how many of each kind.
        window_tokens: see inspect_heads.
        model: what to call it.

    Raises:
        HeadsError: as inspect_heads, or there are not that many heads.
        EngineError, CheckpointError: the model cannot be loaded.
    """
    subject = load_subject(folder)
    total = sum(layer.num_q_heads for layer in subject.decoder.spec.layers)
    if not 1 <= num_heads <= total // 2:
        raise HeadsError(f"the number of heads must be 1 to {total // 2}, half of the model's {total}, got {num_heads}")
    windows = subject.windows(text, window_tokens)
    importance = [layer.tolist() for layer in normalize(head_importance(subject, windows))]
    ranked = sorted(
        ((value, layer, head) for layer, values in enumerate(importance) for head, value in enumerate(values)),
        reverse=True,
    )
    loss = mean_loss(subject, windows)

    def measure(places: list[tuple[float, int, int]]) -> list[AblatedHead]:
        return [
            AblatedHead(layer, head, value, mean_loss(subject, windows, without(subject, layer, head)) - loss)
            for value, layer, head in places
        ]

    return Ablation(
        model=model or str(folder),
        num_tokens=sum(map(len, windows)),
        window_tokens=window_tokens,
        loss=loss,
        most_important=measure(ranked[:num_heads]),
        least_important=measure(ranked[::-1][:num_heads]),
    )


def without(subject: Subject, layer: int, head: int) -> list[Tensor]:
    """Factors that silence one head."""
    factors = subject.all_heads()
    factors[layer][head] = 0.0
    return factors
