"""Continuous batching: what runs in this step. No torch.

Every step is a set of requests with a number of tokens each. A request in decode computes one token; one in prefill as
many as the step's token budget leaves, so a long prompt is spread over steps while the others go on decoding. Blocks
are taken when tokens need them; when there are none, the request that arrived last gives all of its blocks back and
waits, to be computed again (its full blocks may still be found in the prefix cache).

Nothing here looks at a token's value, so a step can be planned while the one before it runs: a token that is not read yet
is pending, and counts. Only where a grammar has to read that token does its request sit out one step. That a token was the last one by its value shows only when it is read: a step planned before that
computes one token too many.
"""

import time
from collections.abc import Collection

from configs.scheduler import SchedulerSettings
from engine.pacing import StepPacer
from engine.request import FinishReason, Request, RequestStatus, ScheduledBatch, ScheduledRequest
from engine.waiting_queue import WaitingQueue
from kvcache.manager import KVCacheManager


class Scheduler:
    """Decides what each step computes, and takes its blocks.

    Args:
        settings: limits of a step.
        manager: owns the blocks.
    """

    def __init__(self, settings: SchedulerSettings, manager: KVCacheManager) -> None:
        self._settings = settings
        self._manager = manager
        self._pacer = StepPacer(settings.max_decode_slowdown, settings.max_num_batched_tokens)
        self._watermark_blocks = int(settings.kv_watermark * manager.num_blocks)
        self._waiting = WaitingQueue()
        self._running: dict[str, Request] = {}
        self._scheduled: dict[str, ScheduledRequest] = {}
        self._budget = 0
        self._among: Collection[str] | None = None
        self.num_preemptions = 0
        self.queue_seconds: list[float] = []
        """How long each request waited that was first scheduled since somebody last emptied this list."""

    @property
    def num_running(self) -> int:
        """Requests that hold blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait, preempted ones included."""
        return len(self._waiting)

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens of all waiting requests."""
        return self._waiting.num_tokens

    def add(self, request: Request) -> None:
        """Queue a new request."""
        self._waiting.push(request)

    def schedule(self, among: Collection[str] | None = None) -> ScheduledBatch | None:
        """The next step; None when there is nothing to compute before the results of the steps that run are booked.

        Args:
            among: only these requests; None: all.

        Side effects: blocks are allocated, requests may be preempted and admitted.
        """
        self._budget, self._scheduled = self._settings.max_num_batched_tokens, {}
        num_preemptions = self.num_preemptions
        self._among = among
        decodes, prefills = self._running_in_order()
        self._continue_all(decodes)
        num_prompts = len(prefills) + min(len(self._waiting), self._settings.max_num_seqs - len(self._running))
        self._budget = min(self._budget, self._pacer.max_prefill_tokens(len(self._scheduled), num_prompts))
        self._continue_all(prefills)
        if self.num_preemptions == num_preemptions:
            self._admit()
        return ScheduledBatch(list(self._scheduled.values())) if self._scheduled else None

    def observe(self, batch: ScheduledBatch, step_s: float) -> None:
        """Learn from a step how long tokens take on this machine."""
        num_decodes = sum(item.num_scheduled_tokens == 1 for item in batch.scheduled)
        self._pacer.observe(num_decodes, batch.num_tokens - num_decodes, step_s)

    def finish(self, request_id: str, status: RequestStatus = RequestStatus.FINISHED) -> Request | None:
        """Take a request out, running or waiting, and give back its blocks; None when it is not here."""
        request = self._waiting.remove(request_id)
        if request is None:
            request = self._running.pop(request_id, None)
            if request is not None:
                self._manager.free(request_id)
        if request is not None:
            request.status = status
            self._waiting.forget(request_id)
        return request

    def requeue(self, request: Request) -> None:
        """Let a request wait, wherever it is: it is computed again, and what its last steps gave is not known."""
        if self._waiting.remove(request.request_id) is None:
            self._give_back(request)
        request.num_pending_tokens = 0
        self._waiting.push(request)

    def requeue_all_but(self, names: Collection[str]) -> None:
        """Take the blocks of all others that run."""
        for request in [request for name, request in self._running.items() if name not in names]:
            self.requeue(request)

    def find(self, request_id: str) -> Request | None:
        """A request that runs or waits here."""
        return self._running.get(request_id) or self._waiting.find(request_id)

    def request_ids(self) -> list[str]:
        """All requests that are here, running first."""
        return [*self._running, *self._waiting.request_ids()]

    def _running_in_order(self) -> tuple[list[Request], list[Request]]:
        """Decodes, then prefills, so that a long prompt never takes the budget from those that stream."""
        running = sorted(
            (r for r in self._running.values() if not (r.is_ending or r.awaits_token) and self._may_run(r)),
            key=self._waiting.key,
        )
        decodes = [request for request in running if request.num_tokens - request.num_computed_tokens == 1]
        return decodes, [request for request in running if request.num_tokens - request.num_computed_tokens > 1]

    def _continue_all(self, requests: list[Request]) -> None:
        for request in requests:
            if request.status is RequestStatus.RUNNING:
                self._continue(request)

    def _continue(self, request: Request) -> None:
        """Schedule a running request's next tokens, preempting from the back of the order while there is no room.

        Where somebody is ending it waits instead: there will be blocks when the step that runs is booked.
        """
        num_scheduled_tokens = min(self._budget, request.num_tokens - request.num_computed_tokens)
        if num_scheduled_tokens == 0:
            return
        while not self._try_schedule(request, num_scheduled_tokens):
            if any(other.is_ending for other in self._running.values()):
                return
            victim = max(self._running.values(), key=self._waiting.key)
            self._preempt(victim)
            if victim is request:
                return

    def _try_schedule(self, request: Request, num_scheduled_tokens: int, num_spare_blocks: int = 0) -> bool:
        seq_len = request.num_computed_tokens + num_scheduled_tokens
        block_tables = self._manager.allocate_slots(request.request_id, seq_len, num_spare_blocks)
        if block_tables is None:
            return False
        self._budget -= num_scheduled_tokens
        self._scheduled[request.request_id] = ScheduledRequest(
            request, request.num_computed_tokens, num_scheduled_tokens, block_tables
        )
        return True

    def _preempt(self, request: Request) -> None:
        """Give back a request's blocks; what it computed is lost, its tokens are not."""
        scheduled = self._scheduled.pop(request.request_id, None)
        if scheduled is not None:
            self._budget += scheduled.num_scheduled_tokens
        self._give_back(request)
        request.num_preemptions += 1
        self.num_preemptions += 1
        self._waiting.push(request)

    def _give_back(self, request: Request) -> None:
        """A running request's blocks, and its place."""
        del self._running[request.request_id]
        self._manager.free(request.request_id)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0

    def _may_run(self, request: Request) -> bool:
        return self._among is None or request.request_id in self._among

    def _admit(self) -> None:
        """Start waiting requests in order while there is budget, a place and room; the first that lacks room waits on,
        and so do those behind it: a small one must not overtake a large one for ever.
        """
        while self._budget > 0 and len(self._running) < self._settings.max_num_seqs:
            request = self._waiting.peek(self._among)
            if request is None or request.awaits_token or not self._try_start(request):
                return

    def _try_start(self, request: Request) -> bool:
        request.num_computed_tokens = self._find_cached_prefix(request)
        num_scheduled_tokens = min(self._budget, request.num_tokens - request.num_computed_tokens)
        if not self._try_schedule(request, num_scheduled_tokens, self._spare_blocks(request, num_scheduled_tokens)):
            self._manager.free(request.request_id)
            request.num_computed_tokens = 0
            return False
        if request.status is RequestStatus.WAITING:
            request.num_cached_tokens = request.num_computed_tokens
            request.scheduled_time_s = time.time()
            self.queue_seconds.append(max(0.0, request.scheduled_time_s - request.arrival_time_s))
        self._waiting.remove(request.request_id)
        request.status = RequestStatus.RUNNING
        self._running[request.request_id] = request
        return True

    def _spare_blocks(self, request: Request, num_scheduled_tokens: int) -> int:
        """Blocks that must be left when a request starts: for the rest of its tokens, and for the others' next ones.

        Nobody else has tokens to come that are known now: what is left of the budget is what running prefills did not
        need. A request that is alone needs no blocks for others, so it always starts.
        """
        if not self._running:
            return 0
        geometry, step = self._manager.geometry, self._settings.max_num_batched_tokens
        seq_len = request.num_computed_tokens + num_scheduled_tokens
        rest = geometry.num_blocks(request.num_tokens, step) - geometry.num_blocks(seq_len, step)
        return self._watermark_blocks + rest

    def _find_cached_prefix(self, request: Request) -> int:
        # Logits exist only where tokens are computed, so a request for its prompt's log-probabilities takes no prefix.
        is_skipped = request.sampling_params.prompt_logprobs is not None
        token_ids = [] if is_skipped else request.token_ids(0, request.num_tokens)
        return self._manager.find_cached_prefix(request.request_id, token_ids, salt=request.cache_salt)


def finish_reason_of(request: Request, eos_token_ids: set[int], max_model_len: int) -> FinishReason | None:
    """Whether the newest output token ends the request, and why."""
    params, num_output = request.sampling_params, len(request.output_token_ids)
    newest = request.output_token_ids[-1]
    is_stop = newest in params.stop_token_ids or (newest in eos_token_ids and not params.ignore_eos)
    if is_stop and num_output >= params.min_tokens:
        return FinishReason.STOP
    if num_output >= params.max_tokens or request.num_known_tokens >= max_model_len:
        return FinishReason.LENGTH
    return None
