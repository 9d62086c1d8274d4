"""What `headcount compare` is told: which variants, in how much memory, under which load."""

from typing import Annotated, Literal

from cyclopts import Parameter
from pydantic import Field, field_validator

from configs.base import Settings
from configs.cache import CacheSettings, KVCacheDType
from configs.engine import EngineSettings
from configs.groups import COMPARISON, WORKLOAD
from configs.model import Device, DType, ModelSettings
from configs.sizes import Bytes

PoolingMethod = Literal["mean", "first", "aligned"]


@Parameter(name="*", group=WORKLOAD)
class Workload(Settings):
    """The requests that every variant gets, and how long the requests are whose number in the KV cache is counted."""

    prompt_tokens: int = Field(default=192, ge=1)
    """Tokens of each prompt. Every prompt is another one, so that no prefix is found in the cache."""

    max_tokens: int = Field(default=64, ge=2)
    """Tokens of each answer: exactly these. A request of prompt and answer is what is counted that fits."""

    num_requests: int = Field(default=32, ge=1)
    """Requests of the load."""

    concurrency: int = Field(default=32, ge=1)
    """Requests kept running: as soon as one ends, the next one is sent. Those that do not fit wait in the engine."""

    seed: int = 0
    """The same seed draws the same prompts."""

    @property
    def request_tokens(self) -> int:
        """Tokens of one request, prompt and answer."""
        return self.prompt_tokens + self.max_tokens


@Parameter(name="*", group=COMPARISON)
class CompareSettings(Settings):
    """Variants of one model with other numbers of key/value heads, each with the same KV budget and the same load."""

    model: str = "demo"
    """The model: a folder, `demo` or a repository id."""

    num_kv_heads: Annotated[tuple[int, ...], Parameter(name=("--kv-heads", "--num-kv-heads"), negative="")] = ()
    """Key/value heads of each variant, such as 9,3,1. The model's own number is always among them: the others' tokens
    are compared with its. Unset: one for each query head (MHA), the model's own, and one (MQA)."""

    method: PoolingMethod = "mean"
    """How a variant with fewer heads is made: the mean of each group, its first head, or the mean of aligned heads."""

    kv_cache_memory_bytes: Bytes = Field(default=64 << 20, ge=1)
    """Size of the KV pool of every variant, e.g. 512MiB."""

    kv_cache_dtype: KVCacheDType = "auto"
    """Number format of cached keys and values. auto: the model's."""

    workload: Workload = Field(default=Workload())
    """The load."""

    dtype: DType = "auto"
    """Number format of weights and activations. auto: what the checkpoint was saved in."""

    device: Device = "auto"
    """Where the variants run. auto: the GPU where PyTorch sees one, else the CPU."""

    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads for tensor operations. Unset: PyTorch's own choice, one a core."""

    @field_validator("num_kv_heads", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        parts = given if isinstance(given, tuple | list) else [given]
        return tuple(number for part in parts for number in str(part).split(","))

    @field_validator("num_kv_heads")
    @classmethod
    def _at_least_one(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if any(number < 1 for number in given):
            raise ValueError(f"must hold numbers of at least 1, got {','.join(map(str, given))}")
        return given

    def engine_settings(self) -> EngineSettings:
        """What these settings say of the engines; the rest is the default."""
        return EngineSettings(
            model_settings=ModelSettings(dtype=self.dtype, device=self.device, num_threads=self.num_threads),
            cache=CacheSettings(kv_cache_dtype=self.kv_cache_dtype),
        )
