"""Whole imports: what transformers loads is what was written to the GGUF file."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Q
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from checkpoints import safetensors_writer
from checkpoints.errors import DestinationError, FolderUnreadableError, GGUFError, ModelNotFoundError
from checkpoints.gguf_import import import_gguf
from checkpoints.headers import read_config, read_generation_config, read_headers
from tests.checkpoints.gguf_models import TEMPLATE, tiny_gpt2, tiny_llama, write_gpt2, write_llama

TOKEN_IDS = torch.tensor([[1, 20, 30, 77, 150, 2, 40, 41, 99]])


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKEN_IDS).logits


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


LLAMAS = {
    "gqa": {},
    "mha": {"num_key_value_heads": 3},
    "untied": {"tie_word_embeddings": False},
    "wide heads": {"head_dim": 64, "num_key_value_heads": 3},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}},
}


@pytest.mark.parametrize("overrides", LLAMAS.values(), ids=LLAMAS.keys())
def test_llama(tmp_path: Path, overrides: dict[str, object]) -> None:
    model = tiny_llama(**overrides)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)
    import_gguf(write_llama(tmp_path / "m.gguf", model), tmp_path / "m", dtype="float32")
    imported = load(tmp_path / "m")
    assert all(torch.equal(value, imported.state_dict()[name]) for name, value in model.state_dict().items())
    assert torch.equal(logits(imported), logits(model))


def test_gpt2(tmp_path: Path) -> None:
    model = tiny_gpt2()
    import_gguf(write_gpt2(tmp_path / "m.gguf", model), tmp_path / "m", dtype="float32")
    torch.testing.assert_close(logits(load(tmp_path / "m")), logits(model), rtol=0, atol=0)
    assert read_config(tmp_path / "m")["n_inner"] == 96


def test_mistral(tmp_path: Path) -> None:
    def extra(writer: object) -> None:
        writer.add_sliding_window(4)

    import_gguf(write_llama(tmp_path / "m.gguf", tiny_llama(), extra=extra), tmp_path / "m")
    model = load(tmp_path / "m")
    assert model.config.architectures == ["MistralForCausalLM"]
    assert model.config.sliding_window == 4


def test_llama3_rope_scaling(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    model = tiny_llama(rope_parameters=scaling, max_position_embeddings=131072)
    unscaled = 1 / 500000.0 ** (np.arange(0, 32, 2) / 32)
    factors = (unscaled / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    assert 1 < np.median(factors) < 32

    def extra(writer: object) -> None:
        writer.add_tensor("rope_freqs.weight", factors)

    import_gguf(write_llama(tmp_path / "m.gguf", model, extra=extra), tmp_path / "m", dtype="float32")
    imported = load(tmp_path / "m")
    assert {key: imported.config.rope_parameters[key] for key in scaling} == scaling
    assert torch.equal(logits(imported), logits(model))


def test_stored_as_bfloat16_by_default(tmp_path: Path, llama_gguf: Path) -> None:
    import_gguf(llama_gguf, tmp_path / "m")
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert stored.dtype == torch.bfloat16
    expected = tiny_llama().to(torch.bfloat16).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in stored.state_dict().items())
    assert {header.dtype for header in read_headers(tmp_path / "m").values()} == {"BF16"}


def test_float16(tmp_path: Path, llama_gguf: Path) -> None:
    import_gguf(llama_gguf, tmp_path / "m", dtype="float16")
    expected = tiny_llama().to(torch.float16).state_dict()
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "m").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in stored.items())


@pytest.mark.parametrize("kind", [Q.F16, Q.BF16, Q.Q8_0, Q.Q5_1])
def test_quantized_models_stay_close(tmp_path: Path, kind: Q) -> None:
    def quantize(name: str, values: np.ndarray) -> tuple[np.ndarray, Q]:
        return (values, Q.F32) if values.ndim == 1 else (gguf.quants.quantize(values, kind), kind)

    model = tiny_llama()
    import_gguf(write_llama(tmp_path / "m.gguf", model, quantize=quantize), tmp_path / "m", dtype="float32")
    similarity = torch.cosine_similarity(logits(load(tmp_path / "m")).flatten(), logits(model).flatten(), dim=0)
    assert similarity > (0.95 if kind == Q.Q5_1 else 0.999)


def test_shards(tmp_path: Path, llama_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_writer.write_weights, "__defaults__", (50_000,))
    import_gguf(llama_gguf, tmp_path / "m", dtype="float32")
    headers = read_headers(tmp_path / "m")
    assert len({header.file for header in headers.values()}) > 3
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(header.nbytes for header in headers.values())
    assert torch.equal(logits(load(tmp_path / "m")), logits(tiny_llama()))


def test_tokenizer_and_generation_config(tmp_path: Path, llama_gguf: Path) -> None:
    import_gguf(llama_gguf, tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert tokenizer.chat_template == TEMPLATE
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id) == (
        1,
        2,
        0,
        2,
    )
    assert tokenizer.model_max_length == 128
    assert read_generation_config(tmp_path / "m") == {"bos_token_id": 1, "pad_token_id": 2, "eos_token_id": [2, 0]}


def test_destination_taken(tmp_path: Path, llama_gguf: Path) -> None:
    import_gguf(llama_gguf, tmp_path / "m")
    with pytest.raises(DestinationError, match=r"m exists already\. Choose another destination"):
        import_gguf(llama_gguf, tmp_path / "m")
    (tmp_path / "m" / "mark").touch()
    import_gguf(llama_gguf, tmp_path / "m", force=True)
    assert not (tmp_path / "m" / "mark").exists()


def test_force_never_removes_what_is_no_checkpoint(tmp_path: Path, llama_gguf: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    with pytest.raises(DestinationError, match="not replaced, even by force"):
        import_gguf(llama_gguf, tmp_path / "thesis", force=True)
    with pytest.raises(DestinationError, match="not replaced, even by force"):
        import_gguf(llama_gguf, tmp_path / "thesis" / "chapter", force=True)
    assert (tmp_path / "thesis" / "chapter").exists()


def test_empty_destination_is_free(tmp_path: Path, llama_gguf: Path) -> None:
    (tmp_path / "m").mkdir()
    import_gguf(llama_gguf, tmp_path / "m")
    assert (tmp_path / "m" / "config.json").is_file()


def test_failure_leaves_nothing(tmp_path: Path, llama_gguf: Path) -> None:
    content = llama_gguf.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(GGUFError, match=r"cut\.gguf is corrupt .* It may be truncated"):
        import_gguf(tmp_path / "cut.gguf", tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]


def test_no_source(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        import_gguf(tmp_path / "absent.gguf", tmp_path / "m")
    with pytest.raises(FolderUnreadableError, match="expected a GGUF file"):
        import_gguf(tmp_path, tmp_path.parent / "n")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(GGUFError, match=r"is no GGUF file: expected it to begin with b'GGUF', got b'hell'"):
        import_gguf(tmp_path / "text.gguf", tmp_path / "m")
