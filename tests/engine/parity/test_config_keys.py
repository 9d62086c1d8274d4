"""Nothing in a config is ignored: each key is read by the family's page, or is known to change no logit."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ModelLoadError
from engine.models.registry import FAMILIES, find_family, load_spec
from tests.engine.parity.oracles import build_oracle, save
from tests.engine.parity.rows import ROWS

OF_EVERY_MODEL = {
    *("_name_or_path", "transformers_version", "model_type", "architectures", "dtype", "torch_dtype", "eod_token_id"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "decoder_start_token_id"),
    *("id2label", "label2id", "problem_type", "num_labels", "return_dict", "output_hidden_states", "output_attentions"),
    *("chunk_size_feed_forward", "finetuning_task", "task_specific_params", "tokenizer_class", "prefix"),
    *("use_cache", "pretraining_tp", "n_ctx", "is_decoder", "cross_attention_hidden_size", "gradient_checkpointing"),
}
OF_TRAINING = {
    *("initializer_range", "attention_dropout", "hidden_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop", "dropout"),
    *("init_std", "layerdrop", "embed_dropout", "resid_dropout", "classifier_dropout", "summary_first_dropout"),
    *("embedding_dropout", "residual_dropout", "emb_pdrop", "embedding_fraction", "init_device"),
    *("router_aux_loss_coef", "output_router_logits", "router_jitter_noise", "z_loss_coefficient"),
}


OF_OTHER_HEADS = {"summary_activation", "summary_proj_to_labels", "summary_type", "summary_use_proj"}
OF_ROUNDING = {
    *("reorder_and_upcast_attn", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "slow_but_exact"),
}
"""What transformers computes in which precision; headcount's attention is always summed in float32."""
OF_VISION = {
    *("vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index"),
    *("multimodal_projector_bias", "projector_hidden_act", "spatial_merge_size", "vision_feature_layer"),
}
HARMLESS = OF_EVERY_MODEL | OF_TRAINING | OF_OTHER_HEADS | OF_ROUNDING | OF_VISION
POISON = "no such value"


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_key_is_read_or_harmless(architecture: str, tmp_path: Path) -> None:
    ignored: set[str] | None = None
    for name, row in ROWS.items():
        if row.model == architecture:
            folder = save(build_oracle(row), tmp_path / name)
            found = ignored_keys(json.loads((folder / "config.json").read_text()))
            ignored = found if ignored is None else ignored & found
    assert ignored == set()


def ignored_keys(config: dict[str, Any]) -> set[str]:
    """Keys that could hold anything: with nonsense in them the spec and the names are the same."""
    expected = load_spec(config), find_family(config).names(config)
    ignored = set()
    for key in config.keys() - HARMLESS:
        poisoned = {**config, key: POISON}
        try:
            given = load_spec(poisoned), find_family(poisoned).names(poisoned)
        except ModelLoadError:
            continue
        if given == expected:
            ignored.add(key)
    return ignored
