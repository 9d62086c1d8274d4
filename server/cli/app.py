"""The `headcount` command and its subcommands."""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from cyclopts import App, CycloptsError
from rich.console import Console

from checkpoints.errors import CheckpointError
from configs.errors import SettingsError
from engine.errors import EngineError
from engine.kernels.build import describe_library
from heads.errors import HeadsError
from server.cli.bench import bench
from server.cli.chat import chat
from server.cli.compare import compare
from server.cli.errors import CommandError, usage_problems
from server.cli.heads import build_heads_app
from server.cli.import_ import import_model
from server.cli.plan import plan
from server.cli.serve import serve
from server.cli.sources import apply_comparison_sources, apply_sources
from server.compare.errors import ComparisonError

HELP = """Serve decoder-only language models, and see what every key/value head costs.

`headcount serve` serves the demo model on http://127.0.0.1:8000."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXPECTED_ERRORS = (CommandError, SettingsError, CheckpointError, EngineError, HeadsError, ComparisonError)
"""What users can mend; everything else is a bug and shows its traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Args:
        arguments: what follows `headcount`; None takes them from the process.
    """
    tokens = sys.argv[1:] if arguments is None else list(arguments)
    try:
        status = build_app()(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _complain(usage_problems(error), EXIT_USAGE)
    except EXPECTED_ERRORS as error:
        return _complain(str(error).splitlines(), EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_FAILED
    return status if isinstance(status, int) else 0


def _complain(problems: list[str], status: int) -> int:
    """Print the problems, unwrapped so that each stays one line to search for."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    for problem in problems:
        console.print(f"headcount: {problem}", style="red")
    return status


def build_app() -> App:
    """The parser of all commands."""
    app = App(
        name="headcount",
        help=HELP,
        version=read_version,
    )
    app.command(serve, name="serve", config=[apply_sources])
    app.command(chat, name="chat")
    app.command(plan, name="plan")
    app.command(bench, name="bench")
    app.command(compare, name="compare", config=[apply_comparison_sources])
    app.command(import_model, name="import")
    app.command(build_heads_app())
    return app


def read_version() -> str:
    """The installed version of headcount, and which native kernels a CPU gets here."""
    try:
        installed = version("headcount")
    except PackageNotFoundError:
        installed = "unknown (not installed)"
    return f"{installed} (native CPU kernels: {describe_library()})"


def _silence_stdout() -> None:
    """The reader went away (`headcount plan … | head`): nothing more to say, and no complaint at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
