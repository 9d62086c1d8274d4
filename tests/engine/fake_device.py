"""The scheduler and the block manager as the core runs them, with random tokens in place of a model."""

import random
from collections import Counter

from configs.scheduler import SchedulerSettings
from engine.request import Request, RequestStatus, ScheduledBatch
from engine.scheduler import Scheduler
from kvcache.geometry import KVGeometry, LayerGeometry
from kvcache.manager import KVCacheManager
from tests.engine.tiny_models import make_request

WINDOW = LayerGeometry(4, 2, 8, 8, sliding_window=6)
FULL = LayerGeometry(4, 2, 8, 8)
ONE_GROUP = KVGeometry((FULL,), dtype_bytes=2, block_size=4)
HYBRID = KVGeometry((WINDOW, FULL, WINDOW), dtype_bytes=2, block_size=4)


class FakeDevice:
    """Steps without a model. After each one the books of the pool must add up.

    Args:
        geometry: of the blocks.
        num_blocks: of the pool.
        seed: of the tokens and of the time that steps pretend to take.
        enable_prefix_cache: as in the settings.
        limits: fields of SchedulerSettings.
    """

    def __init__(
        self, geometry: KVGeometry, num_blocks: int, *, seed: int = 0, enable_prefix_cache: bool = True, **limits: float
    ) -> None:
        self.rng = random.Random(seed)
        self.manager = KVCacheManager(geometry, num_blocks, enable_prefix_cache=enable_prefix_cache)
        self.settings = SchedulerSettings.model_validate(limits)
        self.scheduler = Scheduler(self.settings, self.manager)
        self.requests: dict[str, Request] = {}
        self.num_ends: Counter[str] = Counter()
        self.num_steps = 0

    def add(self, num_prompt_tokens: int, max_tokens: int, *, priority: int = 0) -> Request | None:
        """A new request with a prompt that others begin with too; None where it could never fit (engine/admission.py)."""
        geometry = self.manager.geometry
        needed = geometry.num_blocks(num_prompt_tokens + max_tokens, self.settings.max_num_batched_tokens)
        if needed > self.manager.num_blocks:
            return None
        number = len(self.requests)
        prompt = [self.rng.randrange(2)] * (num_prompt_tokens // 2) + [3 + number % 5] * -(-num_prompt_tokens // 2)
        request = make_request(f"r{number}", prompt, max_tokens=max_tokens, priority=priority, arrival_time_s=number)
        self.requests[request.request_id] = request
        self.scheduler.add(request)
        return request

    def step(self) -> ScheduledBatch | None:
        """Schedule, compute nothing, and book it as the core does."""
        batch = self.scheduler.schedule()
        if batch is None:
            return None
        self.num_steps += 1
        self.scheduler.observe(batch, self.rng.uniform(0.001, 0.1))
        assert 0 < batch.num_tokens <= self.settings.max_num_batched_tokens
        assert self.scheduler.num_running <= self.settings.max_num_seqs
        for item in batch.scheduled:
            self._advance(item.request, item.seq_len)
        self.manager.check_integrity()
        return batch

    def abort(self, request_id: str) -> None:
        """What a client does that goes away."""
        if self.scheduler.finish(request_id) is not None:
            self.num_ends[request_id] += 1
        self.manager.check_integrity()

    def run(self) -> None:
        """Step until nothing is left, then look for what should not be left."""
        while self.step() is not None:
            pass
        self.assert_nothing_is_left()

    def assert_nothing_is_left(self) -> None:
        """Every request ended once, and no block belongs to anybody."""
        assert self.num_ends == Counter(dict.fromkeys(self.requests, 1))
        assert (self.scheduler.num_running, self.scheduler.num_waiting, self.scheduler.num_waiting_tokens) == (0, 0, 0)
        assert self.manager.num_used_blocks == 0
        assert self.manager.num_free_blocks + self.manager.num_cached_blocks == self.manager.num_blocks

    def _advance(self, request: Request, seq_len: int) -> None:
        assert request.status is RequestStatus.RUNNING
        request.num_computed_tokens = seq_len
        self.manager.commit_tokens(request.request_id, seq_len, request.token_ids)
        if seq_len == request.num_tokens:
            request.output_token_ids.append(self.rng.randrange(5))
            if len(request.output_token_ids) == request.sampling_params.max_tokens:
                self.abort(request.request_id)
