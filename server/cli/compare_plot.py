"""A comparison as one picture for a slide: a row a variant, its heads on the left, what they cost beside them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, FancyBboxPatch

from configs.sizes import format_bytes
from server.compare.report import Comparison, VariantReport

COLORS = {"mha": "#b3402a", "gqa": "#1f5f8b", "mqa": "#3d7a3a"}
"""The colour of each kind of attention, as in the other pictures of the docs."""
INK, FAINT, TRACK = "#1c1c1c", "#6a6a6a", "#efefec"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "figure.facecolor": "white",
    "text.color": INK,
    "text.parse_math": False,
}
ROW_INCHES, FRAME_INCHES, WIDTH_INCHES, DPI = 1.35, 2.6, 13.3, 150
BAR_HEIGHT, BAR_OFFSET = 0.15, 0.14
"""In rows: of a bar, and its place below the middle of its row, where the KV heads are drawn too."""
HEADING_Y = -0.88
"""In rows, the first of which is 0."""


class Column(NamedTuple):
    """One figure of every variant.

    Attributes:
        title: its heading, on two lines.
        value: of a variant.
        label: the value for people.
        mark: a second value on the same scale, drawn as a line across the bar.
    """

    title: str
    value: Callable[[VariantReport], float]
    label: Callable[[VariantReport], str]
    mark: Callable[[VariantReport], float] | None = None


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Write the picture, as a PNG."""
    mpl.use("Agg")
    with mpl.rc_context(STYLE):
        variants = comparison.variants
        figure = Figure(figsize=(WIDTH_INCHES, FRAME_INCHES + ROW_INCHES * len(variants)), dpi=DPI)
        height = figure.get_figheight()
        columns = _columns(comparison)
        grid = figure.add_gridspec(
            1,
            1 + len(columns),
            width_ratios=[1.75] + [1.0] * len(columns),
            left=0.025,
            right=0.985,
            top=1 - 1.75 / height,
            bottom=0.75 / height,
            wspace=0.16,
        )
        _draw_variants(figure.add_subplot(grid[0]), variants)
        for place, column in enumerate(columns, 1):
            _draw_column(figure.add_subplot(grid[place]), column, variants)
        _write_frame(figure, comparison)
        figure.savefig(path)


def _columns(comparison: Comparison) -> list[Column]:
    def milliseconds(seconds: float) -> str:
        return f"{seconds:,.1f} s" if seconds >= 1 else f"{1000 * seconds:,.0f} ms"

    return [
        Column(
            "KV cache\nof one token",
            lambda variant: variant.planned.kv_bytes_per_token,
            lambda variant: format_bytes(variant.planned.kv_bytes_per_token),
        ),
        Column(
            f"Requests of {comparison.request_tokens:,}\ntokens at once",
            lambda variant: variant.num_requests_reached,
            lambda variant: f"{variant.num_requests_reached:,}",
            mark=lambda variant: variant.planned.num_requests,
        ),
        Column(
            "Output tokens\na second",
            lambda variant: variant.load.output_tokens_per_s,
            lambda variant: f"{variant.load.output_tokens_per_s:,.0f}",
        ),
        Column(
            "Time to first\ntoken, median",
            lambda variant: variant.load.ttft_s["p50"],
            lambda variant: milliseconds(variant.load.ttft_s["p50"]),
        ),
        Column(
            "KV read for a\ndecoded token",
            lambda variant: variant.kv_read_bytes_per_token,
            lambda variant: format_bytes(round(variant.kv_read_bytes_per_token)),
        ),
    ]


def _draw_column(axes: Axes, column: Column, variants: Sequence[VariantReport]) -> None:
    """A bar a variant on a faint track, its number above it."""
    values = [column.value(variant) for variant in variants]
    marks = [column.mark(variant) for variant in variants] if column.mark else []
    longest = max([*values, *marks]) or 1.0
    places = range(len(variants))
    bars = [place + BAR_OFFSET for place in places]
    axes.barh(bars, [longest] * len(variants), height=BAR_HEIGHT, color=TRACK)
    axes.barh(bars, values, height=BAR_HEIGHT, color=[_color(variant) for variant in variants])
    for bar, mark in zip(bars, marks, strict=False):
        axes.vlines(mark, bar - 0.15, bar + 0.15, color=INK, linewidth=1.8, clip_on=False)
    for place, variant in zip(places, variants, strict=True):
        axes.text(0, place - 0.03, column.label(variant), fontsize=17, fontweight="bold")
    axes.text(0, HEADING_Y, column.title, fontsize=11.5, color=FAINT, va="top", linespacing=1.25)
    axes.set_xlim(0, longest)
    _strip(axes, len(variants))


