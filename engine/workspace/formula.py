"""A step's workspace: the largest of its stages, and what is there all the time."""

from engine.kernels.coverage import scratch_widths
from engine.models.spec import DecoderSpec, LayerSpec
from engine.workspace.attention import INDEX_BYTES, plan_bytes
from engine.workspace.head import prompt_logprobs_bytes, sampling_bytes
from engine.workspace.layers import fused_bytes, layer_bytes
from engine.workspace.method import Method
from engine.workspace.step_size import StepSize

LARGEST_KINDS = 2
"""Kinds of layers that are rehearsed: where every layer has widths of its own, the widest decide."""


def workspace_bytes(spec: DecoderSpec, size: StepSize, method: Method, block_size: int) -> int:
    """Bytes that the largest step of `size` takes beside weights and KV cache.

    Args:
        spec: of the model.
        size: of the step.
        method: on what it runs.
        block_size: tokens in a KV block.
    """
    num_groups = len(spec.kv_geometry(method.dtype_bytes, block_size).groups)
    hidden = size.num_rows * spec.hidden_size * method.dtype_bytes
    held = _batch_bytes(size, num_groups, block_size) + plan_bytes(spec.layers, num_groups, size, method) + hidden
    return held + max(
        _angle_bytes(spec, size, method) + _layers_bytes(spec, size, method),
        sampling_bytes(spec, size, method),
        prompt_logprobs_bytes(spec, size, method),
    )


def largest_layers(spec: DecoderSpec) -> list[int]:
    """Indices of the layers that decide what a step needs: the last of each kind, of many kinds only the widest."""
    last: dict[LayerSpec, int] = {layer: layer_idx for layer_idx, layer in enumerate(spec.layers)}

    def width(layer_idx: int) -> int:
        layer = spec.layers[layer_idx]
        return sum(max(shape) for shape in layer.shapes(spec.hidden_size, 1).values())

    widest = sorted(last.values(), key=width, reverse=True)[:LARGEST_KINDS]
    return sorted({*widest, *([0] if spec.residual_mix else [])})


def _layers_bytes(spec: DecoderSpec, size: StepSize, method: Method) -> int:
    """Of the most demanding layer, the residual stream before it aside."""
    if method.is_fused:
        return fused_bytes(spec, scratch_widths(spec), size, method)
    kept = 2 if spec.residual_mix else 0
    hidden = size.num_rows * spec.hidden_size * method.dtype_bytes
    return kept * hidden + max(layer_bytes(spec, layer, size, method) for layer in set(spec.layers))


def _batch_bytes(size: StepSize, num_groups: int, block_size: int) -> int:
    """engine.batch.BatchTensors: ids, predecessors and positions, slots and block tables of every group."""
    num_blocks = -(-max(seq_len for _, _, seq_len in size.batches) // block_size)
    num_seqs = len(size.chunks) + size.num_decodes
    return INDEX_BYTES * (size.num_rows * (3 + num_groups) + num_groups * num_seqs * num_blocks)


def _angle_bytes(spec: DecoderSpec, size: StepSize, method: Method) -> int:
    ropes = {layer.rope for layer in spec.layers if layer.rope}
    return sum(size.num_rows * rope.rotary_dim * method.wide_bytes for rope in ropes)
