"""Expert fields of config.json -> MoESpec. No torch."""

from typing import Any

from engine.errors import ModelLoadError
from engine.models.config_fields import Config, field, positive
from engine.models.spec import MoESpec
from engine.models.standard import read_mlp


def read_moe(config: Config, **changes: Any) -> MoESpec:
    """A mixture of gated MLPs; `changes` are fields of MoESpec, and what they replace is not read.

    Raises:
        ModelLoadError: more experts a token than there are.
    """
    if "expert" not in changes:
        changes["expert"] = read_mlp(config)
    if "is_renormalized" not in changes:
        changes["is_renormalized"] = field(config, "norm_topk_prob", bool, default=False)
    # Newer configs may have the count under the other name than the published ones of the same family.
    name = "num_local_experts" if config.get("num_local_experts") is not None else "num_experts"
    num_experts, num_chosen = positive(config, name), positive(config, "num_experts_per_tok")
    if num_chosen > num_experts:
        raise ModelLoadError(
            f"config.json: 'num_experts_per_tok' must be at most the number of experts ({num_experts}), got {num_chosen}"
        )
    return MoESpec(num_experts, num_chosen, **changes)


def is_sparse(config: Config, layer_idx: int) -> bool:
    """Whether a layer has experts: each `decoder_sparse_step`-th, but for those in `mlp_only_layers`.

    Raises:
        ModelLoadError: `mlp_only_layers` is no list of layers.
    """
    dense = config.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(i) is int for i in dense):
        raise ModelLoadError(f"config.json: 'mlp_only_layers' must be a list of layers, got {dense!r}")
    return layer_idx not in dense and (layer_idx + 1) % positive(config, "decoder_sparse_step", 1) == 0
