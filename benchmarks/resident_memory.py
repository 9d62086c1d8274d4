"""What the engine's process holds in memory beside weights and KV pool, after it has worked.

    python -m benchmarks.resident_memory --output benchmarks/results/resident_memory.json

A server of the demo model is started for each dtype of weights and each size of the pool, answers streams, and its engine's
resident memory is read from the system. What is left when weights and pool are taken away must not depend on either.
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console

from benchmarks.peer_runs.http_servers import closed_loop_round, headcount_command, running
from benchmarks.report import new_report, write_report
from checkpoints.resolve import resolve_model
from server.cli.bench_load import LoadOptions
from server.cli.machine import num_cores
from server.load.prompts import WORDS
from server.tokenizer import Tokenizer

QUANTIZATIONS = ("none", "int8")
POOL_MIB = (128, 512, 1024)
STREAMS = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    rows = [measure(*pair) for pair in itertools.product(QUANTIZATIONS, POOL_MIB)]
    Console().print(*rows, sep="\n")
    write_report(new_report("resident_memory", rows=rows), args.output)


def measure(quantization: str, pool_mib: int) -> dict[str, Any]:
    """One server, under load and after it."""
    folder = resolve_model("demo")
    command = [*headcount_command(folder, num_cores(), quantization), "--kv-cache-memory-bytes", f"{pool_mib}MiB"]
    load = LoadOptions(prompt_tokens=128, max_tokens=32)
    bodies = load.bodies("demo", Tokenizer(folder).encode(WORDS, add_special_tokens=False))
    with running({"headcount": command}, {}) as urls:
        closed_loop_round(urls["headcount"], bodies, STREAMS)
        resident_bytes = engine_process().memory_info().rss
        [model] = httpx.get(f"{urls['headcount']}/v1/kv").json()["models"]
    ledger = model["ledger"]
    held_bytes = ledger["weights_bytes"] + ledger["kv_cache_bytes"]
    return {
        "quantization": quantization,
        "weights_bytes": ledger["weights_bytes"],
        "kv_cache_bytes": ledger["kv_cache_bytes"],
        "workspace_bytes": ledger["workspace_bytes"],
        "framework_bytes": ledger["framework_bytes"],
        "resident_bytes": resident_bytes,
        "beside_bytes": resident_bytes - held_bytes,
    }


def engine_process() -> psutil.Process:
    """The one engine below this process."""
    [found] = [one for one in psutil.Process().children(recursive=True) if "engine.process" in one.cmdline()]
    return found


if __name__ == "__main__":
    main()
