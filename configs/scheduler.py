"""What one engine step may hold."""

from typing import Literal

from cyclopts import Parameter
from pydantic import Field

from configs.base import Settings
from configs.groups import SCHEDULER


@Parameter(name="*", group=SCHEDULER)
class SchedulerSettings(Settings):
    """Limits of continuous batching."""

    max_num_batched_tokens: int = Field(default=2048, ge=1)
    """Tokens one step computes at most. A longer prompt is prefilled in chunks of this size."""

    max_decode_slowdown: float = Field(default=2.0, gt=1)
    """While requests decode, a prompt adds so few tokens to a step that it lasts at most this many times as long as without
    it; several prompts add as much each. More gives long prompts a larger share of the time and streams longer gaps; 1000
    is no limit."""

    max_num_seqs: int = Field(default=64, ge=1)
    """Requests that run at the same time."""

    max_num_waiting: int = Field(default=1024, ge=1)
    """Requests that may wait for their turn; one more is refused (HTTP 429)."""

    max_num_waiting_tokens: int = Field(default=1_000_000, ge=1)
    """Prompt tokens that may wait for their turn; more are refused (HTTP 429). One request alone may always wait."""

    max_num_unread_tokens: int = Field(default=2048, ge=1)
    """Tokens that a client may fall behind its request; one more and the request ends."""

    step_timeout_s: float = Field(default=120.0, gt=0)
    """Seconds without a step, while there is work, after which an engine counts as hung: it is killed and started again."""

    kv_watermark: float = Field(default=0.05, ge=0, le=0.5)
    """Share of the KV blocks that a request must leave when it starts beside others, so that these can grow a while before
    somebody is preempted. A request that is alone may take all."""

    enable_overlap: Literal["auto", "on", "off"] = "auto"
    """Plan the next step while one runs on the device; a request that meets a stop token may then compute one token that is
    dropped. auto: on a GPU; on a CPU, planning and the model would share the cores."""
