"""Runs a comparison from the command line: a progress bar on standard error, the result as a file."""

from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from checkpoints.resolve import resolve_model
from configs.compare import CompareSettings
from server.cli.bench_report import command_line
from server.compare.plan import Job, plan_comparison
from server.compare.report import Comparison
from server.compare.report import Progress as Step
from server.compare.run import Event, run_comparison
from server.load.prompts import WORDS
from server.tokenizer import Tokenizer

PHASES = {"build": "make the variant", "start": "start", "capacity": "what fits", "load": "under load"}


def plan_locally(settings: CompareSettings) -> Job:
    """The comparison of a model on this machine.

    Raises:
        ComparisonRefusedError: what is asked for makes no sense.
        CheckpointError, EngineError: the model cannot be found or served.
    """
    folder = resolve_model(settings.model)
    token_ids = Tokenizer(folder).encode(WORDS, add_special_tokens=False)
    return plan_comparison(settings, folder, settings.engine_settings(), token_ids)


async def run_with_progress(job: Job) -> Comparison:
    """Make the comparison, and show where it is."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    titles = {variant.num_kv_heads: variant.title for variant in job.variants}
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)

        def on_event(event: Event) -> None:
            if isinstance(event, Step):
                description = f"{titles[event.num_kv_heads]}: {PHASES[event.phase]}"
                progress.update(task, description=description, completed=event.num_done, total=event.num_total)

        return await run_comparison(job, on_event)


def write_comparison(comparison: Comparison, path: Path) -> None:
    """The result as JSON, with one line a value and the command that made it."""
    content = {"command": command_line(), **msgspec.to_builtins(comparison)}
    path.write_bytes(msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
