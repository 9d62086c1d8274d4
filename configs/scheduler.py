"""What one engine step may hold."""

from cyclopts import Parameter
from pydantic import Field

from configs.base import Settings
from configs.groups import SCHEDULER


@Parameter(name="*", group=SCHEDULER)
class SchedulerSettings(Settings):
    """Limits of continuous batching."""

    max_num_batched_tokens: int = Field(default=2048, ge=1)
    """Tokens one step computes at most. A longer prompt is prefilled in chunks of this size."""

    max_num_seqs: int = Field(default=64, ge=1)
    """Requests that run at the same time."""

    max_num_waiting: int = Field(default=1024, ge=1)
    """Requests that may wait for their turn; one more is refused (HTTP 429)."""
