"""What the prefix cache and the pacing of prefills do for those who wait, as a client of a real server sees it.

    python benchmarks/kv.py --output benchmarks/results/kv.json

Starts the servers itself, one after the other, and measures both sides of each comparison in one run:

    shared prefix   32 requests with the same 1,000 tokens in front, one after the other, then 31 at once; cache on and off
    chat            10 turns, each with all that was said before; cache on and off
    long prompt     4,000 tokens arrive among 16 streams; paced (the default) and unpaced, in turn, three rounds

Ratios are what counts: both sides run on the same machine minutes apart. The load average says how calm it was, and the worst
gap before the long prompt comes says how long the machine itself lets a stream wait.
"""

import argparse
import asyncio
import json
import os
import random
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from server.cli.machine import machine_facts
from server.load.prompts import WORDS

KV_FLAGS = ["--kv-cache-memory-bytes", str(1 << 29)]
CACHE_FLAGS = {"on": ["--enable-prefix-cache"], "off": ["--no-enable-prefix-cache"]}
PACING_FLAGS = {"paced": [], "unpaced": ["--max-decode-slowdown", "1000"]}
START_S, SETTLE_S = 120.0, 10.0
GREEDY = {"temperature": 0, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}


class Answer(NamedTuple):
    """One streamed answer.

    Attributes:
        ttft_s: from sending to the first token.
        text: all of it.
        num_prompt_tokens: as the server counted.
        num_cached_tokens: of those, found in the prefix cache.
    """

    ttft_s: float
    text: str
    num_prompt_tokens: int
    num_cached_tokens: int


def main() -> None:
    args = parse_arguments()
    report: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine_facts(),
        "load_average_before": os.getloadavg(),
    }
    for name in args.scenarios:
        report[name] = SCENARIOS[name](args)
        print(json.dumps({name: report[name]}, indent=2), flush=True)
    report["load_average_after"] = os.getloadavg()
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--port", type=int, default=8104)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--prefix-tokens", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--long-tokens", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    parser.add_argument("--output", type=Path, default=None)
    return parser.parse_args()


# ---- a shared prefix ----


def shared_prefix(args: argparse.Namespace) -> dict[str, Any]:
    measured = {name: serve(args, flags, measure_prefix) for name, flags in CACHE_FLAGS.items()}
    ratios = {
        name: round(measured["on"][name] / measured["off"][name], 4)
        for name in ("median_ttft_s", "burst_median_ttft_s")
    }
    return {"prefix_tokens": args.prefix_tokens, "requests": args.requests, **measured, "on_to_off": ratios}


