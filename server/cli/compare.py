"""`headcount compare`."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from configs.compare import CompareSettings

if TYPE_CHECKING:
    from server.compare.plan import Job
    from server.compare.report import Comparison

DEFAULTS = CompareSettings()


def compare(
    source: Annotated[str | None, Parameter(show_default=False)] = None,
    /,
    *,
    settings: CompareSettings = DEFAULTS,
    config: Annotated[Path | None, Parameter(show_default=False)] = None,
    preset: str | None = None,
    json: Path | None = None,
    plot: Path | None = None,
) -> int:
    """Measure what key/value heads cost: variants of one model, each with the same KV budget and the same load.

    Makes a variant for each number of heads (once: they are kept in the cache folder), serves one after the other in an
    engine of its own, counts how many requests run at once, puts it under the load, and sets its tokens beside the
    source's. More heads than the model has are its own, repeated: the same tokens for more memory. Fewer are pooled
    ones: less memory, and other tokens, for nobody has trained the model to them.

    Flags come before --config, --config before --preset.

    Args:
        source: the model, as --model: a folder, `demo` or a repository id.
        settings: variants, budget and load.
        config: TOML file of these settings.
        preset: settings that come with headcount: compare.
        json: write the result here, with the machine's facts and versions.
        plot: draw it here, as a PNG for a slide.
    """
    from server.cli.compare_run import plan_locally, run_with_progress
    from server.compare.run import check_tokens

    job = plan_locally(settings if source is None else settings.model_copy(update={"model": source}))
    comparison = asyncio.run(run_with_progress(job))
    _show(job, comparison, json, plot)
    check_tokens(comparison)
    return 0


def _show(job: "Job", comparison: "Comparison", json: Path | None, plot: Path | None) -> None:
    from rich.console import Console

    from server.cli.compare_tables import print_comparison

    print_comparison(comparison, Console(highlight=False))
    if json is not None:
        from server.cli.compare_run import write_comparison

        write_comparison(comparison, json)
        print(f"written to {json}", file=sys.stderr)
    if plot is not None:
        from server.cli.compare_plot import draw_comparison

        draw_comparison(comparison, plot)
        print(f"drawn to {plot}", file=sys.stderr)
