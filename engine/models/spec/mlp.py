"""The feed-forward part of a layer, dense or with experts, as data."""

import enum

import msgspec


class Activation(enum.StrEnum):
    """The nonlinearity of the feed-forward part."""

    SILU = "silu"
    GELU = "gelu"
    """Exact, through erf."""
    GELU_TANH = "gelu_tanh"
    RELU = "relu"
    RELU_SQUARED = "relu_squared"
    """relu(x)^2 (So et al. 2021)."""
    CLAMPED_SWIGLU = "clamped_swiglu"
    """gpt-oss: g * sigmoid(1.702 g) * (u + 1) with g at most 7 and u between -7 and 7. Gated only."""


class MLPSpec(msgspec.Struct, frozen=True):
    """The feed-forward part: down(act(gate(x)) * up(x)) where gated, else down(act(up(x)))."""

    intermediate_size: int
    activation: Activation
    is_gated: bool
    has_bias: bool = False

    @property
    def up_name(self) -> str:
        """The first projection: gate and up rows stacked, or up alone."""
        return "gate_up" if self.is_gated else "up"

    @property
    def up_width(self) -> int:
        """Columns that the first projection gives."""
        return self.intermediate_size * (2 if self.is_gated else 1)

    def shapes(self, hidden_size: int, prefix: str = "", experts: tuple[int, ...] = ()) -> dict[str, tuple[int, ...]]:
        """The parameters; `experts` is (num_experts,) where each expert has its own."""
        return {
            **linear_shapes(f"{prefix}{self.up_name}", self.up_width, hidden_size, self.has_bias, experts),
            **linear_shapes(f"{prefix}down", hidden_size, self.intermediate_size, self.has_bias, experts),
        }


class MoESpec(msgspec.Struct, frozen=True):
    """A mixture of experts (Shazeer et al. 2017): each token goes through a few of many MLPs, chosen by a router.

    Attributes:
        num_experts: to choose from.
        num_experts_per_token: that are chosen.
        expert: each of them.
        is_renormalized: the chosen experts' weights sum to 1; else they are what they are among all experts'.
        has_router_bias: the router adds a bias to its logits.
        shared: an MLP that every token goes through besides.
        has_shared_gate: the shared MLP's output is multiplied by sigmoid(x w).
    """

    num_experts: int
    num_experts_per_token: int
    expert: MLPSpec
    is_renormalized: bool = True
    has_router_bias: bool = False
    shared: MLPSpec | None = None
    has_shared_gate: bool = False

    def shapes(self, hidden_size: int) -> dict[str, tuple[int, ...]]:
        """The parameters: a dimension of experts before the usual ones."""
        shapes = {
            **linear_shapes("router", self.num_experts, hidden_size, self.has_router_bias),
            **self.expert.shapes(hidden_size, "experts.", (self.num_experts,)),
        }
        if self.shared:
            shapes |= self.shared.shapes(hidden_size, "shared.")
        if self.has_shared_gate:
            shapes |= linear_shapes("shared_gate", 1, hidden_size, has_bias=False)
        return shapes


def linear_shapes(
    name: str, out_width: int, in_width: int, has_bias: bool, experts: tuple[int, ...] = ()
) -> dict[str, tuple[int, ...]]:
    """The parameters of a projection called `name`: [out, in], and [out] where it has a bias."""
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (*experts, out_width, in_width)}
    if has_bias:
        shapes[f"{name}.bias"] = (*experts, out_width)
    return shapes
