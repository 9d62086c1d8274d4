"""`headcount plan --list`: every model family that runs, by what its best-known checkpoint costs."""

from collections.abc import Sequence

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from engine.models import describe
from engine.models.registry import PAGES, Page, load_spec

BFLOAT16_BYTES = 2


class ListedModel(msgspec.Struct, frozen=True):
    """A family and its best-known checkpoint, with weights and KV cache in bfloat16.

    Attributes:
        family: what tells it from others, in a sentence.
        num_active_parameters: numbers that one token passes: fewer than all where there are experts.
        kv_bytes_per_token: of a token in every layer's cache.
        limits: what is not supported, and why.
    """

    architectures: list[str]
    family: str
    checkpoint: str
    attention_type: str
    heads: str
    head_dim: str
    num_layers: int
    positions: str
    windows: str
    num_parameters: int
    num_active_parameters: int
    kv_bytes_per_token: int
    limits: str


def list_models() -> list[ListedModel]:
    """All families, in the order of their names."""
    return [_list_page(page) for page in PAGES]


def _list_page(page: Page) -> ListedModel:
    family = page.family
    spec = load_spec({**family.published.config, "architectures": list(family.architectures)})
    geometry = spec.kv_geometry(BFLOAT16_BYTES, block_size=1)
    return ListedModel(
        architectures=list(family.architectures),
        family=page.summary,
        checkpoint=family.published.name,
        attention_type=geometry.attention_type,
        heads=describe.heads(spec),
        head_dim=describe.head_dim(spec),
        num_layers=spec.num_layers,
        positions=describe.positions(spec),
        windows=describe.windows(spec),
        num_parameters=spec.num_parameters(),
        num_active_parameters=spec.num_active_parameters(),
        kv_bytes_per_token=geometry.bytes_per_token,
        limits=family.limits,
    )


def render(models: list[ListedModel], console: Console) -> None:
    """Print the list for people: what the cache of each costs."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("best-known checkpoint", max_width=30, no_wrap=True)
    table.add_column("type", no_wrap=True, min_width=4)
    for heading in ("heads", "width", "layers", "KV/token"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in models:
        kv = f"{model.kv_bytes_per_token:,} B"
        kind, layers = model.attention_type.upper(), str(model.num_layers)
        name = model.checkpoint.rpartition("/")[2]
        table.add_row(name, kind, model.heads, model.head_dim, layers, kv)
    console.print(table)
    console.print(f"{len(models)} families; KV bytes of a token in bfloat16. docs/models.md says more of each.")


HEADER = """# Models

Made from the code by `python -m headcount plan --list --markdown > docs/models.md`; a test holds the two together.

A checkpoint runs when the first name of `architectures` in its config.json is in this list. MHA, GQA and MQA are no
matter of the family: any number of key/value heads that divides the query heads runs, and layers may differ. The numbers are
those of the checkpoint named, from its published config.json, with weights and KV cache in bfloat16.

KV/token is what one token takes in the cache of all layers: layers x KV heads x (key width + value width) x 2 bytes. Layers
with a window stop growing there.

Not supported in any family: quantised checkpoints (`quantization_config`; import a GGUF file, or use the bfloat16 weights),
encoder-decoders, vision and audio parts, and code that comes with a checkpoint (`trust_remote_code`).
"""
NUMBERS = ("Checkpoint", "Type", "Heads", "Width", "Layers", "Parameters", "KV/token")


def as_markdown(models: list[ListedModel]) -> str:
    """docs/models.md."""
    lines = [HEADER, _row(NUMBERS), _row(["---"] * 2 + ["---:"] * 5)]
    for model in sorted(models, key=lambda model: model.kv_bytes_per_token):
        numbers = f"{model.num_layers}", _billions(model), f"{model.kv_bytes_per_token:,}"
        lines.append(_row([model.checkpoint, model.attention_type.upper(), model.heads, model.head_dim, *numbers]))
    for model in models:
        lines += ["", f"## {', '.join(model.architectures)}", "", model.family, ""]
        lines.append(f"- Positions: {model.positions}.")
        lines += [f"- Sliding window: {model.windows}."] if model.windows else []
        lines += [f"- Not supported: {model.limits}"] if model.limits else []
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _billions(model: ListedModel) -> str:
    """Parameters, and in brackets those that one token passes, where they are fewer."""
    whole = f"{model.num_parameters / 1e9:.2f} B"
    is_sparse = model.num_active_parameters < model.num_parameters
    return f"{whole} ({model.num_active_parameters / 1e9:.2f} B active)" if is_sparse else whole
