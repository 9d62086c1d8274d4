"""The heart of the engine: schedule, execute, update."""

import secrets
import time
from collections.abc import Iterable

import msgspec

from engine.info import EngineInfo, EngineStats, Observations, RequestState
from engine.request import (
    FinishReason,
    KVReceipt,
    Request,
    RequestStatus,
    ScheduledBatch,
    ScheduledRequest,
    TokenDelta,
)
from engine.runner import Runner, StepOutput
from engine.scheduler import Scheduler, finish_reason_of
from kvcache.block_map import BlockSnapshot
from kvcache.manager import KVCacheManager


class EngineCore:
    """Requests in, token deltas out, one step at a time.

    Args:
        info: what was loaded.
        scheduler: decides.
        runner: computes.
        manager: the scheduler's, read here for the stats.
    """

    def __init__(self, info: EngineInfo, scheduler: Scheduler, runner: Runner, manager: KVCacheManager) -> None:
        self.info = info
        self._scheduler = scheduler
        self._runner = runner
        self._manager = manager
        self._eos_token_ids = set(info.eos_token_ids)
        self._stats = EngineStats()
        self._bytes_by_window = info.geometry.bytes_by_window

    @property
    def has_requests(self) -> bool:
        """Whether a step would have something to do."""
        return self._scheduler.num_running + self._scheduler.num_waiting > 0

    def add(self, request: Request) -> None:
        """Take a request; `engine.admission.check_request` says beforehand whether it can ever run."""
        if request.sampling_params.seed is None:
            seeded = msgspec.structs.replace(request.sampling_params, seed=secrets.randbits(63))
            request.sampling_params = seeded
        self._scheduler.add(request)

    def abort(self, request_id: str) -> TokenDelta | None:
        """End a request now and free its blocks; None where it has ended already."""
        request = self._scheduler.finish(request_id)
        return TokenDelta(request_id, finish_reason=FinishReason.ABORT) if request else None

    def step(self) -> list[TokenDelta]:
        """Compute one step: the whole engine in three lines."""
        batch = self._scheduler.schedule()
        if batch is None:
            return []
        start_s = time.perf_counter()
        output = self._runner.execute(batch)
        self._observe(batch, time.perf_counter() - start_s)
        return self._update(batch, output)

    def fail_all(self, message: str) -> list[TokenDelta]:
        """End every request with an error: a step has failed, and nobody can say for whose sake."""
        for request_id in (ids := self._scheduler.request_ids()):
            self._scheduler.finish(request_id)
        return [TokenDelta(request_id, finish_reason=FinishReason.ERROR, error=message) for request_id in ids]

    def take_stats(self) -> EngineStats:
        """A snapshot; the observations in it are handed over and start anew."""
        stats, scheduler, manager = self._stats, self._scheduler, self._manager
        stats.num_running, stats.num_waiting = scheduler.num_running, scheduler.num_waiting
        stats.num_waiting_tokens, stats.preemptions = scheduler.num_waiting_tokens, scheduler.num_preemptions
        stats.num_free_blocks, stats.num_used_blocks = manager.num_free_blocks, manager.num_used_blocks
        stats.num_cached_blocks, stats.num_filled_slots = manager.num_cached_blocks, manager.num_filled_slots
        stats.observations.queue_seconds, scheduler.queue_seconds = scheduler.queue_seconds, []
        snapshot = msgspec.structs.replace(stats)
        stats.observations = Observations()
        return snapshot

    def block_snapshot(self) -> BlockSnapshot:
        """Who holds which blocks; its lists are live, see kvcache/block_map.py."""
        return self._manager.snapshot()

    def request_states(self, request_ids: Iterable[str]) -> list[RequestState]:
        """Those of these requests that are here, as they are now."""
        found = [self._scheduler.find(request_id) for request_id in request_ids]
        return [self._request_state(request) for request in found if request is not None]

    def check_integrity(self) -> None:
        """Raise PoolIntegrityError where the pool's books do not add up."""
        self._manager.check_integrity()

    def _observe(self, batch: ScheduledBatch, seconds: float) -> None:
        self._scheduler.observe(batch, seconds)
        self._stats.observations.step_seconds.append(seconds)
        self._stats.observations.step_tokens.append(batch.num_tokens)
        for window, token_bytes in self._bytes_by_window.items():
            seen = (item.seq_len if window is None else min(item.seq_len, window) for item in batch.scheduled)
            self._stats.kv_read_bytes += sum(seen) * token_bytes

    def _update(self, batch: ScheduledBatch, output: StepOutput) -> list[TokenDelta]:
        """Book what a step computed; a delta for every request that has something to tell."""
        deltas = []
        for row, item in enumerate(batch.scheduled):
            if item.request.status is not RequestStatus.RUNNING:
                continue
            delta = self._advance(item, output.token_ids[row])
            if (logprobs := output.logprobs[row]) is not None and delta.token_ids:
                delta.logprobs = [logprobs]
            delta.prompt_logprobs = output.prompt_logprobs[row]
            item.request.num_reported_prompt_logprobs += len(delta.prompt_logprobs)
            if delta.token_ids or delta.prompt_logprobs or delta.finish_reason:
                deltas.append(delta)
        return deltas

    def _advance(self, item: ScheduledRequest, token_id: int | None) -> TokenDelta:
        """Book one request's part of a step: its KV is valid, its new token is out, it may have ended."""
        request, stats = item.request, self._stats
        self._count_prompt_tokens(item)
        request.num_computed_tokens = item.seq_len
        self._manager.commit_tokens(request.request_id, item.seq_len, request.token_ids)
        request.num_peak_blocks = max(request.num_peak_blocks, self._manager.num_held_blocks(request.request_id))
        delta = TokenDelta(request.request_id, num_cached_tokens=request.num_cached_tokens)
        delta.kv_receipt = self._receipt(request) if request.enable_kv_receipt else None
        if token_id is None:
            return delta
        if request.sampling_params.max_tokens == 0:
            delta.finish_reason = FinishReason.LENGTH
        else:
            request.output_token_ids.append(token_id)
            stats.generation_tokens += 1
            delta.token_ids = [token_id]
            delta.finish_reason = finish_reason_of(request, self._eos_token_ids, self.info.max_model_len)
        if delta.finish_reason is FinishReason.STOP:
            delta.stop_token_id = token_id
        if delta.finish_reason is not None:
            self._scheduler.finish(request.request_id)
        return delta

    def _count_prompt_tokens(self, item: ScheduledRequest) -> None:
        """Prompt tokens count once, when they are first computed; those from the prefix cache count as cached."""
        request = item.request
        if request.num_counted_prompt_tokens == 0:
            self._stats.cached_prompt_tokens += item.num_computed_tokens
        num_valid = min(item.seq_len, request.num_prompt_tokens)
        self._stats.prompt_tokens += max(0, num_valid - request.num_counted_prompt_tokens)
        request.num_counted_prompt_tokens = max(request.num_counted_prompt_tokens, num_valid)

    def _receipt(self, request: Request) -> KVReceipt:
        return KVReceipt(
            num_blocks=self._manager.num_held_blocks(request.request_id),
            num_peak_blocks=request.num_peak_blocks,
            num_tokens=request.num_computed_tokens,
            num_wasted_slots=self._manager.num_wasted_slots(request.request_id),
        )

    def _request_state(self, request: Request) -> RequestState:
        return RequestState(
            request_id=request.request_id,
            status=request.status,
            num_prompt_tokens=request.num_prompt_tokens,
            num_output_tokens=len(request.output_token_ids),
            num_cached_tokens=request.num_cached_tokens,
            num_preemptions=request.num_preemptions,
            kv_receipt=self._receipt(request),
        )
