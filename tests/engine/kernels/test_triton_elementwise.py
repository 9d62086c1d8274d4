"""Triton's norms, activations, rope and cache write against the reference in float64."""

import pytest
import torch

from engine.kernels import reference
from engine.models.spec import Activation
from tests.engine.kernels import triton_setup
from tests.engine.kernels.rounding import FLOAT32_EPS, assert_within, sum_eps
from tests.engine.kernels.triton_setup import DEVICE, output_eps

kernels = triton_setup.import_kernels()
# numpy, which interprets, says where e^x overflows on its way to sigmoid(-x) = 0.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NORMS = [
    (shape, kind)
    for shape in ((5, 576), (130, 48), (3, 4100), (7, 3, 64), (40, 5, 80), (2, 1, 7), (0, 8))
    for kind in ("none", "plain", "offset", "by-head")
    if kind != "by-head" or len(shape) == 3
]
SHAPES = [(1, 576), (3, 64), (130, 48), (2, 7), (9, 4100)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "weight_kind"), NORMS)
@pytest.mark.parametrize("name", ["rms_norm", "layer_norm"])
def test_norms(name: str, shape: tuple[int, ...], weight_kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    width, offset = shape[-1], 1.0 if weight_kind == "offset" else 0.0
    wide = 3 + 2 * torch.randn(*shape[:-1], width + 5)
    x = wide.to(dtype)[..., :width]
    dims = shape[1:] if weight_kind == "by-head" else (width,)
    given = [] if weight_kind == "none" else [torch.randn(dims).to(dtype), torch.randn(dims).to(dtype)]
    given = (given or [None, None])[: 1 if name == "rms_norm" else 2]
    on_device = [w if w is None else w.to(DEVICE) for w in given]
    out = getattr(kernels, name)(x.to(DEVICE), *on_device, 1e-5, weight_offset=offset).cpu()
    exact = getattr(reference, name)(
        x.double(), *[w if w is None else w.double() for w in given], 1e-5, weight_offset=offset
    )
    largest = float(exact.abs().max()) if exact.numel() else 0.0
    # Differences from the mean are off by roundings of the mean, which is of the size of the numbers.
    assert_within(out, exact, output_eps(dtype) * exact.abs() * 1.01 + 4 * sum_eps(min(width, 200)) * (largest + 1))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("shape", SHAPES)
def test_activations(shape: tuple[int, int], activation: Activation, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    num_rows, width = shape
    gate_up = (4 * torch.randn(num_rows, 2 * width + 3)).to(dtype)[:, : 2 * width]
    pairs = [
        (
            kernels.activate_and_multiply(gate_up.to(DEVICE), activation),
            reference.activate_and_multiply(gate_up.double(), activation),
        )
    ]
    if activation is not Activation.CLAMPED_SWIGLU:
        gate = gate_up[:, :width]
        pairs.append((kernels.activate(gate.to(DEVICE), activation), reference.activate(gate.double(), activation)))
    # 1 + erf cancels where the gate is far below zero.
    floor = 4 * FLOAT32_EPS * float(gate_up.double().abs().max()) ** 2
    for out, exact in pairs:
        assert_within(out.cpu(), exact, (1.01 * output_eps(dtype) + 300 * FLOAT32_EPS) * exact.abs() + floor)


def test_activations_at_the_ends() -> None:
    x = torch.tensor([[-1e4, -100.0, 0.0, 100.0, 1e4, torch.nan]], device=DEVICE)
    for activation in set(Activation) - {Activation.CLAMPED_SWIGLU}:
        torch.testing.assert_close(kernels.activate(x, activation), reference.activate(x, activation), equal_nan=True)
    gate_up = torch.cat((x, x.flip(1)), 1)
    out = kernels.activate_and_multiply(gate_up, Activation.CLAMPED_SWIGLU)
    torch.testing.assert_close(out, reference.activate_and_multiply(gate_up, Activation.CLAMPED_SWIGLU), equal_nan=True)
    with pytest.raises(ValueError, match="gated only"):
        kernels.activate(x, Activation.CLAMPED_SWIGLU)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("is_interleaved", [False, True])
@pytest.mark.parametrize(("num_heads", "head_dim", "rotary_dim"), [(12, 64, 64), (1, 16, 8), (3, 24, 24), (71, 80, 32)])
def test_rope_turns_a_view_in_place(
    num_heads: int, head_dim: int, rotary_dim: int, is_interleaved: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    num_tokens, extra = 21, 5
    angles = torch.randn(num_tokens, rotary_dim // 2, device=DEVICE)
    cos, sin = angles.cos(), angles.sin()
    rows = torch.randn(num_tokens, num_heads * head_dim + extra, device=DEVICE).to(dtype)
    before = rows.clone()
    view = rows[:, : num_heads * head_dim].unflatten(1, (num_heads, head_dim))
    exact = view.double()
    reference.apply_rope(exact, cos.double(), sin.double(), is_interleaved=is_interleaved)
    kernels.apply_rope(view, cos, sin, is_interleaved=is_interleaved)
    bound = output_eps(dtype) * exact.abs() * 1.01 + 4 * FLOAT32_EPS * before.double().abs().max()
    assert_within(view, exact, bound)
    assert torch.equal(view[..., rotary_dim:], before[:, :-extra].unflatten(1, (num_heads, head_dim))[..., rotary_dim:])
    assert torch.equal(rows[:, num_heads * head_dim :], before[:, num_heads * head_dim :])


def test_what_does_not_fit_is_refused() -> None:
    x, cos = torch.zeros(3, 2, 8), torch.zeros(3, 5)
    with pytest.raises(ValueError, match="x: expected dense heads of at least 10"):
        kernels.apply_rope(x, cos, cos)
