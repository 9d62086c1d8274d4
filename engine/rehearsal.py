"""The largest step that can come, run once at the start on real tensors: how much workspace the engine needs.

The step is at least as large as any that the scheduler makes, in every respect at once: a prefill chunk of the whole token
budget at the end of the longest context, with log-probabilities of its prompt, beside as many decoding requests as may
run, all of them sampled in the way that takes most.

What a layer needs is free again when the next one begins, so the step runs through one layer of each kind, not through
all. And what is computed does not matter: all blocks of all requests are one block of a storage that exists for this only.
So the measurement costs a fraction of the step, needs no KV pool, and can say how large that pool may become.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import torch
from torch import Tensor

from engine import memory
from engine.attention.base import AttentionBackend
from engine.errors import KVCapacityError
from engine.grammar_states import GrammarStates
from engine.kernels.base import Kernels
from engine.models.decoder import Decoder
from engine.models.spec import DecoderSpec
from engine.request import MAX_LOGPROB_ROWS, MAX_LOGPROBS, Request, SamplingParams, ScheduledBatch, ScheduledRequest
from engine.runner import Runner
from engine.workspace import StepSize, largest_layers
from kvcache.storage import KVStorage

WARM_UP = StepSize(num_tokens=8, num_seqs=2, max_model_len=16, num_kv_tokens=32)
"""Runs before the measurement: code that is loaded and threads that start with their first use are no workspace."""

MOST = SamplingParams(temperature=1.0, top_p=0.5, logprobs=MAX_LOGPROBS, prompt_logprobs=MAX_LOGPROBS, seed=0)
"""Sampling that takes most: every row is sorted, and its own log-probabilities are kept beside."""


class Stage(NamedTuple):
    """What a model runs on.

    Attributes:
        spec: of the whole model.
        parameters: of the whole model.
        kernels: of its layers.
        backend: of its attention.
        block_size: tokens in a block.
        dtype: of activations, and of weights that are not quantized.
        kv_cache_dtype: of keys and values.
        scale_bytes: of the scale of a head's key, where the cache is 8 bits wide.
        device: where everything is.
    """

    spec: DecoderSpec
    parameters: Mapping[str, Tensor]
    kernels: Kernels
    backend: type[AttentionBackend]
    block_size: int
    dtype: torch.dtype
    kv_cache_dtype: torch.dtype
    scale_bytes: int
    device: torch.device


def measure_workspace(stage: Stage, size: StepSize) -> int:
    """Bytes that the largest step of `size` takes beyond weights and KV pool. Side effects: the device is warm.

    Raises:
        KVCapacityError: there is no room for it.
    """
    runner, num_groups = build_rehearsal(stage, size.max_model_len)
    batch = largest_step(size, stage.block_size, num_groups, is_short=not stage.backend.grows_with_context)
    warm_up = msgspec.structs.replace(WARM_UP, max_model_len=min(WARM_UP.max_model_len, size.max_model_len))
    try:
        runner.execute(largest_step(warm_up, stage.block_size, num_groups))
        with memory.peak_of(stage.device) as peak:
            runner.execute(batch)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise KVCapacityError(
            f"a step of {size.num_tokens} tokens of {size.num_seqs} requests does not fit beside the weights: lower"
            " --max-num-batched-tokens or --max-num-seqs"
        ) from error
    return peak.num_bytes


def largest_step(size: StepSize, block_size: int, num_groups: int, *, is_short: bool = False) -> ScheduledBatch:
    """Prefill chunks of the whole token budget, and decoding requests in all places that are left.

    Args:
        size: of the step.
        block_size: tokens in a block.
        num_groups: of layers, each with a block table.
        is_short: contexts of no more than the step's own tokens: where scratch does not depend on them, their time is
            saved. Block tables are as long as ever.
    """
    block_tables = [[0] * -(-size.max_model_len // block_size) for _ in range(num_groups)]

    def schedule(request_id: str, seq_len: int, query_len: int) -> ScheduledRequest:
        seq_len = query_len if is_short else seq_len
        # Rows of log-probabilities are computed so many at a time: the time of further ones would be lost.
        num_reported = max(0, seq_len - 1 - MAX_LOGPROB_ROWS) if query_len > 1 else seq_len
        request = Request(
            request_id=request_id,
            prompt_token_ids=[0] * seq_len,
            sampling_params=MOST,
            num_reported_prompt_logprobs=num_reported,
        )
        return ScheduledRequest(request, seq_len - query_len, query_len, block_tables)

    chunks = [schedule(f"prefill-{i}", size.max_model_len, num_tokens) for i, num_tokens in enumerate(size.chunks)]
    decodes = [schedule(f"decode-{i}", size.decode_len, 1) for i in range(size.num_decodes)]
    return ScheduledBatch([*chunks, *decodes])


def build_rehearsal(stage: Stage, max_model_len: int) -> tuple[Runner, int]:
    """A runner of the largest layers alone, on a storage of one block, and the number of its layer groups."""
    spec, parameters = _largest_layers(stage.spec, stage.parameters)
    geometry = spec.kv_geometry(stage.kv_cache_dtype.itemsize, stage.block_size, stage.scale_bytes)
    storage = KVStorage(geometry, 1, stage.kv_cache_dtype, stage.device)
    decoder = Decoder(spec, parameters, max_model_len, stage.kernels, stage.dtype)
    attention = stage.backend(spec, storage)
    runner = Runner(
        decoder,
        attention,
        block_size=stage.block_size,
        eos_token_ids=[],
        device=stage.device,
        grammars=GrammarStates(spec.vocab_size, []),
    )
    return runner, len(geometry.groups)


def _largest_layers(spec: DecoderSpec, parameters: Mapping[str, Tensor]) -> tuple[DecoderSpec, dict[str, Tensor]]:
    """The model with a layer of each kind only."""
    chosen = largest_layers(spec)
    layers = tuple(spec.layers[layer_idx] for layer_idx in chosen)
    mix = spec.residual_mix and msgspec.structs.replace(spec.residual_mix, backout_layer=0)
    kept = {name: tensor for name, tensor in parameters.items() if not name.startswith("layers.")}
    for place, layer_idx in enumerate(chosen):
        prefix = f"layers.{layer_idx}."
        kept |= {
            f"layers.{place}.{name.removeprefix(prefix)}": tensor
            for name, tensor in parameters.items()
            if name.startswith(prefix)
        }
    return msgspec.structs.replace(spec, layers=layers, residual_mix=mix), kept
