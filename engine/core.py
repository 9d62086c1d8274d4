"""The heart of the engine: schedule, launch, settle.

A step is booked in two parts. What is known without its result is booked when it is launched: the KV it writes, and that
a token is on its way. What depends on the result is booked when that is read: the tokens, and who has ended. With overlap
the next step is planned and launched between the two:

    host     plan 1  launch 1  plan 2  launch 2  settle 1  plan 3  launch 3  settle 2
    device           [----- step 1 -----][------ step 2 ------][------ step 3 ------]

A request that ended by a stop token in step 1 is in step 2 too: what that gives for it is dropped. Its blocks are free when
step 1 is settled, although step 2 still writes to them: whoever takes them next writes after that.
"""

import secrets
import time
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from engine.attention.cpu import CpuBackend
from engine.grammar_states import Begun, GrammarStates
from engine.info import EngineInfo, EngineStats, Observations, RequestState
from engine.isolation import Isolation
from engine.pending import LaunchedStep, StepOutput
from engine.request import (
    FinishReason,
    KVReceipt,
    Request,
    RequestStatus,
    ScheduledBatch,
    ScheduledRequest,
    TokenDelta,
)
from engine.runner import Runner
from engine.scheduler import Scheduler, finish_reason_of
from engine.token_bytes import TokenBytes
from engine.torch_threads import torch_threads
from kvcache.block_map import BlockSnapshot
from kvcache.manager import KVCacheManager


