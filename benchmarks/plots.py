"""Draws what benchmarks/head_variants.py measured: step time against batch, context and key/value heads.

python -m benchmarks.plots benchmarks/results/head_variants.json --output-dir docs/images
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

COLORS = {"mha": "#b3402a", "gqa": "#1f5f8b", "mqa": "#3d7a3a"}
MARKERS = {"mha": "o", "gqa": "s", "mqa": "^"}
STYLE = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "legend.edgecolor": "none",
    "legend.framealpha": 1.0,
    "figure.dpi": 150,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--output-dir", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    for path in draw_all(json.loads(args.report.read_text()), args.output_dir):
        print(path)


def draw_all(report: dict[str, Any], folder: Path) -> list[Path]:
    """All pictures of a report, as PNG files in `folder`."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {
        "step_time_batch": lambda axes: draw_batch(axes, report),
        "step_time_context": lambda axes: draw_context(axes, report),
        "step_time_kv_heads": lambda axes: draw_kv_heads(axes, report),
    }
    paths = []
    for name, draw in drawings.items():
        with figure(folder / f"{name}.png") as axes:
            draw(axes)
        paths.append(folder / f"{name}.png")
    return paths


def draw_batch(axes: Axes, report: dict[str, Any]) -> None:
    sizes = [point["batch_size"] for point in report["variants"][0]["by_batch"]]
    _draw_lines(axes, report, "by_batch", "batch_size")
    axes.set(
        title=f"Decode step by batch size, {report['short_context']:,} tokens of context",
        xlabel="requests that decode together",
        ylabel="step time, ms (median)",
        xticks=_spaced(sizes),
    )


def draw_context(axes: Axes, report: dict[str, Any]) -> None:
    contexts = [point["context_tokens"] for point in report["variants"][0]["by_context"]]
    _draw_lines(axes, report, "by_context", "context_tokens")
    axes.set(
        title=f"Decode step by context, batch {report['batch_size']}",
        xlabel="tokens of context of each request",
        ylabel="step time, ms (median)",
        xticks=_spaced(contexts),
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")


def draw_kv_heads(axes: Axes, report: dict[str, Any]) -> None:
    """Bars at the longest context, each with the time that reading its bytes from memory takes at least."""
    variants = sorted(report["variants"], key=lambda variant: int(variant["num_kv_heads"]))
    points = [variant["by_context"][-1] for variant in variants]
    times = [1000 * point["step_s"]["p50"] for point in points]
    floors = [1000 * _floor_s(point, report) for point in points]
    places = range(len(variants))
    colors = [COLORS[variant["attention_type"]] for variant in variants]
    bars = axes.bar(places, times, width=0.55, color=colors)
    axes.bar_label(bars, [f"{value:,.0f} ms" for value in times], padding=3)
    axes.hlines(
        floors,
        [place - 0.36 for place in places],
        [place + 0.36 for place in places],
        color="#222222",
        linestyle="--",
        label="time to read its bytes from memory",
    )
    labels = [_label(variant) for variant in variants]
    axes.set_xticks(list(places), labels)
    axes.set(
        title=f"Decode step by key/value heads, batch {report['batch_size']},"
        f" {points[0]['context_tokens']:,} tokens of context",
        ylabel="step time, ms (median)",
        ylim=(0, 1.25 * max(times)),
    )
    axes.grid(visible=False, axis="x")
    axes.legend(loc="upper left")


def _draw_lines(axes: Axes, report: dict[str, Any], sweep: str, field: str) -> None:
    """A line a variant; dashed, the time that reading its bytes from memory takes at least."""
    for variant in report["variants"]:
        points, kind = variant[sweep], variant["attention_type"]
        places = [point[field] for point in points]
        times = [1000 * point["step_s"]["p50"] for point in points]
        floors = [1000 * _floor_s(point, report) for point in points]
        axes.plot(places, times, color=COLORS[kind], marker=MARKERS[kind], label=_label(variant))
        axes.plot(places, floors, color=COLORS[kind], linestyle="--", linewidth=1)
    axes.plot([], [], color="#666666", linestyle="--", linewidth=1, label="time to read its\nbytes from memory")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left")


def _floor_s(point: dict[str, Any], report: dict[str, Any]) -> float:
    """The bytes of a step at the machine's ceiling: it cannot be faster."""
    num_bytes: float = point["weight_bytes_per_step"] + point["kv_bytes_per_step"]
    return num_bytes / float(report["ceilings"]["read_bytes_per_s"])


def _label(variant: dict[str, Any]) -> str:
    heads = variant["num_kv_heads"]
    return f"{variant['attention_type'].upper()}: {heads} KV head{'s' * (heads != 1)}"


def _spaced(numbers: list[int]) -> list[int]:
    """Those of the numbers that leave room for their labels."""
    kept: list[int] = []
    for number in sorted(numbers, reverse=True):
        if not kept or kept[-1] - number >= max(numbers) / 16:
            kept.append(number)
    return kept[::-1]


@contextmanager
def figure(path: Path) -> Iterator[Axes]:
    """Axes to draw on; written to `path` afterwards."""
    with mpl.rc_context(STYLE):
        drawing, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        yield axes
        drawing.savefig(path)
        plt.close(drawing)


if __name__ == "__main__":
    main()