def _draw_variants(axes: Axes, variants: Sequence[VariantReport]) -> None:
    """The name of each variant, and its query heads over the KV heads that they share."""
    axes.set_xlim(0, 1)
    _strip(axes, len(variants))
    for place, variant in enumerate(variants):
        planned, tokens = variant.planned, variant.tokens
        heads = f"{planned.num_kv_heads} KV head{'s' * (planned.num_kv_heads != 1)}"
        axes.text(
            0, place - 0.27, planned.attention_type.upper(), fontsize=19, fontweight="bold", color=_color(variant)
        )
        axes.text(0.27, place - 0.27, heads, fontsize=12, color=INK)
        said = "the model itself" if planned.method == "source" else _said_of_tokens(variant, is_equal=tokens.is_equal)
        axes.text(0, place + 0.37, said, fontsize=9.5, color=FAINT, va="center")
    # Drawn in inches, so that circles are round whatever the proportions of the axes.
    figure = axes.figure
    figure.canvas.draw()
    box = axes.get_window_extent()
    width, row = box.width / figure.dpi, box.height / figure.dpi / len(variants)
    for place, variant in enumerate(variants):
        _draw_heads(axes, variant, y=place, width=width, row=row)


def _said_of_tokens(variant: VariantReport, *, is_equal: bool) -> str:
    if is_equal:
        return "the model's own tokens, every one"
    made = "heads joined, not trained further" if not variant.tokens.is_expected else "heads repeated"
    return f"other tokens: {made}"


def _draw_heads(axes: Axes, variant: VariantReport, *, y: float, width: float, row: float) -> None:
    """Query heads as rings, KV heads as bars below them; `width` and `row` are inches of the axes and of a row."""
    planned = variant.planned
    pitch = min(0.235, 0.92 * width / planned.num_q_heads)
    group = planned.num_q_heads // planned.num_kv_heads
    radius, gap = 0.36 * pitch, 0.30 * pitch
    color = _color(variant)
    for head in range(planned.num_q_heads):
        x = (head + 0.5) * pitch / width
        axes.add_patch(_ellipse(x, y - 0.06, radius / width, radius / row, color))
    for head in range(planned.num_kv_heads):
        left, right = head * group * pitch + gap / 2, (head + 1) * group * pitch - gap / 2
        axes.add_patch(
            FancyBboxPatch(
                (left / width, y + BAR_OFFSET - 0.04),
                (right - left) / width,
                0.08,
                boxstyle="round,pad=0,rounding_size=0.008",
                mutation_aspect=width / row,
                facecolor=color,
                edgecolor="none",
            )
        )


def _ellipse(x: float, y: float, width: float, height: float, color: str) -> Ellipse:
    """A ring that is round on paper, in axes whose units differ."""
    return Ellipse((x, y), 2 * width, 2 * height, facecolor="white", edgecolor=color, linewidth=1.6)


def _write_frame(figure: Figure, comparison: Comparison) -> None:
    settings, height = comparison.settings, figure.get_figheight()
    load, machine = settings["workload"], comparison.machine
    budget = format_bytes(settings["kv_cache_memory_bytes"])
    figure.text(0.025, 1 - 0.52 / height, "What key/value heads cost", fontsize=24, fontweight="bold", va="center")
    figure.text(
        0.025,
        1 - 0.93 / height,
        f"{comparison.checkpoint}: {budget} of KV cache for each variant, then {load['num_requests']} requests"
        f" of {load['prompt_tokens']} + {load['max_tokens']} tokens, {load['concurrency']} at a time",
        fontsize=13,
        color=FAINT,
        va="center",
    )
    figure.text(
        0.025,
        0.32 / height,
        f"{machine['cpu']}, {machine['cores']} cores, {comparison.device['dtype']} on {comparison.device['device']}; load"
        f" average {comparison.load_average[1]:.1f}. Rings: query heads; below them the key/value heads they"
        f" share. Black mark: planned. headcount {comparison.versions.get('headcount', '')}, {comparison.time[:10]}",
        fontsize=9,
        color=FAINT,
        va="center",
    )


def _strip(axes: Axes, num_rows: int) -> None:
    """Nothing but what is drawn, the first variant on top, and a hairline above each."""
    for row in range(num_rows):
        axes.axhline(row - 0.53, color="#dcdcd8", linewidth=0.8, clip_on=False)
    axes.set_ylim(num_rows - 0.5, -0.5)
    axes.axis("off")


def _color(variant: VariantReport) -> str:
    return COLORS.get(variant.planned.attention_type, FAINT)