class EngineCore:
    """Requests in, token deltas out, one step at a time.

    Args:
        info: what was loaded.
        scheduler: decides.
        runner: computes.
        manager: the scheduler's, read here for the stats.
        grammars: the runner's.
        enable_overlap: launch each step before the one before it is settled.
    """

    def __init__(
        self,
        info: EngineInfo,
        scheduler: Scheduler,
        runner: Runner,
        manager: KVCacheManager,
        grammars: GrammarStates,
        *,
        enable_overlap: bool = False,
    ) -> None:
        self.info = info
        self._scheduler = scheduler
        self._runner = runner
        self._manager = manager
        self._grammars = grammars
        self._max_unsettled = 1 if enable_overlap else 0
        # Native kernels have threads of their own.
        self._num_torch_threads = 1 if info.attention_backend == CpuBackend.name else None
        self._launched: deque[LaunchedStep] = deque()
        self._isolation = Isolation()
        self._settled_s = 0.0
        self._eos_token_ids = set(info.eos_token_ids)
        self._stats = EngineStats()
        self._bytes_by_window = info.geometry.bytes_by_window

    @property
    def has_requests(self) -> bool:
        """Whether a step would have something to do."""
        return self._has_work or self._grammars.num_beginning > 0

    def learn(self, token_bytes: TokenBytes) -> None:
        """What tokens stand for; needed before the first request with a grammar."""
        self._grammars.learn(token_bytes)

    def add(self, request: Request) -> None:
        """Take a request; `engine.admission.check_request` says beforehand whether it can ever run."""
        if request.sampling_params.seed is None:
            seeded = msgspec.structs.replace(request.sampling_params, seed=secrets.randbits(63))
            request.sampling_params = seeded
        if request.sampling_params.grammar:
            self._grammars.begin(request)
        else:
            self._scheduler.add(request)

    def abort(self, request_id: str) -> TokenDelta | None:
        """End a request now and free its blocks; None where it has ended already."""
        request = self._finish(request_id)
        return TokenDelta(request_id, finish_reason=FinishReason.ABORT) if request else None

    def step(self) -> list[TokenDelta]:
        """Launch a step, then settle it, or with overlap the one before it: the whole engine in a few lines."""
        refused = self._admit_begun()
        with torch_threads(self._num_torch_threads):
            if batch := self._schedule():
                self._launch(batch)
            is_due = len(self._launched) > (self._max_unsettled if batch else 0)
            return refused + (self._settle() if is_due else [])

    def fail_step(self, message: str) -> list[TokenDelta]:
        """A step has failed: of the steps that are not settled, one request ends, or it is found which one has to.

        The others are computed again. Where no step was launched, everybody's request ends: what failed is the scheduling.

        Side effects: no prefix can be found any more, since blocks of those steps may hold anything.

        Raises:
            RuntimeError: the device is lost; only a new process gets it back.
        """
        unsettled = {item.request.request_id: item.request for step in self._launched for item in step.batch.scheduled}
        failed = {name: one for name, one in unsettled.items() if one.status is not RequestStatus.FINISHED}
        ids = list(failed) if self._launched else self._scheduler.request_ids()
        if self._launched and len(failed) > 1:
            self._start_over(failed)
            ids = []
        for request_id in ids:
            self._finish(request_id)
        self._launched.clear()
        self._manager.clear_prefix_cache()
        self._runner.recover()
        return [TokenDelta(request_id, finish_reason=FinishReason.ERROR, error=message) for request_id in ids]

    def take_stats(self) -> EngineStats:
        """A snapshot; the observations in it are handed over and start anew."""
        stats, scheduler, manager = self._stats, self._scheduler, self._manager
        stats.num_running, stats.num_waiting = scheduler.num_running, scheduler.num_waiting
        stats.num_waiting += self._grammars.num_beginning
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
        found = [self._scheduler.find(name) or self._grammars.find(name) for name in request_ids]
        return [self._request_state(request) for request in found if request is not None]

    def attention_maps(self, token_ids: Sequence[int], layers: Sequence[int]) -> list[bytes]:
        """The attention weights of a text, see engine.observing.packed_attention; the cache is not touched."""
        return self._runner.attention_maps(token_ids, layers)

    def check_integrity(self) -> None:
        """Raise PoolIntegrityError where the pool's books do not add up."""
        self._manager.check_integrity()

    def _schedule(self) -> ScheduledBatch | None:
        """The next step: of everybody, or after a failed one of the group whose turn it is."""
        while group := self._isolation.group(self._num_output_tokens):
            batch = self._scheduler.schedule(group)
            if batch or self._launched:
                return batch
            # Requests that have had their trial hold blocks which the group needs.
            self._scheduler.requeue_all_but(group)
            if batch := self._scheduler.schedule(group):
                return batch
            self._isolation.drop(group)
        return self._scheduler.schedule()

    def _num_output_tokens(self, request_id: str) -> int | None:
        request = self._scheduler.find(request_id)
        return None if request is None else len(request.output_token_ids)

    def _start_over(self, failed: dict[str, Request]) -> None:
        """Compute these again in halves: what the unsettled steps gave for them is lost."""
        for step in reversed(self._launched):
            for item, num_reported in zip(step.batch.scheduled, step.num_reported, strict=False):
                item.request.num_reported_prompt_logprobs = num_reported
        for request in failed.values():
            self._scheduler.requeue(request)
        self._isolation.split({name: len(request.output_token_ids) for name, request in failed.items()})

    @property
    def _has_work(self) -> bool:
        return self._scheduler.num_running + self._scheduler.num_waiting + len(self._launched) > 0

    def _admit_begun(self) -> list[TokenDelta]:
        """Queue the requests whose grammars are compiled; deltas that end those whose grammars cannot be."""
        if not self._grammars.num_beginning:
            return []
        begun = self._grammars.take_begun(may_wait=not self._has_work)
        for request, error in begun:
            if error is None:
                self._scheduler.add(request)
        return [_grammar_failure(item) for item in begun if item.error is not None]

    def _finish(self, request_id: str) -> Request | None:
        """Take a request out, wherever it is; None where it has ended already."""
        return self._grammars.forget(request_id) or self._scheduler.finish(request_id)

    def _launch(self, batch: ScheduledBatch) -> None:
        """Put a step on the device and book what is known of it."""
        step = LaunchedStep(batch, time.perf_counter())
        self._launched.append(step)
        step.pending = self._runner.launch(batch)
        step.num_reported = [item.request.num_reported_prompt_logprobs for item in batch.scheduled]
        step.receipts = [self._book(item) for item in batch.scheduled]

    def _book(self, item: ScheduledRequest) -> KVReceipt | None:
        """Book one request's part of a launched step: its KV will be valid, its next token is pending."""
        request, num_sampled = item.request, int(item.samples)
        self._count_prompt_tokens(item)
        request.num_reported_prompt_logprobs += len(item.reported_places)
        request.num_computed_tokens = item.seq_len
        self._commit(request)
        request.num_pending_tokens += num_sampled
        request.num_peak_blocks = max(request.num_peak_blocks, self._manager.num_held_blocks(request.request_id))
        return self._receipt(request) if request.enable_kv_receipt else None

    def _commit(self, request: Request) -> None:
        self._manager.commit_tokens(
            request.request_id, request.num_computed_tokens, request.token_ids, request.num_known_tokens
        )

    def _settle(self) -> list[TokenDelta]:
        """Book the result of the oldest launched step; a delta for every request that has something to tell."""
        step = self._launched[0]
        if step.pending is None:
            raise RuntimeError("a step that failed is still to be settled")
        output = step.pending.result()
        self._launched.popleft()
        self._observe(step)
        deltas = []
        for row, item in enumerate(step.batch.scheduled):
            # It was aborted, or ended in the step before.
            if item.request.status is RequestStatus.FINISHED:
                continue
            delta = self._advance(item.request, output, row)
            delta.kv_receipt = step.receipts[row]
            if delta.token_ids or delta.prompt_logprobs or delta.finish_reason:
                deltas.append(delta)
        return deltas

    def _observe(self, step: LaunchedStep) -> None:
        """Count a step that has run. It began when it was launched, or when the one before it was through."""
        now_s, batch = time.perf_counter(), step.batch
        seconds = now_s - max(step.start_s, self._settled_s)
        self._settled_s = now_s
        self._scheduler.observe(batch, seconds)
        self._stats.observations.step_seconds.append(seconds)
        self._stats.observations.step_tokens.append(batch.num_tokens)
        for window, token_bytes in self._bytes_by_window.items():
            seen = (item.seq_len if window is None else min(item.seq_len, window) for item in batch.scheduled)
            self._stats.kv_read_bytes += sum(seen) * token_bytes

    def _advance(self, request: Request, output: StepOutput, row: int) -> TokenDelta:
        """Book one request's part of a step's result: its new token is out, it may have ended."""
        delta = TokenDelta(request.request_id, num_cached_tokens=request.num_cached_tokens)
        delta.prompt_logprobs = output.prompt_logprobs[row]
        if (token_id := output.token_ids[row]) is None:
            return delta
        if request.sampling_params.max_tokens == 0:
            delta.finish_reason = FinishReason.LENGTH
        else:
            self._append(request, token_id, delta)
            if delta.token_ids and (logprobs := output.logprobs[row]):
                delta.logprobs = [logprobs]
        if delta.finish_reason is not None:
            self._finish(request.request_id)
        elif request.status is RequestStatus.RUNNING:
            self._commit(request)
        return delta

    def _append(self, request: Request, token_id: int, delta: TokenDelta) -> None:
        """A pending token has become known; one that the request's grammar does not take ends it."""
        request.num_pending_tokens -= 1
        move = self._grammars.advance(request, token_id)
        if not move.is_taken:
            delta.finish_reason, delta.error = move.finish_reason, move.error
            delta.is_grammar_error = move.error is not None
            return
        request.output_token_ids.append(token_id)
        self._stats.generation_tokens += 1
        delta.token_ids = [token_id]
        if len(request.output_token_ids) == 1:
            delta.scheduled_time_s = request.scheduled_time_s
        delta.finish_reason = finish_reason_of(request, self._eos_token_ids, self.info.max_model_len)
        if delta.finish_reason is FinishReason.STOP:
            delta.stop_token_id = token_id
        else:
            delta.finish_reason = move.finish_reason or delta.finish_reason

    def _count_prompt_tokens(self, item: ScheduledRequest) -> None:
        """Prompt tokens count once, when they are first computed; those from the prefix cache count as cached."""
        request = item.request
        if request.num_counted_prompt_tokens == request.num_prompt_tokens:
            return
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


def _grammar_failure(begun: Begun) -> TokenDelta:
    return TokenDelta(
        begun.request.request_id, finish_reason=FinishReason.ERROR, error=begun.error, is_grammar_error=True
    )
