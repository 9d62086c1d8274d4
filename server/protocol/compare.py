"""The body of POST /v1/compare. Its bounds keep a client from asking for hours."""

from typing import Annotated

from pydantic import Field

from configs.compare import CompareSettings, PoolingMethod, Workload
from server.compare.plan import MAX_VARIANTS
from server.protocol.base import RequestBody

MAX_HEADS, MAX_BYTES, MAX_REQUEST_TOKENS, MAX_REQUESTS, MAX_CONCURRENCY = 256, 1 << 40, 32_768, 512, 256
MAX_JOB_TOKENS = 500_000
"""Of all requests to all variants together."""

DEFAULTS = CompareSettings()
LOAD = DEFAULTS.workload

Heads = Annotated[int, Field(ge=1, le=MAX_HEADS)]


class CompareBody(RequestBody):
    """Variants of a served model with other numbers of key/value heads: the same KV budget and load for each."""

    num_kv_heads: list[Heads] = Field(default=[], max_length=MAX_VARIANTS)
    """Key/value heads of each variant; the model's own number is always among them. Unset: MHA, the model's own, MQA."""
    method: PoolingMethod = DEFAULTS.method
    """How heads are joined where there are to be fewer."""
    kv_cache_memory_bytes: int = Field(default=DEFAULTS.kv_cache_memory_bytes, ge=1, le=MAX_BYTES)
    """Of every variant's KV pool."""
    prompt_tokens: int = Field(default=LOAD.prompt_tokens, ge=1, le=MAX_REQUEST_TOKENS)
    """Tokens of each prompt."""
    max_tokens: int = Field(default=LOAD.max_tokens, ge=2, le=MAX_REQUEST_TOKENS)
    """Tokens of each answer."""
    num_requests: int = Field(default=LOAD.num_requests, ge=1, le=MAX_REQUESTS)
    """Requests of the load."""
    concurrency: int = Field(default=LOAD.concurrency, ge=1, le=MAX_CONCURRENCY)
    """Requests kept running."""
    seed: int = Field(default=LOAD.seed, ge=0, lt=1 << 32)
    """The same seed draws the same prompts."""

    def settings(self) -> CompareSettings:
        """The same as settings."""
        workload = Workload(
            prompt_tokens=self.prompt_tokens,
            max_tokens=self.max_tokens,
            num_requests=self.num_requests,
            concurrency=self.concurrency,
            seed=self.seed,
        )
        return CompareSettings(
            model=self.model,
            num_kv_heads=tuple(self.num_kv_heads),
            method=self.method,
            kv_cache_memory_bytes=self.kv_cache_memory_bytes,
            workload=workload,
        )
