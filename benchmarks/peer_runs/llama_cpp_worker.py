"""llama.cpp's llama_decode, several sequences in a batch, as a worker: GGUF_FILE NUM_THREADS.

Runs in the virtual environment that has llama-cpp-python; its low-level functions are llama.cpp's own.
"""

import sys
import time
from typing import Any, NamedTuple

import llama_cpp
import numpy as np

from benchmarks.peer_runs.worker import Job, Result, serve

BATCH_TOKENS = 2048
"""Tokens that one llama_decode takes, as llama.cpp's own tools set it."""
CONTEXT_MULTIPLE = 256


class Context(NamedTuple):
    """A KV cache for some number of sequences, with a batch to fill.

    Attributes:
        handle: llama_context.
        batch: llama_batch.
        vocab_size: columns of the logits.
    """

    handle: Any
    batch: Any
    vocab_size: int


class Row(NamedTuple):
    """One token of a batch: the logits after it are wanted or not."""

    token: int
    position: int
    sequence: int
    has_logits: bool


def main() -> None:
    path, num_threads = sys.argv[1:]
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
    if not model:
        raise SystemExit(f"llama.cpp cannot load {path}")
    contexts: dict[tuple[int, int], Context] = {}

    def run_job(job: Job) -> Result:
        length = -(-(len(job.prompts[0]) + job.num_output_tokens) // CONTEXT_MULTIPLE) * CONTEXT_MULTIPLE
        shape = (len(job.prompts), length)
        if shape not in contexts:
            contexts[shape] = _make_context(model, *shape, int(num_threads))
        return run(contexts[shape], job)

    serve({"llama-cpp-python": llama_cpp.__version__}, run_job)


def _make_context(model: Any, num_sequences: int, length: int, num_threads: int) -> Context:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = num_sequences * length
    params.n_seq_max = num_sequences
    params.n_batch = BATCH_TOKENS
    params.n_threads = params.n_threads_batch = num_threads
    handle = llama_cpp.llama_init_from_model(model, params)
    if not handle:
        raise SystemExit(f"llama.cpp has no room for {num_sequences} sequences of {length} tokens")
    vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    return Context(handle, llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1), vocab_size)


def run(context: Context, job: Job) -> Result:
    """Prefill all prompts, then decode all sequences in step."""
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context.handle), True)
    rows = [
        Row(token, position, sequence, position == len(prompt) - 1)
        for sequence, prompt in enumerate(job.prompts)
        for position, token in enumerate(prompt)
    ]
    started_s = time.perf_counter()
    tokens = [
        token for start in range(0, len(rows), BATCH_TOKENS) for token in _decode(context, rows[start:][:BATCH_TOKENS])
    ]
    first_s, outputs, length = time.perf_counter(), [[token] for token in tokens], len(job.prompts[0])
    for position in range(length, length + job.num_output_tokens - 1):
        tokens = _decode(context, [Row(token, position, sequence, True) for sequence, token in enumerate(tokens)])
        for output, token in zip(outputs, tokens, strict=True):
            output.append(token)
    ended_s = time.perf_counter()
    num_decode_tokens = len(job.prompts) * (job.num_output_tokens - 1)
    return Result(first_s - started_s, ended_s - first_s, num_decode_tokens, outputs)


def _decode(context: Context, rows: list[Row]) -> list[int]:
    """One llama_decode; the likeliest next token after each row whose logits are wanted."""
    batch = context.batch
    batch.n_tokens = len(rows)
    for index, row in enumerate(rows):
        batch.token[index], batch.pos[index] = row.token, row.position
        batch.n_seq_id[index], batch.seq_id[index][0] = 1, row.sequence
        batch.logits[index] = row.has_logits
    status = llama_cpp.llama_decode(context.handle, batch)
    if status:
        raise SystemExit(f"llama_decode failed with status {status}")
    num_wanted = sum(row.has_logits for row in rows)
    if not num_wanted:
        llama_cpp.llama_synchronize(context.handle)
        return []
    # The logits that were asked for lie one after the other; reading them waits for the end of the computation.
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context.handle), (num_wanted, context.vocab_size))
    return [int(token) for token in logits.argmax(axis=1)]


if __name__ == "__main__":
    main()
