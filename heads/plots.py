"""Inspections as pictures. Matplotlib, without a window and without the process's global state. No torch."""

import math
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heads.results import HeadFigures, Inspection

PANELS: tuple[tuple[str, Callable[[HeadFigures], float]], ...] = (
    ("Importance, relative to the layer", lambda head: head.relative_importance),
    ("Attention to the token before", lambda head: head.previous_token),
    ("Attention to the first token (sink)", lambda head: head.first_token),
    ("Induction", lambda head: head.induction),
    ("Attention to delimiters", lambda head: head.delimiter),
    ("Entropy, nats", lambda head: head.entropy),
)
INCHES_PER_CELL = 0.26
COLUMNS_OF_LAYERS = 6
DPI = 120


def draw_inspection(found: Inspection, folder: Path) -> list[Path]:
    """Write heads.png (layers by heads, a panel a figure) and distances.png (head by head, a panel a layer).

    Args:
        found: what to draw.
        folder: made where it does not exist.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"heads.png": _draw_heads(found), "distances.png": _draw_distances(found)}
    for name, figure in drawn.items():
        FigureCanvasAgg(figure)
        figure.savefig(folder / name)
    return [folder / name for name in drawn]


def _draw_heads(found: Inspection) -> Figure:
    num_layers = found.heads[-1].layer + 1
    num_heads = max(head.head for head in found.heads) + 1
    width, height = max(2.6, INCHES_PER_CELL * num_heads + 1.4), max(2.2, INCHES_PER_CELL * 0.75 * num_layers + 0.8)
    figure = Figure(figsize=(3 * width, 2 * height), dpi=DPI, layout="constrained")
    figure.suptitle(f"{found.model}: {len(found.heads)} query heads over {found.num_tokens:,} tokens")
    for axes, (title, read) in zip(figure.subplots(2, 3).flat, PANELS, strict=True):
        grid = [[math.nan] * num_heads for _ in range(num_layers)]
        for head in found.heads:
            grid[head.layer][head.head] = read(head)
        image = axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0)
        axes.set_title(title, fontsize=9)
        _label(axes, "query head", "layer")
        figure.colorbar(image, ax=axes)
    return figure


def _draw_distances(found: Inspection) -> Figure:
    num_rows = -(-len(found.js_divergence) // COLUMNS_OF_LAYERS)
    figure = Figure(figsize=(1.9 * COLUMNS_OF_LAYERS, 2.1 * num_rows + 0.6), dpi=DPI, layout="constrained")
    figure.suptitle(f"{found.model}: how differently two heads of a layer attend (Jensen-Shannon divergence, bits)")
    every = figure.subplots(num_rows, COLUMNS_OF_LAYERS, squeeze=False)
    for axes in every.flat:
        axes.set_axis_off()
    for layer, (axes, distances) in enumerate(zip(every.flat, found.js_divergence, strict=False)):
        axes.set_axis_on()
        image = axes.imshow(distances, cmap="viridis", vmin=0, vmax=1)
        axes.set_title(f"layer {layer}", fontsize=8)
        _label(axes, "", "")
    figure.colorbar(image, ax=every, shrink=0.6)
    return figure


def _label(axes: Axes, below: str, beside: str) -> None:
    axes.set_xlabel(below, fontsize=8)
    axes.set_ylabel(beside, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
