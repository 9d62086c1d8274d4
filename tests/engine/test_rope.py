"""Rotary embedding: config fields to frequencies as transformers has them, refusals, the rotation itself."""

import copy
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.errors import ModelLoadError
from engine.kernels.select import select_kernels
from engine.layers.rope_frequencies import inverse_frequencies
from engine.layers.rotary import Rotary
from engine.models.rope_config import longest_context, read_rope
from engine.models.spec import LongRopeScaling, RopeSpec, YarnScaling

CPU = torch.device("cpu")
HEAD_DIM, THETA, CONTEXT = 16, 5000.0, 128
SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 4,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": CONTEXT,
}
ORIGINAL = {"original_max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, **ORIGINAL}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}


def longrope(num_pairs: int) -> dict[str, Any]:
    long = [1.0 + 3 * i for i in range(num_pairs)]
    return {"rope_type": "longrope", "short_factor": [1.1] * num_pairs, "long_factor": long, **ORIGINAL}


CASES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "llama3": LLAMA3,
    "yarn": YARN,
    "yarn, no factor": {**YARN, "factor": None},
    "yarn, not truncated": {**YARN, "truncate": False},
    "yarn, other betas": {**YARN, "beta_fast": 5, "beta_slow": 2},
    "yarn, a ramp of no width": {**YARN, "beta_fast": 1.001, "beta_slow": 1.0, "truncate": False},
    "yarn, mscale": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3},
    "yarn, mscale without its partner": {**YARN, "mscale": 0.7},
    "yarn, attention factor": {**YARN, "attention_factor": 1.7},
    "yarn, no stretching": {**YARN, "factor": 1.0},
    "longrope": longrope(8),
    "longrope, factor": {**longrope(8), "factor": 8.0},
    "longrope, attention factor": {**longrope(8), "attention_factor": 1.7},
    "proportional": {"rope_type": "proportional"},
    "half, linear": {"rope_type": "linear", "factor": 4.0, "partial_rotary_factor": 0.5},
    "half, dynamic": {"rope_type": "dynamic", "factor": 2.0, "partial_rotary_factor": 0.5},
    "half, llama3": {**LLAMA3, "partial_rotary_factor": 0.5},
    "half, yarn": {**YARN, "partial_rotary_factor": 0.5},
    "half, longrope": {**longrope(4), "partial_rotary_factor": 0.5},
    "a third, proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.33, "factor": 2.0},
}


def newer(fields: dict[str, Any]) -> dict[str, Any]:
    return {**SIZES, "rope_parameters": {**fields, "rope_theta": THETA}}


def older(fields: dict[str, Any], type_key: str = "rope_type") -> dict[str, Any]:
    fields = dict(fields)
    scaling = {type_key: fields.pop("rope_type"), **fields}
    partial = scaling.pop("partial_rotary_factor", None)
    beside = {"rope_theta": THETA} if partial is None else {"rope_theta": THETA, "partial_rotary_factor": partial}
    return {**SIZES, **beside, "rope_scaling": scaling}


def oldest(fields: dict[str, Any]) -> dict[str, Any]:
    return older(fields, "type")


