"""Numbers and their order."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file

from checkpoints import gguf_tensors
from checkpoints.errors import GGUFError, UnsupportedModelError
from checkpoints.gguf_import import import_gguf
from checkpoints.gguf_tensors import to_bfloat16
from tests.checkpoints.gguf_models import finish, quantized, tiny_llama, write_llama

NAME = "blk.0.attn_q.weight"


@pytest.mark.parametrize("kind", [Q.F16, *gguf.quants._type_traits], ids=lambda kind: kind.name)
def test_every_quantization(tmp_path: Path, kind: Q, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a permuted tensor change places while they are quantized: it must not matter to their numbers."""
    monkeypatch.setattr(gguf_tensors, "CHUNK_ELEMENTS", 5 * 256)
    model = tiny_llama(hidden_size=256, num_attention_heads=2, num_hidden_layers=1, head_dim=32)
    blocks: list[np.ndarray] = []

    def quantize(name: str, values: np.ndarray) -> tuple[np.ndarray, Q]:
        if name != NAME:
            return values, Q.F32
        blocks.append(quantized(values, kind))
        return blocks[0], kind

    import_gguf(write_llama(tmp_path / "m.gguf", model, quantize=quantize), tmp_path / "m", dtype="float32")
    expected = gguf.quants.dequantize(blocks[0], kind).astype(np.float32)
    stored = load_file(tmp_path / "m" / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"].numpy()
    for head in range(2):
        for pair in range(16):
            for half in (0, 1):
                row = expected[head * 32 + 2 * pair + half]
                np.testing.assert_array_equal(stored[head * 32 + half * 16 + pair], row)


def test_bfloat16_rounds_as_torch_does() -> None:
    bits = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    edges = [0x3F808000, 0x3F818000, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0, 0x80000000, 0x00000001]
    values = np.concatenate([bits, np.array(edges, dtype=np.uint32)]).view(np.float32)
    is_nan = np.isnan(values)
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint16).numpy()
    np.testing.assert_array_equal(to_bfloat16(values)[~is_nan], expected[~is_nan])
    nans = torch.from_numpy(to_bfloat16(values)[is_nan].copy()).view(torch.bfloat16)
    assert torch.isnan(nans).all()


def test_too_large_for_float16(tmp_path: Path) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.norm.weight[0] = 1e5
    write_llama(tmp_path / "m.gguf", model)
    with pytest.raises(
        UnsupportedModelError, match=r"output_norm\.weight does not fit in float16: got a value of 100000"
    ):
        import_gguf(tmp_path / "m.gguf", tmp_path / "m", dtype="float16")


def test_missing_tensor(tmp_path: Path) -> None:
    writer_model = tiny_llama()
    del writer_model.model.layers[1].mlp.up_proj
    with pytest.raises(GGUFError, match=r"lacks 1 tensors, such as 'blk\.1\.ffn_up\.weight'"):
        import_gguf(write_llama(tmp_path / "m.gguf", writer_model), tmp_path / "m")


def test_surplus_tensor(tmp_path: Path) -> None:
    def extra(writer: gguf.GGUFWriter) -> None:
        writer.add_tensor("blk.0.attn_q_norm.weight", np.ones(32, np.float32))

    with pytest.raises(
        UnsupportedModelError, match=r"unknown to the architecture llama: got blk\.0\.attn_q_norm\.weight"
    ):
        import_gguf(write_llama(tmp_path / "m.gguf", tiny_llama(), extra=extra), tmp_path / "m")


def test_integers_are_no_weights(tmp_path: Path) -> None:
    def quantize(name: str, values: np.ndarray) -> tuple[np.ndarray, Q]:
        return (values.astype(np.int8), Q.I8) if name == NAME else (values, Q.F32)

    with pytest.raises(UnsupportedModelError, match=f"{NAME}' .* cannot be dequantized: got I8"):
        import_gguf(write_llama(tmp_path / "m.gguf", tiny_llama(), quantize=quantize), tmp_path / "m")


def test_double_precision(tmp_path: Path) -> None:
    def quantize(name: str, values: np.ndarray) -> tuple[np.ndarray, Q]:
        return (values.astype(np.float64), Q.F64) if name == "output_norm.weight" else (values, Q.F32)

    import_gguf(write_llama(tmp_path / "m.gguf", tiny_llama(), quantize=quantize), tmp_path / "m", dtype="float32")
    assert torch.equal(load_file(tmp_path / "m" / "model.safetensors")["model.norm.weight"], torch.ones(96))


def test_file_without_tensors(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint32("llama.attention.head_count", 2)
    finish(writer)
    with pytest.raises(GGUFError):
        import_gguf(tmp_path / "m.gguf", tmp_path / "m")
