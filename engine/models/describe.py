"""A spec in a few words, for tables that people read. No torch."""

from collections import Counter

from engine.models.spec import DecoderSpec, LayerSpec, RopeSpec


def heads(spec: DecoderSpec) -> str:
    """Query heads on key/value heads, such as `32 on 8`; where layers differ, from the fewest to the most."""
    q_heads, kv_heads = ([getattr(layer, f"num_{kind}_heads") for layer in spec.layers] for kind in ("q", "kv"))
    return f"{_span(q_heads)} on {_span(kv_heads)}"


def head_dim(spec: DecoderSpec) -> str:
    """Width of a key, and of a value where that is another."""
    keys, values = [layer.k_head_dim for layer in spec.layers], [layer.v_head_dim for layer in spec.layers]
    return _span(keys) if keys == values else f"{_span(keys)} / {_span(values)}"


def positions(spec: DecoderSpec) -> str:
    """How the model knows where a token stands, such as `rope (llama3)`; the kinds of different layers beside each other."""
    kinds = Counter(_position_kind(layer) for layer in spec.layers)
    if spec.embedding.has_positions:
        return "learned" if set(kinds) == {"none"} else f"learned, {', '.join(kinds)}"
    if len(kinds) == 1:
        return next(iter(kinds))
    return ", ".join(f"{kind} in {count} layers" for kind, count in kinds.most_common())


def windows(spec: DecoderSpec) -> str:
    """Which layers see only a window, such as `4,096 tokens in 16 of 32 layers`; empty where none does."""
    counts = Counter(layer.sliding_window for layer in spec.layers if layer.sliding_window)
    return ", ".join(f"{window:,} tokens in {count} of {spec.num_layers} layers" for window, count in counts.items())


def _position_kind(layer: LayerSpec) -> str:
    if layer.rope:
        return _rope_kind(layer.rope, layer.k_head_dim)
    return "ALiBi" if layer.alibi_slopes else "none"


def _rope_kind(rope: RopeSpec, width: int) -> str:
    traits = []
    if rope.rotary_dim < width:
        traits.append(f"{rope.rotary_dim} of {width}")
    if rope.is_interleaved:
        traits.append("interleaved")
    if rope.scaling:
        traits.append(str(rope.scaling.__struct_config__.tag))
    return f"rope ({', '.join(traits)})" if traits else "rope"


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low}-{high}"
