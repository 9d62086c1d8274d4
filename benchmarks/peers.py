"""headcount beside its peers: the same weights, prompts, cores and precision, in turn, in one run.

    python -m benchmarks.peers --output benchmarks/results/peers_LEVEL.json

Peers: transformers (generate), llama.cpp (llama_decode through llama-cpp-python, installed into a virtual environment of
its own unless --llama-cpp-python names an interpreter that has it) with BF16 and Q8_0 files written from our checkpoint,
and llama.cpp's server where --llama-server, or the PATH, has one. Each is a process of its own with the model loaded; in
every round each takes its turn, so that a machine that slows down slows all, and ratios are of medians. What cannot be run
is in the report as "skipped", with the reason.
"""

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.peer_runs.gguf_files import demo_gguf
from benchmarks.peer_runs.http_servers import (
    find_llama_server,
    headcount_command,
    llama_server_command,
    measure_http,
    running,
)
from benchmarks.peer_runs.processes import REST_S, PeerError, Worker, llama_cpp_python
from benchmarks.peer_runs.worker import Job, Result
from benchmarks.report import new_report, write_report
from checkpoints.resolve import resolve_model
from server.cli.machine import num_cores
from server.tokenizer import Tokenizer

TEXTS = (
    "The capital of France is",
    "Once upon a time there was a small dragon who",
    "To make bread you need flour, water, salt and",
    "The first law of thermodynamics says that",
)
OURS = {"bfloat16": "headcount bf16", "int8": "headcount int8"}
PAIRS = {
    "transformers bf16": OURS["bfloat16"],
    "llama.cpp BF16": OURS["bfloat16"],
    "llama.cpp Q8_0": OURS["int8"],
}
"""Peer -> which of ours it is compared with."""
PEERS = ("transformers", "llama.cpp")


class Case(NamedTuple):
    """One measurement in process: so many prompts of that length, and what is generated after each."""

    batch_size: int
    prompt_tokens: int
    output_tokens: int


CASES = (Case(1, 128, 64), Case(8, 128, 64), Case(32, 128, 64), Case(1, 2000, 32), Case(4, 2000, 32))


def main() -> None:
    args = parse_arguments()
    folder = resolve_model("demo")
    before = os.getloadavg()
    report = new_report("peers", settings={"rounds": args.rounds, "model": "demo"}, skipped={})
    report["machine"]["threads"] = args.threads
    if not args.only_http:
        report |= in_process(args, folder, report["skipped"])
    if not args.only_in_process:
        report["http"] = over_http(args, folder, report["skipped"])
    report["load_average"] = {"before": before, "after": os.getloadavg()}
    show(report)
    write_report(report, args.output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--cases", type=parse_case, nargs="+", default=CASES, metavar="BATCHxPROMPTxOUTPUT")
    parser.add_argument(
        "--peers", nargs="+", choices=PEERS, default=PEERS, help="in process; transformers takes longest"
    )
    parser.add_argument("--llama-cpp-python", help="an interpreter that imports llama_cpp; none: make one")
    parser.add_argument("--llama-server", help="llama.cpp's server; none: the one in the PATH")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only-in-process", action="store_true")
    which.add_argument("--only-http", action="store_true")
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def parse_case(text: str) -> Case:
    batch_size, prompt_tokens, output_tokens = map(int, text.split("x"))
    return Case(batch_size, prompt_tokens, output_tokens)


# ---- in process ----


def in_process(args: argparse.Namespace, folder: Path, skipped: dict[str, str]) -> dict[str, Any]:
    """Every case, every worker; and how far they agree on what comes after a few texts."""
    starts = worker_starts(args, folder)
    with ExitStack() as stack:
        workers = {}
        for name, start in starts.items():
            if not is_wanted(name, args.peers):
                skipped[name] = "not asked for"
                continue
            try:
                workers[name] = stack.enter_context(closing(start()))
            except PeerError as error:
                skipped[name] = str(error)
        return {
            "versions": {name: worker.versions for name, worker in workers.items()},
            "agreement": agreement(workers, folder),
            "in_process": [measure(workers, case, args.rounds, skipped) for case in args.cases],
        }


def is_wanted(name: str, peers: list[str]) -> bool:
    """Whether that one runs: ours always does."""
    return name in OURS.values() or any(name.startswith(peer) for peer in peers)


def worker_starts(args: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Worker]]:
    threads = str(args.threads)

    def ours(quantization: str) -> Worker:
        return Worker(sys.executable, "headcount_worker", str(folder), "bfloat16", quantization, threads)

    def llama_cpp(name: Any) -> Worker:
        python = llama_cpp_python(args.llama_cpp_python)
        return Worker(python, "llama_cpp_worker", str(demo_gguf(folder, name)), threads)

    return {
        "transformers bf16": lambda: Worker(sys.executable, "transformers_worker", str(folder), "bfloat16", threads),
        OURS["bfloat16"]: lambda: ours("none"),
        "llama.cpp BF16": lambda: llama_cpp("bf16"),
        OURS["int8"]: lambda: ours("int8"),
        "llama.cpp Q8_0": lambda: llama_cpp("q8_0"),
    }


