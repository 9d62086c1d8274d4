"""How many prompt tokens fit into a step beside the requests that decode. No torch.

A step ends for all of its requests at once: whoever streams waits for the prompt tokens that are computed beside them. What
a token costs depends on the machine, the model and the context, so it is measured and not set:

    step_s = decode_s + num_prefill_tokens * token_s

One prompt may add (max_decode_slowdown - 1) * decode_s, several may add that each: the more wait, the more of the time is
theirs. With one share for all of them, streams would run a few at a time while the others queue, and a step of a few costs
almost as much as one of many.
"""

import math

MIN_PREFILL_TOKENS = 8
MIN_PREFILL_SHARE = 256
"""A step takes at least this part of max_num_batched_tokens: prompts go on, however slow their tokens are."""

BAD_NEWS_WEIGHT = 0.5
GOOD_NEWS_WEIGHT = 0.3
"""How much one measurement counts. What makes chunks smaller counts more: a gap in a stream cannot be made good."""


class StepPacer:
    """Bounds the prefill of steps that also decode by the time that such steps took.

    Args:
        max_decode_slowdown: how many times longer a step may take, for one prompt, than one that only decodes.
        max_num_batched_tokens: of a step.
    """

    def __init__(self, max_decode_slowdown: float, max_num_batched_tokens: int) -> None:
        self._max_slowdown = max_decode_slowdown
        self._max_tokens = max_num_batched_tokens
        self._min_tokens = max(MIN_PREFILL_TOKENS, max_num_batched_tokens // MIN_PREFILL_SHARE)
        self._token_s: float | None = None
        self._decode_s: dict[int, float] = {}
        """Seconds of a step that only decodes, by the number of binary digits of how many: 1, 2 to 3, 4 to 7, …"""

    def max_prefill_tokens(self, num_decodes: int, num_prompts: int = 1) -> int:
        """Prompt tokens for a step; few while nothing is measured, all that it holds where nothing decodes.

        Args:
            num_decodes: requests that get a token in it.
            num_prompts: requests that could be prefilled in it.
        """
        if num_decodes == 0:
            return self._max_tokens
        known = [size for size in self._decode_s if size <= num_decodes.bit_length()]
        if not known or self._token_s is None:
            return self._min_tokens
        spare_s = num_prompts * (self._max_slowdown - 1) * self._decode_s[max(known)]
        if spare_s >= self._max_tokens * self._token_s:
            return self._max_tokens
        return max(self._min_tokens, int(spare_s / self._token_s))

    def observe(self, num_decodes: int, num_prefill_tokens: int, step_s: float) -> None:
        """Learn from a step; one without decodes teaches nothing."""
        if num_decodes == 0:
            return
        size = num_decodes.bit_length()
        decode_s = self._decode_s.get(size, math.inf)
        if num_prefill_tokens == 0:
            self._decode_s[size] = _blend(decode_s, step_s, is_bad=step_s < decode_s)
            return
        # Decodes alone would not have taken longer than this.
        decode_s = self._decode_s[size] = min(decode_s, step_s)
        if num_prefill_tokens < self._min_tokens:
            return
        if self._token_s is None:
            self._token_s = step_s / num_prefill_tokens
        token_s = (step_s - decode_s) / num_prefill_tokens
        self._token_s = _blend(self._token_s, token_s, is_bad=token_s > self._token_s)


def _blend(known: float, measured: float, *, is_bad: bool) -> float:
    """What is believed after one more measurement."""
    if math.isinf(known):
        return measured
    return known + (BAD_NEWS_WEIGHT if is_bad else GOOD_NEWS_WEIGHT) * (measured - known)
