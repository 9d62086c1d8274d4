"""What a set of kernels is: the arithmetic that layers and attention backends are made of."""

from typing import Protocol

from torch import Tensor

from engine.models.spec import Activation


class Kernels(Protocol):
    """Kernels for one device and dtype; engine/kernels/reference.py says what each one computes, shape by shape."""

    @property
    def name(self) -> str:
        """`reference`, `cpu`, ..."""
        ...

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """X W^T (+ bias) (+ residual)."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """X / rms(x) * weight."""
        ...

    def layer_norm(self, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        """(x - mean) / std * weight + bias."""
        ...

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        """activation(x)."""
        ...

    def activate_and_multiply(self, gate_up: Tensor, activation: Activation) -> Tensor:
        """activation(gate) * up."""
        ...

    def apply_rope(self, x: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Rotate the heads in place."""
        ...

    def store_kv(self, k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
        """Write keys and values into their slots."""
        ...

    def paged_attention(
        self,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        block_tables: Tensor,
        *,
        cu_seqlens_q: Tensor,
        seq_lens: Tensor,
        softmax_scale: float,
        sliding_window: int | None = None,
    ) -> Tensor:
        """Causal attention of a ragged batch over the paged cache."""
        ...
