"""A step that is launched: it runs on the device, and its result is read when somebody needs it."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
from torch import Tensor

from engine.request import KVReceipt, ScheduledBatch, TokenLogprobs
from engine.sampler import Logprobs
from engine.transfers import Fetch


class StepOutput(NamedTuple):
    """What a step gives, in the order of ScheduledBatch.scheduled.

    Attributes:
        token_ids: the sampled token, None for a request that is still in its prompt.
        logprobs: of that token, None where not asked for.
        prompt_logprobs: of the prompt positions whose predecessors were computed, where asked for.
    """

    token_ids: list[int | None]
    logprobs: list[TokenLogprobs | None]
    prompt_logprobs: list[list[TokenLogprobs]]


class Reported(NamedTuple):
    """Log-probabilities that a step computes, beside the rows that they are for.

    Attributes:
        items: which requests, among those of the batch, a row each.
        num_tops: how many most probable tokens each row asks for.
        logprobs: on the device.
    """

    items: list[int]
    num_tops: list[int]
    logprobs: Logprobs


class PendingStep:
    """A launched step, on its way to the host.

    Args:
        num_items: requests in the batch.
        sampled_items: those of them whose next token is sampled.
        sampled: [len(sampled_items)] int64, on the device.
        of_samples: log-probabilities of sampled tokens.
        of_prompts: of prompt tokens, those of a request in order.
    """

    def __init__(
        self,
        num_items: int,
        sampled_items: Sequence[int],
        sampled: Tensor,
        of_samples: Sequence[Reported],
        of_prompts: Sequence[Reported],
    ) -> None:
        self._num_items = num_items
        self._sampled_items = sampled_items
        self._of_samples, self._of_prompts = of_samples, of_prompts
        reported = [tensor for part in (*of_samples, *of_prompts) for tensor in part.logprobs]
        self._fetch = Fetch([sampled, *reported])

    def result(self) -> StepOutput:
        """What the step gave; waits until it has run."""
        sampled, *reported = self._fetch.wait()
        tensors = iter(reported)
        token_ids: list[int | None] = [None] * self._num_items
        logprobs: list[TokenLogprobs | None] = [None] * self._num_items
        prompt_logprobs: list[list[TokenLogprobs]] = [[] for _ in range(self._num_items)]
        for item, token_id in zip(self._sampled_items, sampled.tolist(), strict=True):
            token_ids[item] = token_id
        for part in self._of_samples:
            found = Logprobs(*(next(tensors) for _ in Logprobs._fields)).to_list(part.num_tops)
            for item, logprob in zip(part.items, found, strict=True):
                logprobs[item] = logprob
        for part in self._of_prompts:
            found = Logprobs(*(next(tensors) for _ in Logprobs._fields)).to_list(part.num_tops)
            for item, logprob in zip(part.items, found, strict=True):
                prompt_logprobs[item].append(logprob)
        return StepOutput(token_ids, logprobs, prompt_logprobs)


class LaunchedStep(msgspec.Struct):
    """A step whose result is not booked yet."""

    batch: ScheduledBatch
    start_s: float
    """time.perf_counter() before it was launched."""
    pending: PendingStep | None = None
    """None: launching it failed."""
    num_reported: list[int] = []
    """Prompt positions of each request whose log-probabilities earlier steps gave."""
    receipts: list[KVReceipt | None] = []
    """What each request holds in it, where asked for."""
