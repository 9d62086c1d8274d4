"""Families that transformers lacks, against models that are written out here."""

from tests.engine.parity.openelm_oracle import OpenELM
from tests.engine.parity.picollm_oracle import PicoLLM
from tests.engine.parity.rows.row import VOCAB_SIZE, Row, rows

PICOLLM = {"n_embd": 48, "n_head": 6, "n_layer": 5, "vocab_size": VOCAB_SIZE, "sequence_len": 64}
OPENELM = {
    **{"model_dim": 48, "head_dim": 8, "num_transformer_layers": 3, "vocab_size": VOCAB_SIZE, "max_context_length": 64},
    **{"ffn_multipliers": [0.48, 1.3, 4.0], "ffn_dim_divisor": 16, "expected_widths": [32, 64, 192]},
    **{"num_query_heads": [6, 4, 9], "num_kv_heads": [2, 2, 3], "share_input_output_layers": True},
}

ROWS: dict[str, Row] = {
    **rows(
        "PicoLLM",
        PICOLLM,
        {
            "mha": {"n_kv_head": 6},
            "gqa": {"n_kv_head": 2},
            "mqa": {"n_kv_head": 1},
            "even-layers": {"n_kv_head": 3, "n_layer": 4, "vocab_size": 128},
        },
        model="PicoLlmForCausalLM",
        oracle=PicoLLM,
    ),
    # Short windows see at least 128 tokens.
    **rows(
        "PicoLLM",
        {**PICOLLM, "n_kv_head": 2, "sequence_len": 512, "n_layer": 6},
        {"window": {}},
        model="PicoLlmForCausalLM",
        oracle=PicoLLM,
        num_positions=180,
    ),
    **rows(
        "OpenELM",
        OPENELM,
        {
            "mha": {"num_kv_heads": [6, 4, 9]},
            "gqa": {},
            "mqa": {"num_kv_heads": [1, 1, 1]},
            "mixed": {"num_kv_heads": [6, 2, 1]},
            "untied": {"share_input_output_layers": False, "rope_freq_constant": 500},
            "no-norms-no-gate": {"normalize_qk_projections": False, "ffn_with_glu": False},
        },
        oracle=OpenELM,
    ),
}
