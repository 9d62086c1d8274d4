"""The largest step that can come."""

import msgspec


class StepSize(msgspec.Struct, frozen=True):
    """Limits of a step, and the step that reaches all of them at once: prefill chunks beside decoding requests.

    Attributes:
        num_tokens: that a step computes at most (max_num_batched_tokens).
        num_seqs: requests in it at most (max_num_seqs).
        max_model_len: longest context.
        num_kv_tokens: tokens that the KV pool holds: the contexts of all requests together.
    """

    num_tokens: int
    num_seqs: int
    max_model_len: int
    num_kv_tokens: int

    @property
    def chunks(self) -> list[int]:
        """Tokens of the prefill chunks that fill the budget, at the end of max_model_len tokens each."""
        num_full, rest = divmod(self.num_tokens, self.max_model_len)
        return ([self.max_model_len] * num_full + [rest] * (rest > 0))[: self.num_seqs]

    @property
    def num_decodes(self) -> int:
        """Requests that compute one token, in the places that the chunks leave."""
        return max(0, min(self.num_seqs, self.num_tokens) - len(self.chunks))

    @property
    def decode_len(self) -> int:
        """Context of each of those, in what the chunks' contexts leave of the KV pool."""
        left = self.num_kv_tokens - len(self.chunks) * self.max_model_len
        return max(1, min(self.max_model_len, left // max(1, self.num_decodes)))

    @property
    def num_rows(self) -> int:
        """Tokens that the step computes: a few more than the scheduler allows, so that both extremes are in it."""
        return sum(self.chunks) + self.num_decodes

    @property
    def batches(self) -> list[tuple[int, int, int]]:
        """(requests, tokens that each computes, context) of those that are alike."""
        full = [(self.chunks.count(num_tokens), num_tokens, self.max_model_len) for num_tokens in set(self.chunks)]
        return full + ([(self.num_decodes, 1, self.decode_len)] if self.num_decodes else [])
