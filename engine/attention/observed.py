"""Attention that can be looked at: one sequence, all of it in one step, in a cache that lives for a layer."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine.batch import BatchTensors
from engine.kernels import reference_attention
from engine.kernels.base import KVTarget
from engine.models.spec import DecoderSpec
from kvcache.storage import LayerCache

OnWeights = Callable[[int, Tensor], None]
"""Is given a layer's index and its weights [num_q_heads, seq_len, seq_len]."""


class ObservedAttention:
    """An AttentionBackend, but of a single sequence from its first token on, whose keys are all of the step itself.

    It computes the weights as a matrix and shows them, which the others avoid, and can be differentiated.

    Args:
        spec: the model.
        dtype: of its activations.
        on_weights: called once a layer.
        head_factors: a layer each [num_q_heads]: multiplies what its heads give; 0 is a head that says nothing.
    """

    name = "observed"
    grows_with_context = True
    is_graphable = False

    def __init__(
        self,
        spec: DecoderSpec,
        dtype: torch.dtype,
        on_weights: OnWeights | None = None,
        head_factors: Sequence[Tensor] | None = None,
    ) -> None:
        self._spec, self._dtype, self._on_weights, self._head_factors = spec, dtype, on_weights, head_factors
        self._positions = torch.empty(0)
        self._cache = LayerCache(torch.empty(0), torch.empty(0))

    @staticmethod
    def objections(
        spec: DecoderSpec, dtype: torch.dtype, device: torch.device, kv_cache_dtype: torch.dtype, block_size: int
    ) -> list[str]:
        """It keeps nothing for the next step."""
        return ["it has no cache"]

    def plan(self, batch: BatchTensors) -> None:
        """Take the positions of the step.

        Raises:
            ValueError: it is not one whole sequence.
        """
        if batch.query_lens != batch.seq_lens_list or len(batch.query_lens) != 1:
            raise ValueError(
                f"expected one sequence from its first token on, got query_lens {batch.query_lens} of seq_lens"
                f" {batch.seq_lens_list}"
            )
        self._positions = batch.positions

    @property
    def paged_step(self) -> None:
        """It runs layer by layer."""
        return None

    def kv_target(self, layer_idx: int) -> KVTarget:
        """A cache for this layer, a token a block."""
        layer, num_tokens, device = self._spec.layers[layer_idx], len(self._positions), self._positions.device
        dims = (layer.k_head_dim, layer.v_head_dim)
        shapes = [(num_tokens, 1, layer.num_kv_heads, dim) for dim in dims]
        self._cache = LayerCache(*(torch.zeros(shape, dtype=self._dtype, device=device) for shape in shapes))
        return KVTarget(self._cache, self._positions)

    def forward(self, layer_idx: int, q: Tensor, sinks: Tensor | None = None) -> Tensor:
        """See AttentionBackend.forward; of the layer whose `kv_target` was asked for last."""
        layer, places = self._spec.layers[layer_idx], self._positions
        k, v = self._cache.k.squeeze(1), self._cache.v.squeeze(1)
        bias = None
        if layer.alibi_slopes:
            slopes = torch.tensor(layer.alibi_slopes, dtype=torch.float32, device=q.device)
            bias = reference_attention.alibi_bias(slopes, places.unsqueeze(0), places)[0]
        weights = reference_attention.attention_weights(
            q,
            k,
            reference_attention.causal_mask(places, places, layer.sliding_window),
            softmax_scale=layer.softmax_scale,
            softcap=layer.softcap,
            bias=bias,
            sinks=sinks,
        )
        if self._on_weights is not None:
            self._on_weights(layer_idx, weights)
        values = v.to(weights.dtype).repeat_interleave(layer.num_q_heads // layer.num_kv_heads, 1).transpose(0, 1)
        heads = (weights @ values).transpose(0, 1)
        if self._head_factors is not None:
            heads = heads * self._head_factors[layer_idx].unsqueeze(-1)
        return heads.flatten(1).to(q.dtype)
