"""How well a model foretells a text, and how fast it runs: measured on the engine that serves it."""

import math
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from checkpoints.tokenizer_folder import load_tokenizer
from configs.cache import CacheSettings
from configs.engine import EngineSettings
from configs.model import ModelSettings
from configs.scheduler import SchedulerSettings
from engine.checkpoint import read_checkpoint
from engine.core import EngineCore
from engine.dtypes import DTYPE_BYTES
from engine.loading import load_engine
from engine.request import Request, SamplingParams
from heads.results import Quality, Speed
from heads.texts import cut_windows, read_text

WINDOW_TOKENS = 512
BATCH_SIZE = 4
DECODE_STEPS = 32
PROMPT_TOKENS = 256
NUM_ROUNDS = 7
"""Of a speed measurement; one more comes first, to warm up."""


class Foretold(NamedTuple):
    """What a model makes of a text.

    Attributes:
        logprobs: of each token that has another before it in its window.
        choices: the token that the model held most probable there.
    """

    logprobs: list[float]
    choices: list[int]

    def quality(self, source: "Foretold") -> Quality:
        """The figures, beside the model that this one was made of."""
        loss = -statistics.fmean(self.logprobs)
        same = statistics.fmean(a == b for a, b in zip(self.choices, source.choices, strict=True))
        return Quality(len(self.logprobs), loss, math.exp(loss), same)


def read_windows(folder: Path, text: str) -> list[list[int]]:
    """The text, or the file of that name, as the model's token ids in pieces.

    Raises:
        HeadsError: the text is too short or too long.
        CheckpointError: the tokenizer cannot be read.
    """
    longest = read_checkpoint(folder).spec.max_position_embeddings
    token_ids: list[int] = load_tokenizer(folder)[0].encode(read_text(text), add_special_tokens=True).ids
    return cut_windows(token_ids, min(WINDOW_TOKENS, longest))


def foretell(core: EngineCore, windows: list[list[int]]) -> Foretold:
    """Log-probabilities and choices of the loaded model over `windows`, one after the other."""
    params = SamplingParams(max_tokens=0, prompt_logprobs=1)
    found = Foretold([], [])
    for index, window in enumerate(windows):
        core.add(Request(request_id=f"window-{index}", prompt_token_ids=window, sampling_params=params))
        while core.has_requests:
            for delta in core.step():
                found.logprobs.extend(entry.logprob for entry in delta.prompt_logprobs)
                found.choices.extend(entry.top_token_ids[0] for entry in delta.prompt_logprobs)
    return found


def measure_speeds(cores: Sequence[EngineCore]) -> list[Speed]:
    """Medians over rounds of one batch of random prompts; the models take turns, so that a busy machine is so for all."""
    rounds = [[_measure_round(core) for core in cores] for _ in range(NUM_ROUNDS + 1)][1:]
    return [_speed(core, [of_all[index] for of_all in rounds]) for index, core in enumerate(cores)]


def _speed(core: EngineCore, rounds: list[tuple[float, float]]) -> Speed:
    prompt_tokens = _prompt_tokens(core)
    return Speed(
        kv_bytes_per_token=core.info.geometry.bytes_per_token,
        weights_bytes=core.info.ledger.weights_bytes,
        prefill_tokens_per_s=statistics.median(BATCH_SIZE * prompt_tokens / prefill_s for prefill_s, _ in rounds),
        decode_tokens_per_s=statistics.median(BATCH_SIZE / step_s for _, step_s in rounds),
        batch_size=BATCH_SIZE,
        prompt_tokens=prompt_tokens,
    )


def _prompt_tokens(core: EngineCore) -> int:
    return min(PROMPT_TOKENS, core.info.max_model_len - DECODE_STEPS - 2)


def _measure_round(core: EngineCore) -> tuple[float, float]:
    """Seconds until every request of a batch has its first token, and median seconds of a decode step after that."""
    generator = torch.Generator().manual_seed(0)
    params = SamplingParams(temperature=0, max_tokens=DECODE_STEPS + 1, ignore_eos=True)
    prompts = torch.randint(0, core.info.vocab_size, (BATCH_SIZE, _prompt_tokens(core)), generator=generator).tolist()
    waiting = {f"prompt-{index}" for index in range(BATCH_SIZE)}
    for request_id, prompt in zip(sorted(waiting), prompts, strict=True):
        core.add(Request(request_id=request_id, prompt_token_ids=prompt, sampling_params=params))
    started_s = time.perf_counter()
    while waiting:
        waiting -= {delta.request_id for delta in core.step() if delta.token_ids}
    prefill_s, steps_s = time.perf_counter() - started_s, []
    while core.has_requests:
        started_s = time.perf_counter()
        core.step()
        steps_s.append(time.perf_counter() - started_s)
    return prefill_s, statistics.median(steps_s)


def load_for_evaluation(folder: Path) -> EngineCore:
    """The model as it is served, with room for the batch that is measured.

    Raises:
        EngineError, CheckpointError: it cannot be loaded.
    """
    checkpoint = read_checkpoint(folder)
    longest = min(checkpoint.spec.max_position_embeddings, WINDOW_TOKENS + 1)
    num_bytes = DTYPE_BYTES[checkpoint.dtype_name(ModelSettings())]
    geometry = checkpoint.spec.kv_geometry(num_bytes, CacheSettings().block_size)
    settings = EngineSettings(
        model_settings=ModelSettings(max_model_len=longest),
        cache=CacheSettings(
            kv_cache_memory_bytes=2 * BATCH_SIZE * geometry.bytes_per_request(longest), enable_prefix_cache=False
        ),
        scheduler=SchedulerSettings(max_num_seqs=BATCH_SIZE, max_num_batched_tokens=BATCH_SIZE * PROMPT_TOKENS),
    )
    return load_engine(folder, settings)


def compare_quality(source: Path, changed: Path, windows: list[list[int]]) -> tuple[Quality, Quality]:
    """The figures of the model and of what was made of it, over the same tokens.

    Raises:
        EngineError, CheckpointError: one of them cannot be loaded.
    """
    before = foretell(load_for_evaluation(source), windows)
    after = foretell(load_for_evaluation(changed), windows)
    return before.quality(before), after.quality(before)
