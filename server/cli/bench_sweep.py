"""What `headcount bench --offline` measures."""

from typing import Annotated

from cyclopts import Group, Parameter
from pydantic import Field, field_validator

from configs.base import Settings
from configs.cache import KVCacheDType
from configs.model import DType

STEP_TOKENS = 2048
"""Tokens of a prefill step."""


@Parameter(name="*", group=Group.create_ordered("Sweep"))
class SweepOptions(Settings):
    """What --offline measures."""

    batch_sizes: Annotated[tuple[int, ...], Parameter(negative="")] = (1, 8, 32)
    """Requests that decode together; 1,8,32 measures one after the other."""

    contexts: Annotated[tuple[int, ...], Parameter(negative="")] = (128,)
    """Tokens of each prompt; every batch size is measured with each."""

    decode_steps: int = Field(default=32, ge=1)
    """Decode steps of a round."""

    rounds: int = Field(default=3, ge=1)
    """Rounds that count, after one that does not."""

    dtype: DType = "auto"
    """Number format of weights and activations."""

    kv_cache_dtype: KVCacheDType = "auto"
    """Number format of cached keys and values."""

    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads. Unset: one a core."""

    @field_validator("batch_sizes", "contexts", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        parts = given if isinstance(given, tuple | list) else [given]
        return tuple(number for part in parts for number in str(part).split(","))

    @field_validator("batch_sizes", "contexts")
    @classmethod
    def _at_least_one(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if not given or min(given) < 1:
            raise ValueError(f"must hold numbers of at least 1, got {','.join(map(str, given))}")
        return given

    @property
    def max_model_len(self) -> int:
        """Tokens of the longest request: its prompt, one of each step while others are prefilled, one a decode step."""
        num_prefill_steps = -(-max(self.contexts) * max(self.batch_sizes) // STEP_TOKENS) + 1
        return max(self.contexts) + num_prefill_steps + self.decode_steps
