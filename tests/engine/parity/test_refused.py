"""What a family's page cannot say in a spec, it refuses by name and value, before any weight is read."""

from typing import Any

import pytest

from engine.errors import ModelLoadError
from engine.models.registry import FAMILIES, load_spec

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("BloomForCausalLM", {"apply_residual_connection_post_layernorm": True}, "post_layernorm' is True"),
    ("BloomForCausalLM", {"n_inner": 100}, "'n_inner' is 100"),
    ("FalconForCausalLM", {"apply_residual_connection_post_layernorm": True}, "post_layernorm' is True"),
    ("FalconForCausalLM", {"num_ln_in_parallel_attn": 2}, "'num_ln_in_parallel_attn' is 2"),
    ("FalconForCausalLM", {"new_decoder_architecture": True, "parallel_attn": False}, "'parallel_attn' is False"),
    ("FalconForCausalLM", {"activation": "tanh"}, "'activation' must be one of"),
    ("GPTBigCodeForCausalLM", {"num_key_value_heads": 8}, "'num_key_value_heads' is 8"),
    ("GPTNeoForCausalLM", {"attention_types": [[["global"], 1]]}, "'attention_types' must name global or local"),
    ("GPTNeoForCausalLM", {"attention_types": "local"}, "got 'local'"),
    ("GPTNeoForCausalLM", {"attention_layers": ["global"] * 24}, "'attention_layers' is"),
    ("MptForCausalLM", {"attn_config": {"alibi": False}}, "'alibi' is False"),
    ("MptForCausalLM", {"attn_config": {"attn_type": "grouped_query_attention"}}, "'attn_type' is 'grouped"),
    ("MptForCausalLM", {"attn_config": {"qk_ln": True}}, "'qk_ln' is True"),
    ("MptForCausalLM", {"attn_config": "alibi"}, "'attn_config' must hold fields"),
    ("MptForCausalLM", {"logit_scale": 0.5}, "'logit_scale' is 0.5"),
    ("MptForCausalLM", {"n_heads": 0}, "'n_heads' must be at least 1"),
    ("OPTForCausalLM", {"ffn_dim": "wide"}, "'ffn_dim' must be of type int"),
]


@pytest.mark.parametrize(("architecture", "fields", "message"), REFUSED)
def test_refused(architecture: str, fields: dict[str, Any], message: str) -> None:
    config = {**FAMILIES[architecture].published.config, "architectures": [architecture], **fields}
    with pytest.raises(ModelLoadError, match=message):
        load_spec(config)