def measure(workers: dict[str, Worker], case: Case, rounds: int, skipped: dict[str, str]) -> dict[str, Any]:
    """Medians over rounds, after one that does not count, and ratios of ours to each peer.

    A worker that dies is taken out, and this case and the later ones go on without it.
    """
    draw = random.Random(0)
    vocabulary = range(100, 40_000)
    prompts = [draw.choices(vocabulary, k=case.prompt_tokens) for _ in range(case.batch_size)]
    results: dict[str, list[Result]] = {name: [] for name in workers}
    for _ in range(rounds + 1):
        for name in list(workers):
            time.sleep(REST_S)
            try:
                results[name].append(workers[name].run(Job(prompts, case.output_tokens)))
            except PeerError as error:
                skipped[f"{name} from batch {case.batch_size} x {case.prompt_tokens} tokens on"] = str(error)
                del workers[name], results[name]
    figures = {name: rates(case, seen[1:]) for name, seen in results.items()}
    return case._asdict() | {"figures": figures, "ratios": ratios(figures)}


def rates(case: Case, results: list[Result]) -> dict[str, float]:
    num_prompt_tokens = case.batch_size * case.prompt_tokens
    return {
        "prefill_tokens_per_s": statistics.median(num_prompt_tokens / one.prefill_s for one in results),
        "decode_tokens_per_s": statistics.median(one.num_decode_tokens / one.decode_s for one in results),
    }


def ratios(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Ours over the peer's, for every peer that ran beside ours of the same precision."""
    found = {}
    for peer, mine in PAIRS.items():
        if "skipped" not in figures.get(peer, {"skipped": ""}) and "skipped" not in figures.get(mine, {"skipped": ""}):
            pairs = ((name, figures[mine][name], value) for name, value in figures[peer].items())
            found[peer] = {name: round(ours / value, 3) for name, ours, value in pairs if isinstance(value, float)}
    return found


def agreement(workers: dict[str, Worker], folder: Path, num_tokens: int = 32) -> dict[str, Any]:
    """Greedy tokens that are the same as ours in bfloat16 before the first that differs, of `num_tokens`, text by text.

    Roundings differ, and where two tokens are nearly as likely so does the choice: after that, texts part.
    """
    tokenizer = Tokenizer(folder)
    prompts = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    outputs = {
        name: [worker.run(Job([prompt], num_tokens)).output_token_ids[0] for prompt in prompts]
        for name, worker in workers.items()
    }
    ours = outputs[OURS["bfloat16"]]
    return {
        "num_tokens": num_tokens,
        "same_as_ours": {
            name: [common_prefix(mine, theirs) for mine, theirs in zip(ours, found, strict=True)]
            for name, found in outputs.items()
            if name != OURS["bfloat16"]
        },
    }


def common_prefix(first: list[int], second: list[int]) -> int:
    pairs = enumerate(zip(first, second, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(first), len(second)))


# ---- over HTTP ----


def over_http(args: argparse.Namespace, folder: Path, skipped: dict[str, str]) -> list[dict[str, Any]]:
    """128 tokens in, 64 out, streamed, at each number of streams."""
    commands: dict[str, list[str]] = {}
    for name, command in server_commands(args, folder):
        try:
            commands[name] = command()
        except PeerError as error:
            skipped[f"{name} over HTTP"] = str(error)
    rows = []
    with running(commands, skipped) as urls:
        for streams in args.streams:
            figures = measure_http(urls, folder, streams, (128, 64), args.rounds)
            rows.append({"streams": streams, "figures": figures, "ratios": ratios(figures)})
    return rows


def server_commands(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    yield OURS["bfloat16"], lambda: headcount_command(folder, args.threads)
    yield OURS["int8"], lambda: headcount_command(folder, args.threads, "int8")
    for name, file in (("llama.cpp BF16", "bf16"), ("llama.cpp Q8_0", "q8_0")):
        yield name, lambda file=file: llama_server(args, folder, file)  # type: ignore[misc]


def llama_server(args: argparse.Namespace, folder: Path, file: Any) -> list[str]:
    binary = find_llama_server(args.llama_server)
    return llama_server_command(binary, demo_gguf(folder, file), args.threads, max(args.streams))


# ---- for people ----


def show(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    for row in report.get("in_process", []):
        title = f"batch {row['batch_size']}, {row['prompt_tokens']:,} tokens of context"
        console.print(table(title, row["figures"], row["ratios"]))
    for row in report.get("http", []):
        console.print(table(f"{row['streams']} streams over HTTP", row["figures"], row["ratios"]))
    for name, tokens in report.get("agreement", {}).get("same_as_ours", {}).items():
        console.print(f"{name}: the same {tokens} greedy tokens as ours, of {report['agreement']['num_tokens']}")
    for name, reason in report["skipped"].items():
        console.print(f"{name}: skipped: {reason}", style="yellow", markup=False)


def table(title: str, figures: dict[str, dict[str, Any]], found: dict[str, dict[str, float]]) -> Table:
    names = [name for name, value in next(iter(figures.values())).items() if isinstance(value, float)]
    result = Table("", title=title, title_justify="left")
    for heading in (*names, *(f"ours / its {name}" for name in names)):
        result.add_column(heading.replace("_", " "), justify="right")
    for peer, values in figures.items():
        ratio = found.get(peer, {})
        cells = [f"{values[name]:,.4g}" if name in values else "skipped" for name in names]
        result.add_row(peer, *cells, *(f"{ratio[name]:.2f}" if name in ratio else "" for name in names))
    return result


if __name__ == "__main__":
    main()
