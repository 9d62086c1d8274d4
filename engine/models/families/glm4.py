"""GLM-4-0414: GLM-4 with norms on both sides of every sublayer."""

import functools

from engine.models.families.glm import NAMES as GLM_NAMES
from engine.models.families.glm import build_glm_spec
from engine.models.family import Family, Published
from engine.models.spec import NormPlace

FAMILY = Family(
    architectures=("Glm4ForCausalLM",),
    build_spec=functools.partial(build_glm_spec, norm_place=NormPlace.SANDWICH),
    tensor_names=GLM_NAMES.with_layer(
        {"attention_output_norm": "post_self_attn_layernorm", "mlp_output_norm": "post_mlp_layernorm"}
    ),
    published=Published(
        "THUDM/GLM-4-9B-0414",
        {
            "attention_bias": True,
            "head_dim": 128,
            "hidden_size": 4096,
            "intermediate_size": 13696,
            "max_position_embeddings": 32768,
            "num_attention_heads": 32,
            "num_hidden_layers": 40,
            "num_key_value_heads": 2,
            "partial_rotary_factor": 0.5,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "vocab_size": 151552,
        },
    ),
)
