"""What a model's start came to, as one table in the log: where the device's memory is, and where the time went."""

import sys
from itertools import zip_longest

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from configs.sizes import format_bytes
from engine.info import EngineInfo, MemoryLedger


def ledger_entries(ledger: MemoryLedger) -> dict[str, int]:
    """Every owner of the device's memory; they sum to its total."""
    return {
        "weights": ledger.weights_bytes,
        "KV pool": ledger.kv_cache_bytes,
        "workspace": ledger.workspace_bytes,
        "framework": ledger.framework_bytes,
        "other programs": ledger.other_bytes,
        "unaccounted": ledger.unaccounted_bytes,
        "free": ledger.free_bytes,
    }


def start_table(info: EngineInfo) -> Table:
    """The table of one model."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_footer=True)
    total_s = sum(info.startup_s.values())
    table.add_column(f"memory of {info.device}", footer="total")
    table.add_column("bytes", footer=f"{info.ledger.total_bytes:,}", justify="right")
    table.add_column("", footer=format_bytes(info.ledger.total_bytes), justify="right", style="cyan")
    table.add_column("  start", footer="  total")
    table.add_column("s", footer=f"{total_s:.2f}", justify="right", style="cyan")
    phases = [(f"  {phase.replace('_', ' ')}", f"{seconds:.2f}") for phase, seconds in info.startup_s.items()]
    for entry, phase in zip_longest(ledger_entries(info.ledger).items(), phases):
        owner = (entry[0], f"{entry[1]:,}", format_bytes(entry[1])) if entry else ("", "", "")
        table.add_row(*owner, *(phase or ("", "")))
    return table


def print_start(info: EngineInfo, console: Console | None = None) -> None:
    """Print it where the log goes: plain text where that is no terminal."""
    console = console or Console(file=sys.stderr, highlight=False)
    console.print(start_table(info))
