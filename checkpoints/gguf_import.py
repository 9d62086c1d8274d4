"""A GGUF file to a Hugging Face style folder."""

from pathlib import Path

from checkpoints.folders import CONFIG_FILE, GENERATION_CONFIG_FILE, building, check_replaceable, exclusive
from checkpoints.gguf_config import build_config
from checkpoints.gguf_file import GGUFFile
from checkpoints.gguf_tensors import StoredDType, plan_tensors
from checkpoints.gguf_tokenizer import write_tokenizer
from checkpoints.json_files import write_json
from checkpoints.progress import byte_progress
from checkpoints.safetensors_writer import write_weights

IMPORTED_FILES = (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
)


def import_gguf(source: Path, destination: Path, dtype: StoredDType = "bfloat16", force: bool = False) -> None:
    """Turn a GGUF file into a folder that headcount and transformers load.

    The folder appears complete or not at all; what a killed import left behind is removed by the next one.

    Args:
        source: the GGUF file, of any quantization that the gguf library can dequantize.
        destination: the folder to make.
        dtype: what the weights are stored in.
        force: replace a checkpoint that is there already. Anything else that is there is never replaced.

    Raises:
        CheckpointError: the file cannot be read or imported, or the destination is taken.
    """
    destination = destination.absolute()
    with exclusive(destination):
        check_replaceable(destination, force=force)
        with building(destination) as part:
            write_checkpoint(source, part, dtype)


def write_checkpoint(source: Path, folder: Path, dtype: StoredDType = "bfloat16") -> None:
    """Write the parts of a checkpoint into `folder`, which exists. Not atomic: that is the caller's concern.

    Raises:
        CheckpointError: the file cannot be read or imported.
    """
    gguf = GGUFFile(source)
    config = build_config(gguf, dtype)
    tensors = plan_tensors(gguf, dtype)
    write_tokenizer(gguf, folder, gguf.require(f"{gguf.architecture}.context_length", int))
    with byte_progress("Dequantizing", sum(tensor.nbytes for tensor in tensors)) as on_progress:
        write_weights(folder, tensors, on_progress)
    write_json(folder / CONFIG_FILE, config)
