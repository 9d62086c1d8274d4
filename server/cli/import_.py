"""`headcount import`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console


def import_model(
    source: Path,
    destination: Path,
    /,
    *,
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    force: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Turn a GGUF file into a folder of safetensors, config and tokenizer.

    Args:
        source: the GGUF file, of any quantization that the gguf library dequantizes.
        destination: the folder to make.
        dtype: number format of the weights in the folder.
        force: replace a folder that is there already.
    """
    from checkpoints.gguf_import import import_gguf

    import_gguf(source, destination, dtype=dtype, force=force)
    Console(stderr=True).print(f"imported into {destination}: headcount serve --model {destination}", highlight=False)