async def measure_prefix(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    """Request 1 pays for the prefix; then 2 to 32, first in turn, then all at once with other endings."""
    ids, rng = await token_ids(client, args.model), random.Random(0)
    prefix = rng.choices(ids, k=args.prefix_tokens)
    bodies = [completion(args, prefix + rng.choices(ids, k=16), 4) for _ in range(2 * args.requests - 1)]
    first, *others = [await answer(client, body) for body in bodies[: args.requests]]
    burst = await asyncio.gather(*(answer(client, body) for body in bodies[args.requests :]))
    return {
        "first_ttft_s": round(first.ttft_s, 4),
        **spread("ttft_s", [one.ttft_s for one in others]),
        **{f"burst_{name}": value for name, value in spread("ttft_s", [one.ttft_s for one in burst]).items()},
        "cached_tokens": sorted({one.num_cached_tokens for one in others}),
    }


# ---- a chat ----


def chat(args: argparse.Namespace) -> dict[str, Any]:
    measured = {name: serve(args, flags, measure_chat) for name, flags in CACHE_FLAGS.items()}
    on, off = (measured[name]["ttft_s"][1:] for name in ("on", "off"))
    return {"turns": args.turns, **measured, "on_to_off": {"later_turns_ttft_s": round(sum(on) / sum(off), 4)}}


async def measure_chat(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    messages, answers = [], []
    for turn in range(args.turns):
        messages.append({"role": "user", "content": f"This is question {turn + 1}. {WORDS} What do you think of it?"})
        body = {"model": args.model, "messages": messages, "max_tokens": 48, **GREEDY}
        answers.append(await answer(client, body, "/v1/chat/completions"))
        messages.append({"role": "assistant", "content": answers[-1].text})
    return {
        "ttft_s": [round(one.ttft_s, 4) for one in answers],
        "prompt_tokens": [one.num_prompt_tokens for one in answers],
        "cached_tokens": [one.num_cached_tokens for one in answers],
    }


# ---- a long prompt among streams ----


def long_prompt(args: argparse.Namespace) -> dict[str, Any]:
    rounds = [
        {name: serve(args, flags, measure_long_prompt) for name, flags in PACING_FLAGS.items()}
        for _ in range(args.rounds)
    ]
    medians = {
        name: {
            figure: statistics.median(each[name][figure] for each in rounds)
            for figure in ("worst_to_median_before", "worst_to_median_of_all", "long_ttft_s")
        }
        for name in PACING_FLAGS
    }
    return {"long_tokens": args.long_tokens, "streams": args.streams, "median_of_rounds": medians, "rounds": rounds}


async def measure_long_prompt(client: httpx.AsyncClient, args: argparse.Namespace) -> dict[str, Any]:
    """Gaps of the streams before the long prompt comes, and until its first token."""
    ids, rng = await token_ids(client, args.model), random.Random(0)
    arrivals: list[list[float]] = [[] for _ in range(args.streams)]
    streams = [
        asyncio.create_task(record(client, completion(args, rng.choices(ids, k=32), 6000), times)) for times in arrivals
    ]
    while min(map(len, arrivals)) < 20:
        await asyncio.sleep(0.05)
    start_s = time.perf_counter()
    await asyncio.sleep(SETTLE_S)
    sent_s = time.perf_counter()
    found = await answer(client, completion(args, rng.choices(ids, k=args.long_tokens), 1))
    end_s = time.perf_counter()
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    before = gaps(arrivals, start_s, sent_s)
    during = gaps(arrivals, sent_s, end_s)
    decode_s, worst_s = statistics.median(before), max(during)
    return {
        "median_gap_before_s": round(decode_s, 4),
        "worst_gap_before_s": round(max(before), 4),
        "median_gap_during_s": round(statistics.median(during), 4),
        "p99_gap_during_s": round(statistics.quantiles(during, n=100)[98], 4),
        "worst_gap_during_s": round(worst_s, 4),
        "worst_to_median_before": round(worst_s / decode_s, 2),
        "worst_to_median_of_all": round(worst_s / statistics.median(before + during), 2),
        "long_ttft_s": round(found.ttft_s, 3),
        "stream_tokens_per_s_before": round(len(before) / (sent_s - start_s), 1),
        "stream_tokens_per_s_during": round(len(during) / (end_s - sent_s), 1),
    }


def gaps(arrivals: list[list[float]], start_s: float, end_s: float) -> list[float]:
    """Times between the tokens of a stream, of those gaps that end within [start_s, end_s]."""
    return [later - earlier for times in arrivals for earlier, later in pairwise(times) if start_s <= later <= end_s]


async def record(client: httpx.AsyncClient, body: dict[str, Any], arrivals: list[float]) -> None:
    """When each token came, until the task is cancelled."""
    async for event in events(client, body, "/v1/completions"):
        if event["choices"]:
            arrivals.append(time.perf_counter())  # noqa: PERF401  the task is cancelled, a list would be lost


# ---- servers and requests ----


def serve(args: argparse.Namespace, flags: list[str], measure: Any) -> dict[str, Any]:
    """Start a server with `flags`, warm it up, measure, stop it."""
    with server(args, flags) as url:

        async def run() -> dict[str, Any]:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=url, timeout=900, limits=limits) as client:
                await answer(client, completion(args, list(range(1000, 1064)), 4))
                result: dict[str, Any] = await measure(client, args)
                return {"flags": shlex.join(flags), "load_average": os.getloadavg()[0], **result}

        return asyncio.run(run())


@contextmanager
def server(args: argparse.Namespace, flags: list[str]) -> Iterator[str]:
    """A server that is ready."""
    command = [sys.executable, "-m", "headcount", "serve", "--model", args.model, "--port", str(args.port)]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, *KV_FLAGS, *flags], stdout=log, stderr=log)
        try:
            yield wait_ready(f"http://127.0.0.1:{args.port}", process)
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


def wait_ready(url: str, process: subprocess.Popen[bytes]) -> str:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/ready").status_code == 200:
                return url
        time.sleep(0.1)
    raise SystemExit(f"no server at {url} in {START_S} s (exit status {process.poll()})")


async def token_ids(client: httpx.AsyncClient, model: str) -> list[int]:
    """Ordinary ids to draw prompts from."""
    response = await client.post("/tokenize", json={"model": model, "prompt": WORDS, "add_special_tokens": False})
    ids: list[int] = response.raise_for_status().json()["tokens"]
    return ids


def completion(args: argparse.Namespace, prompt: list[int], max_tokens: int) -> dict[str, Any]:
    return {"model": args.model, "prompt": prompt, "max_tokens": max_tokens, **GREEDY}


async def answer(client: httpx.AsyncClient, body: dict[str, Any], path: str = "/v1/completions") -> Answer:
    start_s, first_s, text, usage = time.perf_counter(), 0.0, "", {}
    async for event in events(client, body, path):
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
            if (piece or choice.get("finish_reason")) and not first_s:
                first_s = time.perf_counter()
            text += piece
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Answer(first_s - start_s, text, usage["prompt_tokens"], cached)


async def events(client: httpx.AsyncClient, body: dict[str, Any], path: str) -> AsyncIterator[dict[str, Any]]:
    async with client.stream("POST", path, json=body) as response:
        if response.status_code != 200:
            raise SystemExit(f"{response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if found := re.fullmatch(r"data: (\{.*\})", line):
                yield json.loads(found[1])


def spread(name: str, values: list[float]) -> dict[str, float]:
    return {f"median_{name}": round(statistics.median(values), 4), f"worst_{name}": round(max(values), 4)}


SCENARIOS = {"shared_prefix": shared_prefix, "chat": chat, "long_prompt": long_prompt}


if __name__ == "__main__":
    main()
