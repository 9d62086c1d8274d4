"""Metadata that is missing, malformed, or of models that cannot be imported."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGUFWriter

from checkpoints.errors import CheckpointError, GGUFError, UnsupportedModelError
from checkpoints.gguf_config import build_config
from checkpoints.gguf_file import GGUFFile
from tests.checkpoints.gguf_models import finish, tiny_llama, write_llama


def config_of(tmp_path: Path, extra: Callable[[GGUFWriter], None] | None = None) -> dict[str, object]:
    return build_config(GGUFFile(write_llama(tmp_path / "m.gguf", tiny_llama(), extra=extra)), "bfloat16")


def test_unsupported_architecture_lists_the_supported(tmp_path: Path) -> None:
    finish(GGUFWriter(tmp_path / "m.gguf", "mamba"))
    with pytest.raises(UnsupportedModelError, match="its architecture: expected one of gpt2, llama, got mamba"):
        build_config(GGUFFile(tmp_path / "m.gguf"), "bfloat16")


def test_floats_are_what_was_meant(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert config["rms_norm_eps"] == 1e-06
    assert config["rope_theta"] == 10000.0


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        (lambda w: w.add_expert_count(8), UnsupportedModelError, "mixture of experts"),
        (
            lambda w: w.add_rope_dimension_count(16),
            UnsupportedModelError,
            r"rope\.dimension_count: expected .* 32, got 16",
        ),
        (lambda w: w.add_value_length(16), UnsupportedModelError, r"value_length: expected the head width 32, got 16"),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE), UnsupportedModelError, "got longrope"),
        (lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), GGUFError, r"'llama\.rope\.scaling\.factor'"),
        (lambda w: w.add_string("llama.attention.sliding_window", "x"), GGUFError, "expected int, got str x"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.full(16, 3, np.float32)), UnsupportedModelError, "llama3"),
        (lambda w: w.add_tensor("rope_freqs.weight", np.ones(3, np.float32)), UnsupportedModelError, "llama3"),
    ],
)
def test_refused(tmp_path: Path, extra: object, error: type[CheckpointError], message: str) -> None:
    with pytest.raises(error, match=message):
        config_of(tmp_path, extra)


def test_other_rope_scalings(tmp_path: Path) -> None:
    def linear(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    def yarn(writer: GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(2.5)
        writer.add_rope_scaling_orig_ctx_len(64)

    assert config_of(tmp_path, linear)["rope_scaling"] == {"rope_type": "linear", "factor": 4.0}
    expected = {"rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 64}
    assert config_of(tmp_path, yarn)["rope_scaling"] == expected


def test_heads_that_do_not_divide(tmp_path: Path) -> None:
    model = tiny_llama()
    model.config.num_key_value_heads = 2
    model.model.layers[0].self_attn.k_proj.weight.data = model.model.layers[0].self_attn.k_proj.weight.data[:32]
    with pytest.raises(GGUFError, match="query heads must be a multiple of key/value heads: got 3 and 2"):
        build_config(GGUFFile(write_llama(tmp_path / "m.gguf", model)), "bfloat16")


def test_big_endian(tmp_path: Path) -> None:
    finish(GGUFWriter(tmp_path / "m.gguf", "llama", endianess=gguf.GGUFEndian.BIG))
    with pytest.raises(UnsupportedModelError, match="is big-endian"):
        GGUFFile(tmp_path / "m.gguf")


def test_split_model(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_uint16("split.count", 3)
    finish(writer)
    with pytest.raises(UnsupportedModelError, match=r"is one part of a split model\. Merge its parts"):
        GGUFFile(tmp_path / "m.gguf")


def test_every_truncation_of_the_metadata_is_seen(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_array("list", ["a", "b"])
    writer.add_tensor("t", np.zeros((2, 2), np.float32))
    finish(writer)
    content = (tmp_path / "m.gguf").read_bytes().rstrip(b"\0")
    for length in range(len(content)):
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        with pytest.raises(GGUFError):
            GGUFFile(tmp_path / "cut.gguf")
