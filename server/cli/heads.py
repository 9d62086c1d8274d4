"""`headcount heads`: change the heads of a model, and look at them.

Everything with tensors in it is reached through the public face, as a script would.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from pydantic import PositiveInt
from rich.console import Console

from server.cli.errors import CommandError

if TYPE_CHECKING:
    from msgspec import Struct

HELP = """Make MHA, GQA and MQA variants of a model, look at what its heads do, and take heads out."""

Json = Annotated[bool, Parameter(name="--json", negative="")]


def build_heads_app() -> App:
    """The parser of `headcount heads` and its subcommands."""
    app = App(name="heads", help=HELP)
    app.command(convert, name="convert")
    app.command(inspect, name="inspect")
    app.command(ablate, name="ablate")
    app.command(prune, name="prune")
    return app


def convert(
    source: str,
    destination: Path,
    /,
    *,
    kv_heads: PositiveInt,
    method: Literal["mean", "first", "aligned"] = "mean",
    eval_text: Annotated[str, Parameter(name="--eval")] = "",
    as_json: Json = False,
) -> None:
    """Write a model with another number of key/value heads, as a folder that headcount and transformers load.

    More heads come from repeating each: the same outputs, a larger cache. Fewer come from joining neighbours: a smaller
    cache, and worse outputs until the model is trained further.

    Args:
        source: a folder, `demo` or a repository id.
        destination: the folder to make.
        kv_heads: key/value heads of every layer: a multiple or a divisor of those it has.
        method: how heads are joined: their mean, the first of them, or their mean after each was rotated onto the others.
        eval_text: a text, or a file that holds one: perplexity and agreement with the source on it, before and after.
        as_json: print JSON, for programs.
    """
    import headcount
    from server.cli import heads_tables

    made = headcount.convert_heads(source, destination, kv_heads, method, text=eval_text)
    _show(made, as_json, lambda console: heads_tables.print_conversion(made, console))


def inspect(
    model: str,
    /,
    *,
    text: str,
    window: PositiveInt = 256,
    json: Path | None = None,
    plots: Path | None = None,
) -> None:
    """Look at every head of a model while it reads a text: where it looks, which heads do the same, which matter.

    Args:
        model: a folder, `demo` or a repository id.
        text: a text, or a file that holds one.
        window: tokens of the pieces that the text is cut into.
        json: write all figures here.
        plots: draw them into this folder, as heads.png and distances.png.
    """
    import msgspec

    import headcount
    from server.cli import heads_tables

    found = headcount.inspect_heads(model, text, window)
    heads_tables.print_inspection(found, Console(highlight=False))
    if json is not None:
        json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    if plots is not None:
        from heads.plots import draw_inspection

        draw_inspection(found, plots)


def ablate(
    model: str, /, *, text: str, heads: PositiveInt = 5, window: PositiveInt = 256, as_json: Json = False
) -> None:
    """Measure what a model loses without its most and its least important heads, one at a time.

    Args:
        model: a folder, `demo` or a repository id.
        text: a text, or a file that holds one.
        heads: how many of each.
        window: tokens of the pieces that the text is cut into.
        as_json: print JSON, for programs.
    """
    import headcount
    from server.cli import heads_tables

    found = headcount.ablate_heads(model, text, heads, window)
    _show(found, as_json, lambda console: heads_tables.print_ablation(found, console))


def prune(
    source: str,
    destination: Path,
    /,
    *,
    fraction: float | None = None,
    heads: str = "",
    text: str = "",
    as_json: Json = False,
) -> None:
    """Take query heads out of a model, whole groups where they share a key/value head, and measure what comes of it.

    Args:
        source: a folder, `demo` or a repository id.
        destination: the folder to make.
        fraction: share of all query heads that goes: those that matter least on the text.
        heads: those that go, as LAYER.HEAD with commas between, such as 3.0,3.1,3.2.
        text: a text, or a file that holds one, for importance and loss.
        as_json: print JSON, for programs.
    """
    import headcount
    from server.cli import heads_tables

    done = headcount.prune_heads(source, destination, fraction=fraction, heads=_parse_heads(heads), text=text)
    _show(done, as_json, lambda console: heads_tables.print_pruning(done, console))


def _show(found: "Struct", as_json: bool, render: Callable[[Console], None]) -> None:
    import msgspec

    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        render(Console(highlight=False))


def _parse_heads(text: str) -> list[tuple[int, int]]:
    """`3.0,3.1` as [(3, 0), (3, 1)]."""
    pairs = [part.strip().split(".") for part in text.split(",") if part.strip()]
    if not all(len(pair) == 2 and all(number.isdecimal() for number in pair) for pair in pairs):
        raise CommandError(f"--heads must be LAYER.HEAD with commas between, such as 3.0,3.1, got {text!r}")
    return [(int(layer), int(head)) for layer, head in pairs]
