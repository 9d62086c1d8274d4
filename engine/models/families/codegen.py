"""CodeGen: GPT-J with one projection for queries, values and keys, in the order of the four cores it was trained on."""

from engine.models.families import gptj
from engine.models.family import Family, Published
from engine.models.kv_head_fields import mha_only
from engine.models.row_orders import blocked_qvk
from engine.models.tensor_names import tensors

FAMILY = Family(
    architectures=("CodeGenForCausalLM",),
    build_spec=gptj.build_spec,
    tensor_names=gptj.NAMES.with_layer({"qkv": tensors("attn.qkv_proj", order=blocked_qvk)}),
    published=Published(
        "Salesforce/codegen-350M-mono",
        {"n_embd": 1024, "n_head": 16, "n_layer": 20, "n_positions": 2048, "rotary_dim": 32, "vocab_size": 51200},
    ),
    with_kv_heads=mha_only,
)
