"""The GPU backend of PyTorch's own FlashAttention, which reads the paged cache through block tables (Dao 2023)."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engine.attention.paged import PagedBackend
from engine.batch import BatchTensors
from engine.models.spec import DecoderSpec
from kvcache.storage import KVStorage

DTYPES = (torch.bfloat16, torch.float16)
MAX_HEAD_DIM, HEAD_DIM_MULTIPLE, BLOCK_SIZE_MULTIPLE = 256, 8, 256
"""What the FlashAttention-2 kernels inside PyTorch take."""

MIN_CAPABILITY = (8, 0)

NEEDED = ("block_table", "seqused_k", "num_splits", "enable_gqa", "window_size")
"""Arguments that a PyTorch before 2.13 does not have all of."""

NUM_SPLITS = 1
"""Keys of a paged cache must not be split: with more than one sequence the parts are put together in the wrong rows, and
nothing says so (PyTorch issue 194167)."""


class PlannedStep(NamedTuple):
    """A step's tables as the kernel takes them.

    Attributes:
        cu_seqlens_q: [num_seqs + 1] int32.
        cu_seqlens_k: [num_seqs + 1] int32: the same of all tokens, context included.
        seq_lens: [num_seqs] int32.
        block_tables: [num_groups, num_seqs, max_blocks] int32.
        max_query_len: of a sequence.
        max_seq_len: of a sequence.
    """

    cu_seqlens_q: Tensor
    cu_seqlens_k: Tensor
    seq_lens: Tensor
    block_tables: Tensor
    max_query_len: int
    max_seq_len: int


class VarlenBackend(PagedBackend):
    """One call a layer for all sequences of the step."""

    name = "varlen"
    grows_with_context = False
    is_graphable = False  # lengths are copied from the host once a step

    def __init__(self, spec: DecoderSpec, storage: KVStorage) -> None:
        super().__init__(spec, storage)
        self._attend = load_varlen_attn()
        self._step: PlannedStep | None = None

    @staticmethod
    def objections(
        spec: DecoderSpec, dtype: torch.dtype, device: torch.device, kv_cache_dtype: torch.dtype, block_size: int
    ) -> list[str]:
        """See AttentionBackend.objections."""
        reasons = [*model_objections(spec), *device_objections(device)]
        if dtype not in DTYPES:
            reasons.append(f"dtype {dtype} is none of {', '.join(map(str, DTYPES))}")
        if kv_cache_dtype is not dtype:
            reasons.append(f"a KV cache of {kv_cache_dtype} under {dtype} is not in PyTorch's FlashAttention")
        if block_size % BLOCK_SIZE_MULTIPLE:
            reasons.append(f"block_size {block_size} is no multiple of {BLOCK_SIZE_MULTIPLE}")
        # To look takes an import of a second, which a start on a CPU should not pay for.
        if device.type == "cuda" and (missing := missing_arguments()):
            reasons.append(f"varlen_attn of PyTorch {torch.__version__} has no {', '.join(missing)}: 2.13 has")
        return reasons

    def plan(self, batch: BatchTensors) -> None:
        """Tables as int32, which is what the kernel reads."""
        super().plan(batch)
        device = batch.cu_seqlens_q.device
        seq_lens = torch.tensor([0, *batch.seq_lens_list], dtype=torch.int32)
        both = torch.stack((seq_lens, seq_lens.cumsum(0, dtype=torch.int32))).to(device, non_blocking=True)
        self._step = PlannedStep(
            batch.cu_seqlens_q.to(torch.int32),
            both[1],
            both[0, 1:],
            batch.block_tables.to(torch.int32),
            max(batch.query_lens),
            max(batch.seq_lens_list),
        )

    def forward(self, layer_idx: int, q: Tensor, sinks: Tensor | None = None) -> Tensor:
        """See AttentionBackend.forward.

        Raises:
            RuntimeError: no step is planned.
        """
        if self._step is None:
            raise RuntimeError("the backend was asked to run before it planned a step")
        planned, layer, cache = self._step, self._spec.layers[layer_idx], self._caches[layer_idx]
        window = layer.sliding_window
        out = self._attend(
            *(q, cache.k, cache.v, planned.cu_seqlens_q, planned.cu_seqlens_k),
            *(planned.max_query_len, planned.max_seq_len),
            scale=layer.softmax_scale,
            # Keys to the left of the query's own, and to its right.
            window_size=(-1 if window is None else window - 1, 0),
            enable_gqa=True,
            seqused_k=planned.seq_lens,
            block_table=planned.block_tables[self._groups[layer_idx]],
            num_splits=NUM_SPLITS,
        )
        attended: Tensor = out.flatten(1)
        return attended


def load_varlen_attn() -> Callable[..., Any]:
    """torch.nn.attention.varlen.varlen_attn; the module registers operators, which takes a while."""
    from torch.nn.attention.varlen import varlen_attn  # noqa: PLC0415  as said

    return varlen_attn


def missing_arguments() -> list[str]:
    """Which of NEEDED the installed PyTorch does not know."""
    known = inspect.signature(load_varlen_attn()).parameters
    return [name for name in NEEDED if name not in known]


def model_objections(spec: DecoderSpec) -> list[str]:
    """What of a model's attention these kernels do not have."""
    reasons = []
    dims = {dim for layer in spec.layers for dim in (layer.k_head_dim, layer.v_head_dim)}
    if max(dims) > MAX_HEAD_DIM:
        reasons.append(f"head_dim {max(dims)} is over {MAX_HEAD_DIM}")
    reasons += [
        f"head_dim {dim} is no multiple of {HEAD_DIM_MULTIPLE}" for dim in sorted(dims) if dim % HEAD_DIM_MULTIPLE
    ]
    if any(layer.k_head_dim != layer.v_head_dim for layer in spec.layers):
        reasons.append("keys and values differ in width")
    features = {
        "ALiBi": any(layer.alibi_slopes is not None for layer in spec.layers),
        "attention soft-cap": any(layer.softcap is not None for layer in spec.layers),
        "attention sinks": any(layer.has_sinks for layer in spec.layers),
    }
    return reasons + [f"{name} is not in PyTorch's FlashAttention" for name, is_there in features.items() if is_there]


def device_objections(device: torch.device) -> list[str]:
    """Why a device is not one that these kernels run on."""
    if device.type != "cuda":
        return [f"device {device.type} is not a GPU"]
    if not torch.cuda.is_available():
        return ["PyTorch sees no GPU"]
    if torch.version.hip is not None:
        return ["block tables are not known to work in PyTorch for ROCm"]
    capability = torch.cuda.get_device_capability(device)
    return [] if capability >= MIN_CAPABILITY else [f"compute capability {capability} is below {MIN_CAPABILITY}"]
