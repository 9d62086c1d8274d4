"""Which weights an engine loads, and as what."""

from typing import Literal

from cyclopts import Parameter
from pydantic import Field, field_validator

from configs.base import Settings
from configs.cpu_list import parse_cpu_list
from configs.groups import MODEL

DType = Literal["auto", "bfloat16", "float16", "float32", "float64"]
Device = Literal["auto", "cpu", "cuda"]
Quantization = Literal["none", "int8"]


@Parameter(name="*", group=MODEL)
class ModelSettings(Settings):
    """How one model is loaded and run."""

    dtype: DType = "auto"
    """Number format of weights and activations, and of the KV cache unless `kv_cache_dtype` is set. auto: what the checkpoint was saved in."""

    quantization: Quantization = "none"
    """What weights are rounded to as they are loaded. int8: 8-bit integers, 8.25 bits a weight with their scales; activations are rounded in each product too. On a CPU only."""

    device: Device = "auto"
    """Where the model runs. auto: the GPU where PyTorch sees one, else the CPU."""

    max_model_len: int | None = Field(default=None, ge=1)
    """Longest context (prompt and output) in tokens. Unset: what the model's config states."""

    attention_backend: Literal["auto", "cpu", "varlen", "triton", "flashinfer", "reference"] = "auto"
    """Attention implementation. auto: for prefill and for decode the first one that has no objection to this model and
    device (varlen is PyTorch's own FlashAttention; flashinfer comes with pip install 'headcount[flashinfer]')."""

    enforce_eager: bool = False
    """On a GPU, launch every kernel of every step. Without it, steps that only decode are CUDA graphs where backend and kernels allow it, which takes memory and time at the start."""

    num_threads: int | None = Field(default=None, ge=1)
    """CPU threads for tensor operations. Unset: one a core, as far as the process may use them: its CPU affinity and its cgroup's limit count."""

    cpu_affinity: str | None = None
    """CPUs that the engine's threads run on, like "0-3,8"; they stay there. Unset: wherever the system puts them."""

    allow_non_finite_weights: bool = False
    """Load weights that are NaN or infinite. Without it, such a checkpoint is refused, naming the tensor."""

    @field_validator("cpu_affinity")
    @classmethod
    def _is_cpu_list(cls, text: str | None) -> str | None:
        if text is not None:
            parse_cpu_list(text)
        return text
