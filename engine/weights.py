"""Safetensors to parameters: names, shapes and dtypes are checked before the first byte is copied.

Files are read one after the other, each from its beginning to its end, and what is read goes straight to the device;
conversion, permutation and the look for numbers that are not finite happen there.
"""

import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from checkpoints.headers import TensorHeader
from checkpoints.progress import byte_progress
from configs.sizes import format_bytes
from engine.dtypes import SAFETENSORS_DTYPES
from engine.errors import ModelLoadError
from engine.kernels import reference
from engine.kernels.base import Kernels
from engine.models.spec import DecoderSpec
from engine.models.tensor_names import WeightMap, WeightSource
from engine.quantization import quantized_weights, scale_name
from engine.staging import build_stager

logger = logging.getLogger("headcount.engine")

MAX_LISTED = 5


def load_parameters(
    spec: DecoderSpec,
    weight_map: WeightMap,
    headers: dict[str, TensorHeader],
    dtype: torch.dtype,
    device: torch.device,
    *,
    allow_non_finite: bool = False,
    quantization: str = "none",
    kernels: Kernels = reference,
) -> dict[str, Tensor]:
    """All parameters of `spec`, in `dtype` on `device`; quantized ones as integers, with their scales beside them.

    Args:
        spec: what the decoder needs.
        weight_map: where each checkpoint tensor goes.
        headers: the checkpoint's tensors by name.
        dtype: to convert to.
        device: to copy to.
        allow_non_finite: load weights that are NaN or infinite too.
        quantization: `none` or `int8`.
        kernels: what rounds the weights that are to be quantized.

    Raises:
        ModelLoadError: a tensor is missing, left over, of another shape, no floating-point numbers, or not finite.
    """
    shapes = spec.parameter_shapes()
    sources = match_names(weight_map, headers)
    check_tensors(sources, shapes, headers)
    parameters = {name: torch.empty(shape, dtype=dtype, device=device) for name, shape in shapes.items()}
    quantized = set(quantized_weights(spec, quantization))
    # A table that another tensor is compared with has to be whole until then.
    late = quantized & ({"embed.weight"} if weight_map.table_again in headers else set())

    def quantize(name: str) -> None:
        parameters[name], parameters[scale_name(name)] = kernels.quantize_weight(parameters[name])

    def finish(name: str) -> None:
        if name in quantized - late:
            quantize(name)

    _fill(parameters, sources, headers, device, finish, allow_non_finite=allow_non_finite)
    if weight_map.table_again in headers:
        check_table(headers[weight_map.table_again], sources, parameters)
    for name in late:
        quantize(name)
    return parameters


def pack_weights(spec: DecoderSpec, parameters: dict[str, Tensor], kernels: Kernels) -> None:
    """Bring all weights into the order that `kernels` read, in place; once only."""
    shapes = spec.parameter_shapes()
    for name in spec.linear_weights():
        scale = parameters.get(scale_name(name))
        if scale is None:
            kernels.pack(parameters[name])
        else:
            kernels.pack_int8(parameters[name], scale, shapes[name][-1])


def named_sources(weight_map: WeightMap, headers: Iterable[str]) -> dict[str, WeightSource]:
    """Checkpoint tensor name -> source, with the family's prefix taken off where `headers` leave it off."""
    prefix = weight_map.optional_prefix
    sources = {source.name: source for source in weight_map.sources}
    if prefix and not any(name.startswith(prefix) for name in headers):
        sources = {name.removeprefix(prefix): source for name, source in sources.items()}
    return sources


def match_names(weight_map: WeightMap, headers: Iterable[str]) -> dict[str, WeightSource]:
    """`named_sources` of a checkpoint that has all of them and no others.

    Raises:
        ModelLoadError: tensors are missing or left over.
    """
    given, sources = set(headers), named_sources(weight_map, headers)
    missing = sources.keys() - given
    known = {*sources, weight_map.table_again}
    extra = {name for name in given - known if not any(re.fullmatch(p, name) for p in weight_map.ignored)}
    problems = [f"missing {_listed(missing)}"] if missing else []
    problems += [f"not expected {_listed(extra)}"] if extra else []
    if problems:
        raise ModelLoadError(f"the checkpoint's tensors do not fit its config.json: {'; '.join(problems)}")
    return sources


def check_tensors(
    sources: dict[str, WeightSource], shapes: dict[str, tuple[int, ...]], headers: dict[str, TensorHeader]
) -> None:
    """Compare every tensor's header with the parameter it fills.

    Raises:
        ModelLoadError: naming the tensor, what was expected and what it is.
    """
    for name, source in sources.items():
        header, expected = headers[name], expected_shape(source, shapes[source.parameter])
        if tuple(header.shape) != expected:
            raise ModelLoadError(f"tensor {name!r}: expected shape {list(expected)}, got {list(header.shape)}")
        if header.dtype not in SAFETENSORS_DTYPES:
            allowed = ", ".join(SAFETENSORS_DTYPES)
            raise ModelLoadError(f"tensor {name!r}: expected dtype {allowed}, got {header.dtype}")