def of_transformers(
    config: dict[str, Any], rope_type: str, seq_len: int, layer_type: str | None = None, name: str = "LlamaConfig"
) -> tuple[Tensor, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        built = getattr(transformers, name)(**copy.deepcopy(config))
        return ROPE_INIT_FUNCTIONS[rope_type](built, CPU, seq_len=seq_len, layer_type=layer_type)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("spell", [newer, older, oldest])
def test_frequencies_equal_transformers(case: str, spell: Any) -> None:
    config = spell(CASES[case])
    rope = read_rope(config, HEAD_DIM)
    for seq_len in (64, 65, 128, 300):
        frequencies, factor = of_transformers(config, CASES[case]["rope_type"], seq_len)
        torch.testing.assert_close(inverse_frequencies(rope, seq_len), frequencies, rtol=1e-6, atol=0)
        assert rope.attention_factor == pytest.approx(factor, rel=1e-12)


def test_the_oldest_name_of_longrope() -> None:
    assert read_rope(oldest({**longrope(8), "rope_type": "su"}), HEAD_DIM) == read_rope(newer(longrope(8)), HEAD_DIM)


def test_the_trained_context_beside_the_rope_wins_as_in_transformers() -> None:
    config = {**older(longrope(8)), "original_max_position_embeddings": 100}
    rope = read_rope(config, HEAD_DIM)
    assert isinstance(rope.scaling, LongRopeScaling)
    assert rope.scaling.original_max_position_embeddings == 100
    assert rope.attention_factor == pytest.approx(of_transformers(config, "longrope", 50)[1], rel=1e-12)


def test_ropes_by_layer_type() -> None:
    ropes = {
        "full_attention": {**YARN, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0},
    }
    config = {**SIZES, "rope_parameters": ropes, "layer_types": ["full_attention", "sliding_attention"]}
    for layer_type, fields in ropes.items():
        wanted, _ = of_transformers(
            {**config, "num_hidden_layers": 2}, str(fields["rope_type"]), 64, layer_type, "Gemma3TextConfig"
        )
        found = read_rope(config, HEAD_DIM, layer_type=layer_type)
        torch.testing.assert_close(inverse_frequencies(found, 64), wanted, rtol=1e-6, atol=0)


def test_plain_rope_is_the_formula_of_the_paper() -> None:
    config = {**SIZES, "rope_theta": THETA, "partial_rotary_factor": 0.5}
    rope = read_rope(config, HEAD_DIM)
    assert rope == RopeSpec(THETA, 8)
    wanted = torch.tensor([THETA ** (-2 * i / 8) for i in range(4)])
    torch.testing.assert_close(inverse_frequencies(rope, 64), wanted)
    reversed_rope = RopeSpec(THETA, 8, is_reversed=True)
    torch.testing.assert_close(inverse_frequencies(reversed_rope, 64), -wanted)


def test_defaults_of_a_family() -> None:
    assert read_rope(SIZES, HEAD_DIM) == RopeSpec(10000.0, HEAD_DIM)
    assert read_rope(SIZES, HEAD_DIM, default_theta=7.0, default_partial=0.25) == RopeSpec(7.0, 4)
    for stated in (
        {"rope_theta": 9, "partial_rotary_factor": 0.5},
        {"rope_parameters": {"rope_theta": 9, "partial_rotary_factor": 0.5}},
        {
            "rope_theta": 1,
            "partial_rotary_factor": 1.0,
            "rope_scaling": {"rope_theta": 9, "partial_rotary_factor": 0.5},
        },
    ):
        assert read_rope({**SIZES, **stated}, HEAD_DIM, default_theta=7.0, default_partial=0.25) == RopeSpec(9.0, 8)


def test_the_older_spelling_goes_first_where_both_are_there_as_in_transformers() -> None:
    config = {**older(CASES["linear"]), "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}
    assert read_rope(config, HEAD_DIM) == read_rope(newer(CASES["linear"]), HEAD_DIM)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_parameters": {"rope_type": "spiral"}}, r"'rope_type'.*one of default, .*yarn.*'spiral'"),
        ({"rope_scaling": {"type": "mrope"}}, r"'type'.*'mrope'"),
        ({"rope_scaling": {"rope_type": ["yarn"]}}, r"'rope_type' must be of type str, got \['yarn'\]"),
        ({"rope_scaling": "yarn"}, r"'rope_scaling' must hold fields, got 'yarn'"),
        ({"rope_scaling": {"type": "linear"}}, r"lacks 'factor'"),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, r"'factor' must be of type float, got '4'"),
        ({"rope_scaling": {**longrope(8), "long_factor": [1.0, "2"]}}, r"'long_factor' must be a list of numbers"),
        ({"rope_scaling": longrope(7)}, r"'short_factor' must hold 8 numbers, got 7"),
        ({"rope_parameters": {"full_attention": YARN}}, r"for full_attention, and none shared by all layers"),
        ({"partial_rotary_factor": 0.2}, r"0.2 of a head of 16 is 3, no even number"),
    ],
)
def test_refusals_name_key_and_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        read_rope({**SIZES, **fields}, HEAD_DIM)


def test_a_layer_type_without_rope_fields_is_refused() -> None:
    config = {**SIZES, "rope_parameters": {"full_attention": YARN}}
    with pytest.raises(ModelLoadError, match="none for 'sliding_attention'"):
        read_rope(config, HEAD_DIM, layer_type="sliding_attention")


@pytest.mark.parametrize(
    ("case", "longest"),
    [("linear", 128), ("llama3", 128), ("longrope", 128), ("proportional", 128), ("dynamic", 256), ("yarn", 256)],
)
def test_longest_context(case: str, longest: int) -> None:
    config = newer(CASES[case])
    assert longest_context(config, read_rope(config, HEAD_DIM)) == longest
    assert longest_context(config, None) == CONTEXT


def test_stretching_never_shortens_the_context() -> None:
    rope = RopeSpec(THETA, HEAD_DIM, scaling=YarnScaling(factor=1.5, original_max_position_embeddings=64))
    assert longest_context(SIZES, rope) == CONTEXT


def test_angles_are_looked_up_by_position() -> None:
    rope = read_rope(newer(CASES["yarn, attention factor"]), HEAD_DIM)
    positions = torch.tensor([3, 0, 199, 3])
    cos, sin = Rotary(rope, 200, torch.bfloat16, CPU).lookup(positions)
    angles = positions.float().unsqueeze(-1) * inverse_frequencies(rope, 200)
    torch.testing.assert_close(cos, 1.7 * angles.cos())
    torch.testing.assert_close(sin, 1.7 * angles.sin())


@pytest.mark.parametrize("kernels", ["reference", "auto"])
@pytest.mark.parametrize("is_interleaved", [True, False])
def test_rotation_equals_the_matrix_of_the_paper(kernels: str, is_interleaved: bool) -> None:
    x = torch.randn(5, 3, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    rotary = Rotary(RopeSpec(100.0, 8), 50, torch.float32, CPU)
    positions = torch.tensor([0, 1, 7, 30, 49])
    given = x.clone()
    apply_rope = select_kernels(CPU, torch.float32, kernels).apply_rope
    apply_rope(given, *rotary.lookup(positions), is_interleaved=is_interleaved)
    # The paper pairs neighbours; families that pair halves turn the same vector, its dimensions in another order.
    order = list(range(8)) if is_interleaved else [half * 4 + i for i in range(4) for half in (0, 1)]
    wanted = x.clone()
    for token, position in enumerate(positions.tolist()):
        matrix = rotation_matrix(position, 8, 100.0)
        wanted[token, :, order] = x[token][:, order] @ matrix.T
    torch.testing.assert_close(given, wanted, rtol=1e-5, atol=1e-5)


def rotation_matrix(position: int, dim: int, theta: float) -> Tensor:
    """Su et al. 2021, eq. 15: [dim, dim]."""
    matrix = torch.zeros(dim, dim)
    for i in range(dim // 2):
        angle = position * theta ** (-2 * i / dim)
        cos, sin = math.cos(angle), math.sin(angle)
        matrix[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = torch.tensor([[cos, -sin], [sin, cos]])
    return matrix
