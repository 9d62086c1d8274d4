"""A checkpoint through the decoder: prefill, decode steps and a chunked prefill, two ragged sequences at once."""

from pathlib import Path

import torch
from torch import Tensor

from engine.attention.registry import choose_backend
from engine.batch import build_batch
from engine.checkpoint import read_checkpoint
from engine.kernels.select import select_kernels
from engine.models.decoder import Decoder
from engine.models.tensor_names import build_weight_map
from engine.request import Request, SamplingParams, ScheduledBatch, ScheduledRequest
from engine.weights import load_parameters, pack_weights
from kvcache.manager import KVCacheManager
from kvcache.storage import KVStorage

BLOCK_SIZE = 4
NUM_DECODE_STEPS = 8
CPU = torch.device("cpu")


class Served:
    """A checkpoint, loaded.

    Args:
        folder: of the checkpoint.
        max_model_len: longest context.
        dtype: of weights, activations and cache.
        kernels: `reference`, or `auto` for the fastest.
    """

    def __init__(
        self, folder: Path, max_model_len: int, dtype: torch.dtype = torch.float32, kernels: str = "reference"
    ) -> None:
        checkpoint = read_checkpoint(folder)
        self.spec, self.geometry = checkpoint.spec, checkpoint.spec.kv_geometry(dtype.itemsize, BLOCK_SIZE)
        weight_map = build_weight_map(checkpoint.spec, checkpoint.tensor_names)
        parameters = load_parameters(self.spec, weight_map, checkpoint.headers, dtype, CPU)
        chosen = select_kernels(CPU, dtype, kernels)
        pack_weights(self.spec, parameters, chosen)
        self._decoder = Decoder(self.spec, parameters, max_model_len, chosen)
        self.num_blocks = 2 * self.geometry.num_blocks(max_model_len, num_scheduled_tokens=max_model_len)
        self.storage = KVStorage(self.geometry, self.num_blocks, dtype, CPU)
        for layer_idx in range(self.spec.num_layers):
            # What no token was written to must not be seen.
            self.storage.k(layer_idx).fill_(1e4)
            self.storage.v(layer_idx).fill_(1e4)
        self._attention = choose_backend(self.spec, dtype, CPU, kernels)[0](self.spec, self.storage)

    @torch.inference_mode()
    def logits(self, sequences: list[list[int]], steps: list[list[int]]) -> list[Tensor]:
        """Logits of every position, [seq_len, vocab_size] a sequence.

        Args:
            sequences: token ids.
            steps: how many tokens of each sequence are computed in each step.
        """
        requests = [
            Request(request_id=str(i), prompt_token_ids=ids, sampling_params=SamplingParams())
            for i, ids in enumerate(sequences)
        ]
        manager = KVCacheManager(self.geometry, self.num_blocks, enable_prefix_cache=False)
        done = [0] * len(sequences)
        parts: list[list[Tensor]] = [[] for _ in sequences]
        for counts in steps:
            scheduled = [i for i, count in enumerate(counts) if count]
            tables = [manager.allocate_slots(str(i), done[i] + counts[i]) for i in scheduled]
            items = [
                ScheduledRequest(requests[i], done[i], counts[i], table)
                for i, table in zip(scheduled, tables, strict=True)
                if table is not None
            ]
            batch = build_batch(ScheduledBatch(items), BLOCK_SIZE, CPU)
            self._attention.plan(batch)
            rows = self._decoder.logits(self._decoder(batch, self._attention)).split([counts[i] for i in scheduled])
            for i, logits in zip(scheduled, rows, strict=True):
                parts[i].append(logits)
                done[i] += counts[i]
                manager.commit_tokens(str(i), done[i], requests[i].token_ids)
        return [torch.cat(logits) for logits in parts]


def steps_of(lengths: list[int]) -> list[list[int]]:
    """Prefill of half of each sequence, decode steps, and the rest as one chunk."""
    halves = [length // 2 for length in lengths]
    rest = [length - half - NUM_DECODE_STEPS for length, half in zip(lengths, halves, strict=True)]
    return [halves, *([[1] * len(lengths)] * NUM_DECODE_STEPS), rest]


def assert_parity(given: Tensor, expected: Tensor, tolerance: float) -> None:
    """Every position within `tolerance` of the largest logit there, and of the same argmax."""
    expected = expected[..., : given.shape[-1]]
    errors = (given - expected).abs().amax(-1) / expected.abs().amax(-1)
    worst = int(errors.argmax())
    if not float(errors.max()) <= tolerance:
        raise AssertionError(
            f"relative error {errors.max():.2e} at position {worst}, allowed {tolerance:.0e}; {errors}"
        )
    if given.argmax(-1).tolist() != expected.argmax(-1).tolist():
        raise AssertionError("another most likely token")
