"""How a sublayer joins the residual stream."""

from collections.abc import Callable, Mapping

from torch import Tensor

from engine.kernels.base import Kernels
from engine.layers.norm import Norm
from engine.models.spec import DecoderSpec, NormPlace

Function = Callable[[Tensor, Tensor | None], Tensor]
"""(input, residual or None) -> the output, added to the residual where there is one."""


class Sublayer:
    """The norms around attention or MLP, and the addition to the stream; see NormPlace.

    Args:
        spec: of the decoder.
        parameters: those of the norms begin with `name`.
        name: `layers.{layer_idx}.attention` or `layers.{layer_idx}.mlp`.
    """

    def __init__(self, spec: DecoderSpec, kernels: Kernels, parameters: Mapping[str, Tensor], name: str) -> None:
        place = spec.norm_place

        def norm(is_there: bool, suffix: str) -> Norm | None:
            return Norm(spec.norm, kernels, parameters, f"{name}{suffix}") if is_there else None

        self._before = norm(place.is_before, "_norm")
        self._on_output = norm(place.is_on_output, "_output_norm")
        self._after = norm(place is NormPlace.POST, "_norm")
        self._multiplier = spec.residual_multiplier
        self._adds_directly = self._on_output is None and self._multiplier == 1.0

    def __call__(self, x: Tensor, function: Function) -> Tensor:
        """[num_tokens, hidden_size] -> the same shape."""
        return self.add(x, self.normed(x), function)

    def normed(self, x: Tensor) -> Tensor:
        """What the sublayer reads."""
        return x if self._before is None else self._before(x)

    def add(self, x: Tensor, normed: Tensor, function: Function) -> Tensor:
        """The stream `x` with the function of `normed` added."""
        if self._adds_directly:
            out = function(normed, x)  # kernels add while they write
        else:
            out = function(normed, None)
            out = out if self._on_output is None else self._on_output(out)
            out = x + (out if self._multiplier == 1.0 else out * self._multiplier)
        return out if self._after is None else self._after(out)


class ResidualMix:
    """Learned scalars on the residual stream; see ResidualMixSpec."""

    def __init__(self, backout_layer: int, parameters: Mapping[str, Tensor]) -> None:
        self.backout_layer = backout_layer
        self._residual_scales, self._first_scales = parameters["residual_scales"], parameters["first_scales"]
        self._backout_scale = parameters["backout_scale"]

    def before(self, layer_idx: int, x: Tensor, first: Tensor) -> Tensor:
        """What goes into a layer: the stream `x` and the embeddings `first`, each scaled."""
        return self._residual_scales[layer_idx] * x + self._first_scales[layer_idx] * first

    def back_out(self, x: Tensor, middle: Tensor) -> Tensor:
        """The end of the stream, less its middle."""
        return x - self._backout_scale * middle