def expected_shape(source: WeightSource, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the checkpoint's tensor that fills `source` of a parameter of this shape."""
    if source.member is not None:
        shape = shape[1:]
    if source.rows is not None:
        shape = (source.rows[1] - source.rows[0], *shape[1:])
    if source.order is not None:
        dims = list(shape)
        dims[row_dim(source, len(shape))] = source.order.num_rows
        shape = tuple(dims)
    return (*shape[:-2], shape[-1], shape[-2]) if source.is_transposed else shape


def row_dim(source: WeightSource, num_dims: int) -> int:
    """Which dimension of a tensor its rows are: the one before the last, but in biases and norms."""
    return -1 if num_dims == 1 or source.parameter.endswith(".bias") else -2


def _by_file(sources: dict[str, WeightSource], headers: dict[str, TensorHeader]) -> dict[Path, list[str]]:
    """Names by file, in the order of their data, as headers are."""
    files: dict[Path, list[str]] = {}
    for name, header in headers.items():
        if name in sources:
            files.setdefault(header.file, []).append(name)
    return files


def _fill(
    parameters: dict[str, Tensor],
    sources: dict[str, WeightSource],
    headers: dict[str, TensorHeader],
    device: torch.device,
    finish: Callable[[str], None],
    *,
    allow_non_finite: bool,
) -> None:
    """Read every tensor into its place, file by file, under a progress bar; the speed goes to the log.

    Each parameter goes to `finish` as soon as it is whole: quantized at once, few of them are there in full at a time.
    """
    start_s, num_bytes, stager = time.perf_counter(), 0, build_stager(device)
    num_missing = Counter(source.parameter for source in sources.values())
    with byte_progress("loading weights", sum(headers[name].nbytes for name in sources)) as show:
        for path, names in _by_file(sources, headers).items():
            with safe_open(path, framework="pt") as file:
                for name in names:
                    tensor = stager.stage(file.get_tensor(name))
                    filled = copy_tensor(tensor, sources[name], parameters)
                    if not allow_non_finite:
                        check_finite(name, tensor, filled)
                    parameter = sources[name].parameter
                    num_missing[parameter] -= 1
                    if not num_missing[parameter]:
                        finish(parameter)
                    num_bytes += headers[name].nbytes
                    show(num_bytes)
    seconds = time.perf_counter() - start_s
    speed = format_bytes(int(num_bytes / seconds))
    logger.info("loaded %s of weights in %.2f s: %s/s", format_bytes(num_bytes), seconds, speed)


def check_finite(name: str, tensor: Tensor, filled: Tensor) -> None:
    """Refuse weights that are NaN or infinite: every token would be too.

    Args:
        name: of the tensor.
        tensor: as the checkpoint has it.
        filled: what was loaded of it, in the model's dtype.

    Raises:
        ModelLoadError: one of the numbers is not finite.
    """
    if _is_finite(filled):
        return
    if _is_finite(tensor):
        raise ModelLoadError(
            f"tensor {name!r}: its largest number, {tensor.abs().max():.3g}, does not fit in {filled.dtype}; choose"
            " another --dtype, such as bfloat16"
        )
    bad = ~tensor.isfinite()
    raise ModelLoadError(
        f"tensor {name!r}: expected finite numbers, got {int(bad.sum())} of {tensor.numel()} that are NaN or infinite, the"
        f" first at {bad.nonzero()[0].tolist()}; download the checkpoint again, or load it as it is with"
        " --allow-non-finite-weights"
    )


def check_table(header: TensorHeader, sources: dict[str, WeightSource], parameters: dict[str, Tensor]) -> None:
    """Compare an output projection that the config says is the embedding table with that table.

    Raises:
        ModelLoadError: they differ.
    """
    [source] = [source for source in sources.values() if source.parameter == "embed.weight"]
    with safe_open(header.file, framework="pt") as file:
        tensor = file.get_tensor(header.name)
    table = parameters["embed.weight"]
    is_same = tuple(header.shape) == expected_shape(source, tuple(table.shape))
    if not is_same or not copy_tensor(tensor, source, {"embed.weight": torch.empty_like(table)}).equal(table):
        raise ModelLoadError(
            f"tensor {header.name!r}: expected the same as {source.name!r}, since the config ties them"
            " (tie_word_embeddings), got another; set tie_word_embeddings to false in config.json"
        )


def _is_finite(tensor: Tensor) -> bool:
    # The extremes are NaN where any number is; this is the fastest of PyTorch's reductions that show it.
    low, high = tensor.aminmax()
    return bool(low.isfinite() & high.isfinite())


def copy_tensor(tensor: Tensor, source: WeightSource, parameters: dict[str, Tensor]) -> Tensor:
    """Copy a checkpoint tensor to its place in a parameter; that place."""
    target = parameters[source.parameter]
    if source.member is not None:
        target = target[source.member]
    if source.rows is not None:
        target = target[slice(*source.rows)]
    if source.is_transposed:
        tensor = tensor.transpose(-1, -2)
    if source.order is not None:
        tensor = tensor.index_select(
            row_dim(source, tensor.dim()), torch.tensor(source.order.rows, device=tensor.device)
        )
    return target.copy_(tensor)


def _listed(names: set[str]) -> str:
    """The first few names in order, and how many more there are."""
    shown = ", ".join(sorted(names)[:MAX_LISTED])
    return shown if len(names) <= MAX_LISTED else f"{shown} and {len(names) - MAX_LISTED} more"
