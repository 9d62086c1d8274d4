"""How much memory the KV cache gets and how it is cut into blocks."""

from typing import Literal

from cyclopts import Parameter
from pydantic import Field

from configs.base import Settings
from configs.groups import CACHE
from configs.sizes import Bytes

KVCacheDType = Literal["auto", "fp8_e4m3", "int8"]


@Parameter(name="*", group=CACHE)
class CacheSettings(Settings):
    """The paged KV cache of one engine."""

    block_size: int = Field(default=16, ge=1, le=1024)
    """Tokens in a block. Small blocks waste fewer slots in a request's last block, large ones make shorter tables."""

    kv_cache_dtype: KVCacheDType = "auto"
    """Number format of cached keys and values. auto: the model's. The 8-bit ones keep a scale for each key and value of a head."""

    kv_cache_memory_bytes: Bytes | None = Field(default=None, ge=1)
    """Size of the KV pool, e.g. 512MiB. Unset: the share `gpu_memory_utilization` of what is free after the weights are loaded, less the workspace."""

    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of the device memory that is free beside the weights: KV pool and workspace of the largest step on a GPU where `kv_cache_memory_bytes` is unset."""

    cpu_memory_utilization: float = Field(default=0.25, gt=0, le=1)
    """The same on a CPU, where other programs share the memory: a smaller share, capped at 1 GiB."""

    enable_prefix_cache: bool = True
    """Reuse the KV blocks of an earlier request that begins with the same tokens."""
