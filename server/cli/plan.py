"""`headcount plan`."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from pydantic import PositiveInt
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from configs.cache import KVCacheDType
from configs.model import DType
from configs.sizes import format_bytes, parse_bytes
from server.cli.errors import CommandError

if TYPE_CHECKING:
    from server.cli.planning import LayerGroup, Plan, PlanRow


def plan(
    model: str = "demo",
    /,
    *,
    memory: str | None = None,
    dtype: DType = "auto",
    context: PositiveInt | None = None,
    block_size: PositiveInt = 16,
    kv_cache_dtype: KVCacheDType = "auto",
    json: Annotated[bool, Parameter(negative="")] = False,
    list_models: Annotated[bool, Parameter(name="--list", negative="")] = False,
    markdown: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show what a model needs and what fits, before it is loaded.

    Reads config.json and the headers of the weights only.

    Args:
        model: a folder, `demo` or a repository id.
        memory: memory for weights and KV cache, such as 8GB. Unset: what is available on this machine.
        dtype: number format of weights, and of the KV cache unless --kv-cache-dtype says another.
        context: tokens of one request, prompt and output. Unset: the longest the model takes.
        block_size: tokens in a KV block.
        kv_cache_dtype: number format of cached keys and values: auto (the model's), fp8_e4m3 or int8.
        json: print JSON, for programs.
        list_models: show the model families that run instead, and what their best-known checkpoints take.
        markdown: with --list: print docs/models.md.
    """
    if list_models:
        _print_list(as_json=json, as_markdown=markdown)
        return
    import msgspec

    from checkpoints.resolve import resolve_model
    from server.cli.planning import Assumptions, plan_folder

    assumptions = Assumptions(_memory_bytes(memory), dtype, context, block_size, kv_cache_dtype)
    made = plan_folder(model, resolve_model(model), assumptions)
    if json:
        print(msgspec.json.format(msgspec.json.encode(made), indent=2).decode())
    else:
        render(made, Console(highlight=False))


def _print_list(*, as_json: bool, as_markdown: bool) -> None:
    import msgspec

    from server.cli import model_list

    models = model_list.list_models()
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(models), indent=2).decode())
    elif as_markdown:
        print(model_list.as_markdown(models), end="")
    else:
        model_list.render(models, Console(highlight=False))


def _memory_bytes(memory: str | None) -> int:
    if memory is None:
        import psutil

        return int(psutil.virtual_memory().available)
    try:
        return parse_bytes(memory)
    except ValueError as error:
        raise CommandError(f"--memory {error}") from None


def render(made: "Plan", console: Console) -> None:
    """Print a plan for people."""
    console.print(_facts(made))
    console.print(_variants(made))
    actual = next(row for row in made.rows if row.label == "actual")
    console.print(_verdict(made, actual))


def _facts(made: "Plan") -> Table:
    table = Table.grid(padding=(0, 2))
    heads = f"{made.heads.replace(' on ', ' query heads on ')} key/value heads of width {made.head_dim}"
    on_disk = f", {format_bytes(made.checkpoint_bytes)} on disk" if made.checkpoint_bytes != made.weights_bytes else ""
    rows = {
        "model": f"{made.model} ({made.architecture})",
        "attention": f"{made.attention_type.upper()}: {heads}, {made.num_layers} layers",
        "weights": f"{format_bytes(made.weights_bytes)} in {made.dtype}, {made.num_parameters:,} numbers{on_disk}",
        "KV cache": f"{made.kv_bytes_per_token:,} bytes a token, {made.kv_bytes_per_block:,} a block of {made.block_size}"
        + ("" if made.kv_cache_dtype == made.dtype else f", in {made.kv_cache_dtype}"),
        "longest context": f"{made.max_model_len:,} tokens",
        "memory": format_bytes(made.memory_bytes),
    }
    if len(made.layers) > 1:
        rows["layers"] = "\n".join(map(_group, made.layers))
    for name, text in rows.items():
        table.add_row(f"[bold]{name}[/]", text)
    return table


def _group(group: "LayerGroup") -> str:
    sees = f"the last {group.sliding_window:,} tokens" if group.sliding_window else "all tokens"
    heads = f"{group.num_q_heads} query heads on {group.num_kv_heads}"
    return f"{group.num_layers} x {group.attention_type.upper()}, {heads}, each token sees {sees}"


def _variants(made: "Plan") -> Table:
    table = Table(
        title=f"Requests of {made.context_tokens:,} tokens, by key/value heads",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("", "type", "heads", "weights", "KV/token", "KV/request", "tokens", "at once"):
        table.add_column(heading, justify="left" if heading in ("", "type") else "right", no_wrap=True)
    for row in made.rows:
        table.add_row(
            row.label,
            row.attention_type.upper(),
            "mixed" if row.num_kv_heads is None else str(row.num_kv_heads),
            format_bytes(row.weights_bytes),
            f"{row.kv_bytes_per_token:,} B",
            format_bytes(row.kv_bytes_per_request),
            f"{row.num_tokens:,}",
            f"{row.num_requests:,}",
            style="bold" if row.label == "actual" else "dim",
        )
    return table


def _verdict(made: "Plan", actual: "PlanRow") -> str:
    if made.memory_bytes < actual.weights_bytes:
        return f"[red]Does not fit: the weights alone take {format_bytes(actual.weights_bytes)}.[/]"
    if not actual.num_requests:
        return (
            f"[yellow]A request of {made.context_tokens:,} tokens does not fit:"
            f" the longest that does is {actual.num_tokens:,} tokens.[/]"
        )
    return (
        f"{actual.num_requests:,} requests of {made.context_tokens:,} tokens fit at once,"
        f" or {actual.num_tokens:,} tokens shared among shorter ones."
    )
