"""The demo model as GGUF files for llama.cpp: the numbers of our checkpoint, the tokenizer of the file it came from."""

import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf.quants import quantize
from safetensors import safe_open

from checkpoints.cache import cache_folder
from checkpoints.demo import download_gguf
from checkpoints.gguf_tensors import LLAMA
from checkpoints.headers import WEIGHTS_FILE, read_config

Format = Literal["bf16", "q8_0"]
FORMATS: dict[Format, tuple[GGMLQuantizationType, LlamaFileType]] = {
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
REPLACED = ("general.architecture", "general.file_type", "general.quantization_version")


def demo_gguf(folder: Path, name: Format) -> Path:
    """The demo checkpoint in `folder` as a GGUF file, written unless that has been done."""
    path = cache_folder() / "benchmarks" / f"demo-{name}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            part = Path(scratch) / path.name
            write_gguf(folder, download_gguf(Path(scratch)), part, name)
            part.rename(path)
    return path


def write_gguf(folder: Path, original: Path, path: Path, name: Format) -> None:
    """Write a Llama checkpoint as GGUF.

    Args:
        folder: config.json and one safetensors file.
        original: a GGUF file of the same model, for its metadata; its tensors are not read.
        path: the file to write.
        name: what matrices are stored in; vectors stay float32, as llama.cpp wants them.
    """
    kind, file_type = FORMATS[name]
    writer = GGUFWriter(path, "llama")
    writer.add_file_type(file_type)
    _copy_metadata(GGUFReader(original), writer)
    config = read_config(folder)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    with safe_open(folder / WEIGHTS_FILE, framework="pt") as tensors:
        for ours, theirs in _names(config["num_hidden_layers"]).items():
            if ours in tensors.keys():  # noqa: SIM118  the file is no dict
                num_heads = heads.get(theirs.split(".")[-2])
                _add(writer, theirs, interleave_rows(tensors.get_tensor(ours), num_heads), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_metadata(original: GGUFReader, writer: GGUFWriter) -> None:
    for field in original.fields.values():
        if field.name.startswith("GGUF.") or field.name in REPLACED:
            continue
        is_array = field.types[0] is GGUFValueType.ARRAY
        writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if is_array else None)


def _names(num_layers: int) -> dict[str, str]:
    """Hugging Face name -> GGUF name."""
    names = {ours: theirs for theirs, ours in LLAMA.model.items()}
    for layer_idx in range(num_layers):
        prefix = LLAMA.layer_prefix.format(layer_idx)
        names |= {f"{prefix}.{ours}.weight": f"blk.{layer_idx}.{theirs}.weight" for theirs, ours in LLAMA.layer.items()}
    return names


def interleave_rows(tensor: torch.Tensor, num_heads: int | None) -> torch.Tensor:
    """Rows of queries and keys as llama.cpp turns them: a pair is rows (2i, 2i + 1) of a head, not (i, i + head_dim / 2).

    Args:
        tensor: [num_heads * head_dim, hidden_size].
        num_heads: None for a tensor whose rows stay where they are.
    """
    if num_heads is None:
        return tensor
    return tensor.unflatten(0, (num_heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def _add(writer: GGUFWriter, name: str, tensor: torch.Tensor, kind: GGMLQuantizationType) -> None:
    values: np.ndarray[Any, Any] = tensor.float().numpy()
    if tensor.dim() == 1:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
