"""`headcount plan`."""

from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from pydantic import PositiveInt
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from configs.cache import KVCacheDType
from configs.model import DType, Quantization
from configs.sizes import format_bytes, parse_bytes
from server.cli.errors import CommandError

if TYPE_CHECKING:
    from server.cli.planning import Assumptions, LayerGroup, Plan, PlanRow


def plan(
    model: str = "demo",
    /,
    *,
    memory: str | None = None,
    dtype: DType = "auto",
    context: PositiveInt | None = None,
    block_size: PositiveInt = 16,
    kv_cache_dtype: KVCacheDType = "auto",
    quantization: Quantization = "none",
    max_num_batched_tokens: PositiveInt = 2048,
    max_num_seqs: PositiveInt = 64,
    tensor_parallel: PositiveInt = 1,
    device: Literal["cpu", "cuda"] = "cpu",
    json: Annotated[bool, Parameter(negative="")] = False,
    list_models: Annotated[bool, Parameter(name="--list", negative="")] = False,
    markdown: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Show what a model needs and what fits, before it is loaded.

    Reads config.json and the headers of the weights only.

    Args:
        model: a folder, `demo` or a repository id.
        memory: memory for weights, workspace and KV cache, such as 8GB. Unset: what is available on this machine.
        dtype: number format of weights, and of the KV cache unless --kv-cache-dtype says another.
        context: tokens of one request, prompt and output. Unset: the longest the model takes.
        block_size: tokens in a KV block.
        kv_cache_dtype: number format of cached keys and values: auto (the model's), fp8_e4m3 or int8.
        quantization: of the weights: none, or int8.
        max_num_batched_tokens: tokens that a step computes at most; its workspace grows with them.
        max_num_seqs: requests that run at the same time.
        tensor_parallel: devices that share the model, each of `memory`.
        device: what the model is to run on: the workspace depends on its kernels.
        json: print JSON, for programs.
        list_models: show the model families that run instead, and what their best-known checkpoints take.
        markdown: with --list: print docs/models.md.
    """
    if list_models:
        _print_list(as_json=json, as_markdown=markdown)
        return
    if quantization != "none" and device != "cpu":
        raise CommandError(
            f"--quantization {quantization} runs on a CPU only, got --device {device}: leave one of them out"
        )
    from server.cli.planning import Assumptions

    assumptions = Assumptions(
        memory_bytes=_memory_bytes(memory),
        dtype=dtype,
        context_tokens=context,
        block_size=block_size,
        kv_cache_dtype=kv_cache_dtype,
        quantization=quantization,
        device=device,
        max_num_batched_tokens=max_num_batched_tokens,
        max_num_seqs=max_num_seqs,
        tensor_parallel=tensor_parallel,
    )
    _print_plan(model, assumptions, as_json=json)


def _print_plan(model: str, assumptions: "Assumptions", *, as_json: bool) -> None:
    import msgspec

    from checkpoints.resolve import resolve_model
    from server.cli.planning import plan_folder

    try:
        made = plan_folder(model, resolve_model(model), assumptions)
    except ValueError as error:
        raise CommandError(f"--tensor-parallel {assumptions.tensor_parallel}: {error}") from None
    if as_json:
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
    console.print(_variants(made, f"Requests of {made.context_tokens:,} tokens, by key/value heads", made.rows))
    if len(made.tensor_parallel_rows) > 1:
        console.print(_variants(made, "On each of several devices (tensor parallelism)", made.tensor_parallel_rows))
    console.print(_verdict(made, next(row for row in made.rows if row.label == "actual")))


def _facts(made: "Plan") -> Table:
    table = Table.grid(padding=(0, 2))
    heads = f"{made.heads.replace(' on ', ' query heads on ')} key/value heads of width {made.head_dim}"
    on_disk = f", {format_bytes(made.checkpoint_bytes)} on disk" if made.checkpoint_bytes != made.weights_bytes else ""
    rows = {
        "model": f"{made.model} ({made.architecture})",
        "attention": f"{made.attention_type.upper()}: {heads}, {made.num_layers} layers",
        "weights": f"{format_bytes(made.weights_bytes)} in {_format(made)}, {made.num_parameters:,} numbers{on_disk}",
        "KV cache": f"{made.kv_bytes_per_token:,} bytes a token, {made.kv_bytes_per_block:,} a block of {made.block_size}"
        + ("" if made.kv_cache_dtype == made.dtype else f", in {made.kv_cache_dtype}"),
        "workspace": f"{format_bytes(made.workspace_bytes)} for the largest step",
        "longest context": f"{made.max_model_len:,} tokens",
        "memory": format_bytes(made.memory_bytes),
    }
    if len(made.layers) > 1:
        rows["layers"] = "\n".join(map(_group, made.layers))
    for name, text in rows.items():
        table.add_row(f"[bold]{name}[/]", text)
    return table


def _format(made: "Plan") -> str:
    return made.dtype if made.quantization == "none" else f"{made.quantization} and {made.dtype}"


def _group(group: "LayerGroup") -> str:
    sees = f"the last {group.sliding_window:,} tokens" if group.sliding_window else "all tokens"
    heads = f"{group.num_q_heads} query heads on {group.num_kv_heads}"
    return f"{group.num_layers} x {group.attention_type.upper()}, {heads}, each token sees {sees}"


def _variants(made: "Plan", title: str, rows: "list[PlanRow]") -> Table:
    is_by_device = rows is made.tensor_parallel_rows
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=0)
    first = ("devices",) if is_by_device else ("", "heads")
    for heading in (*first, "weights", "workspace", "KV/token", "KV/request", "tokens", "longest", "at once"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    for row in rows:
        heads = "mixed" if row.num_kv_heads is None else f"{row.attention_type.upper()} {row.num_kv_heads}"
        table.add_row(
            *((str(row.tensor_parallel),) if is_by_device else (row.label, heads)),
            format_bytes(row.weights_bytes),
            format_bytes(row.workspace_bytes),
            f"{row.kv_bytes_per_token:,}",
            format_bytes(row.kv_bytes_per_request),
            f"{row.num_tokens:,}",
            f"{min(row.longest_context, made.max_model_len):,}",
            f"{row.num_requests:,}",
            style="bold" if row.label == "actual" and not is_by_device else "dim",
        )
    return table


def _verdict(made: "Plan", actual: "PlanRow") -> str:
    if made.fits:
        return (
            f"[green]Fits:[/] {actual.num_requests:,} request{'s' * (actual.num_requests != 1)} of"
            f" {made.context_tokens:,} tokens at once,"
            f" or {actual.num_tokens:,} tokens shared among shorter ones."
        )
    if not actual.longest_context:
        alone = format_bytes(actual.weights_bytes + actual.workspace_bytes)
        reason = f"weights and workspace alone take {alone}"
    else:
        reason = f"the longest request that fits is {actual.longest_context:,} tokens"
    remedy = (
        f"[bold]{made.advice.flag} {made.advice.value}[/] makes it fit" if made.advice else "No one flag makes it fit"
    )
    return (
        f"[red]Does not fit:[/] a request of {made.context_tokens:,} tokens; {reason}.\n"
        f"{remedy}, --memory {made.least_memory_bytes >> 20}MiB does{' too' if made.advice else ''}."
    )
