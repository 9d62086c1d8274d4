"""Memory of the end of a step: logits, log-probabilities, the draw."""

from engine.models.spec import DecoderSpec
from engine.request import MAX_LOGPROB_ROWS
from engine.workspace.attention import INDEX_BYTES
from engine.workspace.layers import widened_group_bytes
from engine.workspace.method import Method
from engine.workspace.step_size import StepSize


def sampling_bytes(spec: DecoderSpec, size: StepSize, method: Method) -> int:
    """All requests sampled with top_p and log-probabilities: engine.sampler._draw_truncated, engine.kernels.sampling."""
    num_logits = (len(size.chunks) + size.num_decodes) * spec.vocab_size
    logits = num_logits * method.wide_bytes
    if method.has_native_draws:
        # Logits, an untouched copy, those of the rows that report, and their log-probabilities.
        return 4 * logits
    # Kept: logits, an untouched copy, scaled ones. Then the sorted ones and what becomes of them, their order, their
    # running sum in float64 and a mask; or what is left of them, their order and the running sum in which the draw is
    # looked up.
    sorting = 7 * logits + num_logits * (INDEX_BYTES + 9)
    drawing = 4 * logits + num_logits * (INDEX_BYTES + 16)
    return max(sorting, drawing)


def prompt_logprobs_bytes(spec: DecoderSpec, size: StepSize, method: Method) -> int:
    """Logits of so many prompt tokens and their log-probabilities: engine.sampler.compute_logprobs."""
    num_rows = min(MAX_LOGPROB_ROWS, max(size.chunks))
    num_logits = num_rows * spec.vocab_size
    made = method.dtype_bytes + method.wide_bytes if method.dtype_bytes < method.wide_bytes else method.dtype_bytes
    capped = (3 if spec.head.softcap is not None else 1) * method.wide_bytes
    most = num_logits * max(made, capped, 2 * method.wide_bytes)
    if method.is_int8 and not method.is_native:
        # A product's sums, and two more of their size, in float32.
        return max(most, num_logits * 3 * 4 + widened_group_bytes(spec.vocab_size))
    return most
