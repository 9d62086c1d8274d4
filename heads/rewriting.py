"""Writes a checkpoint again with other heads, tensor by tensor: no more than a layer's attention is in memory at a time."""

import functools
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from checkpoints.folders import CONFIG_FILE, building, check_replaceable, check_room, exclusive
from checkpoints.headers import INDEX_FILE, TensorHeader
from checkpoints.json_files import write_json
from checkpoints.progress import byte_progress
from checkpoints.safetensors_writer import TensorToWrite, write_shards
from engine.checkpoint import Checkpoint, read_checkpoint
from engine.dtypes import SAFETENSORS_DTYPES
from engine.models.spec import DecoderSpec
from engine.models.tensor_names import WeightSource, build_weight_map
from engine.weights import check_tensors, copy_tensor, expected_shape, match_names, named_sources, row_dim
from heads.weights import PER_HEAD_PARTS, HeadWeights, join_heads, split_heads

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx", ".index.json")
"""Files of weights, which are not carried over: only safetensors are read, and they are written anew."""
PIECE_NUMBERS = 1 << 24
"""Numbers that go to the file at a time."""


class Rewrite(NamedTuple):
    """What a checkpoint is to become.

    Attributes:
        config: its new config.json.
        spec: what that says.
        change: (layer index, its weights) -> the weights with the new layer's head counts.
    """

    config: dict[str, Any]
    spec: DecoderSpec
    change: Callable[[int, HeadWeights], HeadWeights]


def rewrite_checkpoint(source: Path, destination: Path, plan: Callable[[Checkpoint], Rewrite]) -> None:
    """Write the model in `source` into the new folder `destination` as `plan` says.

    The tensors are spread over files as they were, in the number formats that they had, and tokenizer and other files
    are copied. The folder appears complete or not at all; what a killed process left behind is removed by the next one.

    Raises:
        EngineError, HeadsError: the model cannot be read, or cannot become that.
        CheckpointError: a file is unreadable or corrupt, the destination exists, or the disk is too full.
    """
    checkpoint = read_checkpoint(source)
    sources = _sources(checkpoint.spec, checkpoint)
    check_tensors(sources, checkpoint.spec.parameter_shapes(), checkpoint.headers)
    rewrite = plan(checkpoint)
    writer = _Writer(checkpoint, sources, rewrite)
    shards, copied = writer.shards(), list(_other_files(source))
    num_bytes = sum(tensor.nbytes for shard in shards for tensor in shard)
    destination = destination.absolute()
    check_replaceable(destination, force=False)
    check_room(destination, num_bytes + sum(path.stat().st_size for path in copied))
    with exclusive(destination):
        check_replaceable(destination, force=False)
        with building(destination) as part:
            for path in copied:
                shutil.copyfile(path, part / path.name)
            write_json(part / CONFIG_FILE, rewrite.config)
            with byte_progress("Writing", num_bytes) as on_progress:
                write_shards(part, shards, on_progress)
            _check_written(part)


def _sources(spec: DecoderSpec, checkpoint: Checkpoint) -> dict[str, WeightSource]:
    """Tensor name -> which part of which parameter of `spec` it is."""
    return match_names(build_weight_map(spec, checkpoint.tensor_names), checkpoint.headers)


def _other_files(source: Path) -> Iterator[Path]:
    """What stands beside config.json and weights."""
    for path in sorted(source.iterdir()):
        is_weights = path.name.endswith(WEIGHT_SUFFIXES) or path.name == INDEX_FILE
        if path.is_file() and path.name != CONFIG_FILE and not is_weights and not path.name.startswith("."):
            yield path


def _check_written(folder: Path) -> None:
    """What was written loads: names and shapes are what its config.json asks for."""
    written = read_checkpoint(folder)
    check_tensors(_sources(written.spec, written), written.spec.parameter_shapes(), written.headers)


