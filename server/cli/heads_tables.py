"""What `headcount heads` prints."""

from collections.abc import Callable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from heads.results import AblatedHead, Ablation, Conversion, HeadFigures, Inspection, Pruning, Quality, Speed

NUM_LISTED = 4
FINDINGS: tuple[tuple[str, str, Callable[[HeadFigures], float]], ...] = (
    ("the token before", "share", lambda head: head.previous_token),
    ("what followed this token (induction)", "share", lambda head: head.induction),
    ("the first token (sink)", "share", lambda head: head.first_token),
    ("delimiters", "share", lambda head: head.delimiter),
    ("most of the context", "entropy, nats", lambda head: head.entropy),
    ("matter most", "importance", lambda head: head.relative_importance),
    ("matter least", "importance", lambda head: -head.relative_importance),
    ("most like another one", "distance, bits", lambda head: -(head.nearest_distance or 0.0)),
)
"""What the heads that lead in a figure look at, or are; what the number is; and how they are ranked."""

POOLED_WARNING = (
    "[yellow]Heads were joined: the outputs differ from the source's, and quality falls without further training.[/]"
)


def print_conversion(made: Conversion, console: Console) -> None:
    """What was made, and how good it is where that was measured."""
    before = sorted(set(made.kv_heads_before))
    console.print(f"{made.destination}: {made.num_kv_heads} key/value heads in every layer, from {_numbers(before)}")
    if made.before and made.after:
        console.print(_quality(made.before, made.after))
    console.print("Heads were repeated: the outputs are the source's." if made.is_exact else POOLED_WARNING)


def print_inspection(found: Inspection, console: Console) -> None:
    """Importance by layer and head, then the heads that lead in each figure."""
    console.print(
        f"{found.model}: {len(found.heads)} query heads over {found.num_tokens:,} tokens in windows of"
        f" {found.window_tokens}; loss {found.loss:.4f} nats a token"
    )
    console.print(_importance(found))
    table = Table(title="Leading heads (layer.head)", box=SIMPLE_HEAD, title_justify="left", padding=(0, 1, 0, 0))
    for heading in ("look at, or are", "", *[""] * NUM_LISTED):
        table.add_column(heading)
    for words, unit, rank in FINDINGS:
        leading = sorted(found.heads, key=rank, reverse=True)[:NUM_LISTED]
        table.add_row(words, f"[dim]{unit}[/]", *(f"[bold]{h.layer}.{h.head}[/] {abs(rank(h)):.2f}" for h in leading))
    console.print(table)


def _importance(found: Inspection) -> Table:
    table = Table(title="Importance by layer (rows) and query head", box=SIMPLE_HEAD, title_justify="left", padding=0)
    table.add_column("layer", justify="right")
    by_layer: dict[int, list[float]] = {}
    for head in found.heads:
        by_layer.setdefault(head.layer, []).append(head.relative_importance)
    for head_idx in range(max(map(len, by_layer.values()))):
        table.add_column(str(head_idx), justify="right", no_wrap=True)
    for layer, values in by_layer.items():
        table.add_row(str(layer), *(f" {value:.2f}" for value in values))
    return table


def print_ablation(found: Ablation, console: Console) -> None:
    """The loss without each head, beside what was expected of it."""
    console.print(f"{found.model}: loss {found.loss:.4f} nats a token over {found.num_tokens:,} tokens, with all heads")
    table = Table(box=SIMPLE_HEAD)
    for heading in ("without head", "importance", "loss change"):
        table.add_column(heading, justify="right")
    _add_ablated(table, found.most_important)
    table.add_section()
    _add_ablated(table, found.least_important)
    console.print(table)


def _add_ablated(table: Table, heads: list[AblatedHead]) -> None:
    for head in heads:
        table.add_row(f"{head.layer}.{head.head}", f"{head.importance:.3f}", f"{head.loss_change:+.5f}")


def print_pruning(done: Pruning, console: Console) -> None:
    """What went, what that costs and what it gives."""
    total = sum(done.q_heads) + len(done.removed)
    console.print(f"{done.destination}: {len(done.removed)} of {total} query heads are gone:")
    console.print(", ".join(f"{layer}.{head}" for layer, head in done.removed))
    console.print(f"query heads by layer: {_numbers(done.q_heads)}; key/value heads: {_numbers(done.kv_heads)}")
    if done.before and done.after:
        console.print(_quality(done.before, done.after))
    console.print(_speed(done.speed_before, done.speed_after))


def _quality(before: Quality, after: Quality) -> Table:
    table = Table(title=f"On {before.num_tokens:,} tokens", box=SIMPLE_HEAD, title_justify="left")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("loss, nats a token", f"{before.loss:.4f}", f"{after.loss:.4f}")
    table.add_row("perplexity", f"{before.perplexity:,.2f}", f"{after.perplexity:,.2f}")
    table.add_row("first choice is the source's", f"{before.top1_agreement:.1%}", f"{after.top1_agreement:.1%}")
    return table


def _speed(before: Speed, after: Speed) -> Table:
    title = f"{before.batch_size} requests of {before.prompt_tokens} tokens at once, on this machine"
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for heading in ("", "before", "after"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("weights, bytes", f"{before.weights_bytes:,}", f"{after.weights_bytes:,}")
    table.add_row("KV cache, bytes a token", f"{before.kv_bytes_per_token:,}", f"{after.kv_bytes_per_token:,}")
    table.add_row(
        "prefill, tokens a second", f"{before.prefill_tokens_per_s:,.0f}", f"{after.prefill_tokens_per_s:,.0f}"
    )
    table.add_row("decode, tokens a second", f"{before.decode_tokens_per_s:,.1f}", f"{after.decode_tokens_per_s:,.1f}")
    return table


def _numbers(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
