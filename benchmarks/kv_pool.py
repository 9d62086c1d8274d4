"""What the KV cache's books cost: per block in pools of three sizes, and the block map of the largest.

    python benchmarks/kv_pool.py --output benchmarks/results/kv_pool.json

No model runs: the manager does what the scheduler would ask of it. A number per block that hardly depends on the size
says that the work is O(blocks) for a lookup and O(1) a block for the rest; what growth there is comes from memory that no
longer fits the processor's caches. Steps are measured in processor time, so that other programs do not count, and of all
rounds the fastest one is told; the map in wall time, median and slowest.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
from fastapi import FastAPI
from rich.console import Console
from rich.table import Table

from engine.messages import AskBlocks, BlocksAnswer, decode_from_engine, encode
from kvcache.block_map import build_block_map
from kvcache.geometry import KVGeometry, LayerGeometry
from kvcache.manager import KVCacheManager
from server.routes import kv_blocks

BLOCK_SIZE = 16
GEOMETRY = KVGeometry((LayerGeometry(9, 3, 64, 64),) * 30, dtype_bytes=2, block_size=BLOCK_SIZE)
BLOCKS_PER_REQUEST = 50
NUM_SHARED_BLOCKS = 10
STEPS = ("allocate", "commit", "free", "lookup", "evict")


def main() -> None:
    args = parse_arguments()
    rows = [pool_row(num_blocks, args.rounds) for num_blocks in args.num_blocks]
    block_map = asyncio.run(map_row(max(args.num_blocks), args.rounds))
    report = {"command": " ".join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d"), "machine": machine()}
    report |= {"ns_per_block": rows, "block_map_ms": block_map}
    show(rows, block_map)
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-blocks", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "msgspec": version("msgspec"),
        "numpy": version("numpy"),
    }


class Requests:
    """As many requests as fill a pool, none of them with a block like another's; names and tokens made beforehand."""

    def __init__(self, num_blocks: int, first: int = 0) -> None:
        numbers = range(first, first + num_blocks // BLOCKS_PER_REQUEST)
        self.tokens = {f"cmpl-{i:032x}-0": [i] * (BLOCKS_PER_REQUEST * BLOCK_SIZE) for i in numbers}

    def each(self, work: Callable[[str, list[int]], object]) -> float:
        """Nanoseconds per block."""
        start_ns = time.thread_time_ns()
        for request_id, token_ids in self.tokens.items():
            work(request_id, token_ids)
        return (time.thread_time_ns() - start_ns) / (len(self.tokens) * BLOCKS_PER_REQUEST)


def pool_row(num_blocks: int, rounds: int) -> dict[str, float]:
    """The fastest round of each step, in nanoseconds per block; small pools get more rounds."""
    found = [one_round(num_blocks) for _ in range(rounds * max(1, min(20, 100_000 // num_blocks)))]
    return {"num_blocks": num_blocks} | {step: round(min(one[step] for one in found), 1) for step in STEPS}


def one_round(num_blocks: int) -> dict[str, float]:
    """Fill the pool, free it, find everything again, free it, and fill it with others, which evicts all."""
    kv = KVCacheManager(GEOMETRY, num_blocks, enable_prefix_cache=True)
    requests, others = Requests(num_blocks), Requests(num_blocks, first=num_blocks)
    requests.each(kv.find_cached_prefix)
    times = {
        "allocate": requests.each(lambda name, tokens: kv.allocate_slots(name, len(tokens))),
        "commit": requests.each(
            lambda name, tokens: kv.commit_tokens(name, len(tokens), lambda start, stop: tokens[start:stop])
        ),
        "free": requests.each(lambda name, tokens: kv.free(name)),
    }
    # A token more than is cached: the last one is always computed, and so would be its whole block.
    times["lookup"] = requests.each(lambda name, tokens: kv.find_cached_prefix(name, [*tokens, 0]))
    requests.each(lambda name, tokens: kv.free(name))
    times["evict"] = others.each(lambda name, tokens: kv.allocate_slots(name, len(tokens)))
    if kv.num_used_blocks != num_blocks:
        raise RuntimeError(f"{kv.num_used_blocks} of {num_blocks} blocks are in use: nothing was measured")
    return times


def busy_manager(num_blocks: int) -> KVCacheManager:
    """A pool with blocks of all kinds: requests share a beginning, and every fifth has ended."""
    kv = KVCacheManager(GEOMETRY, num_blocks, enable_prefix_cache=True)
    shared = [-1] * (NUM_SHARED_BLOCKS * BLOCK_SIZE)
    for i, (name, tokens) in enumerate(Requests(num_blocks).tokens.items()):
        tokens[: len(shared)] = shared
        kv.find_cached_prefix(name, tokens)
        kv.allocate_slots(name, len(tokens) - 5)
        kv.commit_tokens(name, len(tokens) - 5, lambda start, stop, tokens=tokens: tokens[start:stop])
        if i % 5 == 0:
            kv.free(name)
    return kv


async def map_row(num_blocks: int, rounds: int) -> dict[str, Any]:
    """Medians and the slowest round, in milliseconds: the engine's part, the server's, and the whole route."""
    kv = busy_manager(num_blocks)
    times: dict[str, list[float]] = {name: [] for name in ("engine", "decode", "build", "route")}
    app = make_app(kv)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://map") as client:
        for _ in range(rounds + 1):
            marks = [time.perf_counter()]
            wire = encode(BlocksAnswer(AskBlocks(), kv.snapshot()))
            marks.append(time.perf_counter())
            answer = decode_from_engine(wire)
            marks.append(time.perf_counter())
            states = build_block_map(answer.answer).states.tobytes().decode()
            marks.append(time.perf_counter())
            body = (await client.get("/v1/kv/blocks")).raise_for_status().content
            marks.append(time.perf_counter())
            for name, start_s, stop_s in zip(times, marks, marks[1:], strict=False):
                times[name].append((stop_s - start_s) * 1e3)
    counts = {state: states.count(state[0]) for state in ("free", "owned", "shared", "cached")}
    row = {name: {"median": statistics.median(found[1:]), "slowest": max(found[1:])} for name, found in times.items()}
    return {
        "num_blocks": num_blocks,
        "blocks": counts,
        "wire_bytes": len(wire),
        "json_bytes": len(body),
        **{name: {kind: round(ms, 2) for kind, ms in found.items()} for name, found in row.items()},
    }


def make_app(kv: KVCacheManager) -> FastAPI:
    """The route over an engine whose messages are really encoded and decoded, and which has nothing else to do."""

    async def block_snapshot() -> Any:
        return decode_from_engine(encode(BlocksAnswer(AskBlocks(), kv.snapshot()))).answer

    info = SimpleNamespace(num_blocks=kv.num_blocks, geometry=GEOMETRY)
    model = SimpleNamespace(name="fake", client=SimpleNamespace(info=info, block_snapshot=block_snapshot))
    app = FastAPI()
    app.state.server = SimpleNamespace(models={"fake": model})
    app.include_router(kv_blocks.router)
    return app


def show(rows: list[dict[str, float]], block_map: dict[str, Any]) -> None:
    table = Table(title="ns per block")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{number:,}" for number in row.values()))
    Console().print(table)
    Console().print_json(msgspec.json.encode(block_map).decode())


if __name__ == "__main__":
    main()