class _Writer:
    """Makes the data of each new tensor when its turn comes.

    A layer's changed weights are kept until another layer's are asked for: the tensors of a layer stand together.
    """

    def __init__(self, checkpoint: Checkpoint, sources: dict[str, WeightSource], rewrite: Rewrite) -> None:
        self._spec, self._headers, self._rewrite = checkpoint.spec, checkpoint.headers, rewrite
        self._old_shapes, self._new_shapes = checkpoint.spec.parameter_shapes(), rewrite.spec.parameter_shapes()
        self._sources = sources
        self._new_sources = named_sources(build_weight_map(rewrite.spec, checkpoint.tensor_names), checkpoint.headers)
        self._changed_layer = functools.lru_cache(maxsize=1)(self._change_layer)

    def shards(self) -> list[list[TensorToWrite]]:
        """Every tensor, file by file as in the source."""
        files: dict[Path, list[TensorToWrite]] = {header.file: [] for header in self._headers.values()}
        # Where every head has a tensor of its own, some names come and others go: new ones stand beside those there were.
        beside = {source.parameter: self._headers[name] for name, source in self._sources.items()}
        for header in self._headers.values():
            if _layer_part(self._sources.get(header.name)) is None:
                files[header.file].append(_copied(header))
        for name, source in self._new_sources.items():
            if _layer_part(source) is not None:
                like = self._headers.get(name, beside[source.parameter])
                files[like.file].append(self._changed_tensor(name, source, like.dtype))
        return [files[file] for file in sorted(files)]

    def _changed_tensor(self, name: str, source: WeightSource, stored: str) -> TensorToWrite:
        shape = expected_shape(source, self._new_shapes[source.parameter])
        dtype: torch.dtype = getattr(torch, SAFETENSORS_DTYPES[stored])
        nbytes = dtype.itemsize * torch.Size(shape).numel()
        return TensorToWrite(name, stored, shape, nbytes, lambda: _pieces(self._changed(source, dtype)))

    def _changed(self, source: WeightSource, dtype: torch.dtype) -> Tensor:
        layer_idx, part = _layer_part(source) or (0, "")
        return to_stored(self._changed_layer(layer_idx)[part].to(dtype), source)

    def _change_layer(self, layer_idx: int) -> dict[str, Tensor]:
        parameters: dict[str, Tensor] = {}
        for name, source in self._sources.items():
            found = _layer_part(source)
            if found is None or found[0] != layer_idx:
                continue
            tensor, part = _read(self._headers[name]), found[1]
            filled = parameters.get(part, torch.empty(self._old_shapes[source.parameter], dtype=tensor.dtype))
            parameters[part] = filled.to(torch.promote_types(filled.dtype, tensor.dtype))
            copy_tensor(tensor, source, {source.parameter: parameters[part]})
        weights = split_heads(self._spec.layers[layer_idx], parameters)
        changed = join_heads(self._rewrite.spec.layers[layer_idx], self._rewrite.change(layer_idx, weights))
        return {**parameters, **changed}


def _copied(header: TensorHeader) -> TensorToWrite:
    """A tensor that stays as it is."""
    return TensorToWrite(header.name, header.dtype, header.shape, header.nbytes, lambda: _pieces(_read(header)))


def _layer_part(source: WeightSource | None) -> tuple[int, str] | None:
    """Layer and part of a tensor that may change with the number of heads."""
    if source is None or not source.parameter.startswith("layers."):
        return None
    _, layer_idx, part = source.parameter.split(".", 2)
    return (int(layer_idx), part) if part in PER_HEAD_PARTS else None


def to_stored(parameter: Tensor, source: WeightSource) -> Tensor:
    """The checkpoint tensor that fills `source` of a parameter: the other way round than engine.weights.copy_tensor."""
    tensor = parameter if source.member is None else parameter[source.member]
    if source.rows is not None:
        tensor = tensor[slice(*source.rows)]
    if source.order is not None:
        dim, shape = row_dim(source, tensor.dim()), list(tensor.shape)
        shape[dim] = source.order.num_rows
        tensor = tensor.new_zeros(shape).index_copy_(dim, torch.tensor(source.order.rows), tensor)
    return tensor.transpose(-1, -2) if source.is_transposed else tensor


def _read(header: TensorHeader) -> Tensor:
    with safe_open(header.file, framework="pt") as file:
        tensor: Tensor = file.get_tensor(header.name)
    return tensor


def _pieces(tensor: Tensor) -> Iterable[bytes]:
    for piece in tensor.contiguous().flatten().split(PIECE_NUMBERS):
        yield piece.view(torch.uint8).numpy().tobytes()
