"""Families that transformers lacks, against models that are written out here."""

from tests.engine.parity.picollm_oracle import PicoLLM
from tests.engine.parity.rows.row import VOCAB_SIZE, Row, rows

PICOLLM = {"n_embd": 48, "n_head": 6, "n_layer": 5, "vocab_size": VOCAB_SIZE, "sequence_len": 64}

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
}
