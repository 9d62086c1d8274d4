"""What an engine tells about itself: once when it is ready, and as a snapshot after its steps. Plain data, no torch."""

import msgspec

from engine.request import KVReceipt, RequestStatus
from kvcache.geometry import KVGeometry


class MemoryLedger(msgspec.Struct, frozen=True):
    """Where the device's bytes are. `unaccounted` is what the named parts do not explain."""

    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int
    """Peak of the activations and scratch tensors of one step."""
    framework_bytes: int
    """What the process held before the model was loaded: interpreter, PyTorch, its libraries."""
    free_bytes: int
    total_bytes: int
    """The device's memory, other programs' share included."""
    other_bytes: int = 0
    """Held by other programs."""
    graphs_bytes: int = 0
    """Of CUDA graphs: what they were recorded with, their inputs, and the block of the KV storage that no request has."""

    @property
    def unaccounted_bytes(self) -> int:
        """Total - (weights + KV cache + workspace + graphs + framework + free + other)."""
        return self.total_bytes - (
            self.weights_bytes
            + self.kv_cache_bytes
            + self.workspace_bytes
            + self.graphs_bytes
            + self.framework_bytes
            + self.free_bytes
            + self.other_bytes
        )


class EngineInfo(msgspec.Struct, frozen=True):
    """The fixed facts of a loaded engine."""

    architecture: str
    dtype: str
    """Of activations, and of weights that are not quantized."""
    kv_cache_dtype: str
    """Of cached keys and values: `dtype`, or a format of 8 bits with scales."""
    device: str
    kernels: str
    """Which kernels the layers run on; of the CPU's with the level of instructions."""
    attention_backend: str
    attention_objections: dict[str, list[str]]
    """Every backend that was passed over, with all its reasons."""
    vocab_size: int
    max_model_len: int
    """Longest context that is served."""
    longest_context: int
    """The model's own limit, or what was asked for: more than max_model_len where the KV pool cannot hold it."""
    eos_token_ids: list[int]
    geometry: KVGeometry
    num_blocks: int
    ledger: MemoryLedger
    startup_s: dict[str, float]
    """Phase -> seconds; the phases sum to the time from process start to ready."""
    quantization: str = "none"
    """What weights are rounded to: `none`, or `int8`."""


class Observations(msgspec.Struct):
    """Single measurements since the last snapshot, for the histograms of the server."""

    step_seconds: list[float] = []
    step_tokens: list[int] = []
    queue_seconds: list[float] = []


class EngineStats(msgspec.Struct):
    """A snapshot of a running engine. Counters count from the engine's start."""

    num_running: int = 0
    num_waiting: int = 0
    num_waiting_tokens: int = 0
    num_free_blocks: int = 0
    """Blocks that hold nothing."""
    num_used_blocks: int = 0
    """Blocks that a request refers to."""
    num_cached_blocks: int = 0
    """Blocks that only the prefix cache holds: evictable."""
    num_filled_slots: int = 0
    """Slots of used blocks that hold a token, in the layers of a group."""
    prompt_tokens: int = 0
    generation_tokens: int = 0
    cached_prompt_tokens: int = 0
    preemptions: int = 0
    kv_read_bytes: int = 0
    """KV bytes that attention had to read: each step, each request, the tokens it sees once per KV head."""
    observations: Observations = msgspec.field(default_factory=Observations)


class RequestState(msgspec.Struct, frozen=True):
    """A request that has not ended, between two steps."""

    request_id: str
    status: RequestStatus
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    """Prompt tokens found in the prefix cache when it was first scheduled."""
    num_preemptions: int
    kv_receipt: KVReceipt
