"""Runs a model over one text to look at its attention: the same decoder and weights that serve, without the cache."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.attention.observed import ObservedAttention, OnWeights
from engine.batch import BatchTensors
from engine.models.decoder import Decoder


def observe(
    decoder: Decoder,
    token_ids: Sequence[int],
    on_weights: OnWeights | None = None,
    head_factors: Sequence[Tensor] | None = None,
) -> Tensor:
    """Hidden states [seq_len, hidden_size] of one sequence; see ObservedAttention for what can be seen and changed.

    Gradients flow where the decoder runs on reference kernels.
    """
    batch = _one_sequence(token_ids, decoder.device)
    attention = ObservedAttention(decoder.spec, decoder.dtype, on_weights, head_factors)
    attention.plan(batch)
    return decoder(batch, attention)


@torch.inference_mode()
def attention_weights(decoder: Decoder, token_ids: Sequence[int]) -> list[Tensor]:
    """How much each token looks at each other one: a layer each [num_q_heads, seq_len, seq_len], float32 or wider.

    It takes num_layers * num_q_heads * seq_len^2 numbers: whoever asks bounds the length.
    """
    seen: list[Tensor] = []
    observe(decoder, token_ids, lambda _, weights: seen.append(weights))
    return seen


@torch.inference_mode()
def packed_attention(decoder: Decoder, token_ids: Sequence[int], layers: Sequence[int]) -> list[bytes]:
    """The same of some layers, small enough to be sent: for each, rows of the lower triangle of every head.

    Numbers are uint16, little-endian, 65535 for 1, which is exact to 8e-6: [num_q_heads, seq_len * (seq_len + 1) / 2].
    Only one layer's weights are held as a whole at a time.
    """
    found: dict[int, bytes] = {}
    rows, columns = torch.tril_indices(len(token_ids), len(token_ids), device=decoder.device)

    def pack(layer_idx: int, weights: Tensor) -> None:
        if layer_idx in layers:
            numbers = (weights[:, rows, columns].float() * 65535).round().to(torch.int32)
            found[layer_idx] = numbers.cpu().numpy().astype("<u2").tobytes()

    observe(decoder, token_ids, pack)
    return [found[layer_idx] for layer_idx in layers]


def _one_sequence(token_ids: Sequence[int], device: torch.device) -> BatchTensors:
    """A step of one sequence, from its first token on, that needs no blocks."""
    num_tokens = len(token_ids)
    ids = torch.tensor(token_ids, dtype=torch.int64, device=device)
    nothing = ids.new_empty(0)
    return BatchTensors(
        input_ids=ids,
        previous_ids=ids.roll(1).index_fill_(0, ids.new_zeros(1), 0),
        positions=torch.arange(num_tokens, device=device),
        slot_mapping=nothing,
        block_tables=nothing,
        cu_seqlens_q=torch.tensor([0, num_tokens], device=device),
        seq_lens=torch.tensor([num_tokens], device=device),
        pending_places=nothing,
        pending_rows=nothing,
        query_lens=[num_tokens],
        seq_lens_list=[num_tokens],
    )
