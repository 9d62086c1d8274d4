"""A checkpoint folder becomes a running engine core."""

import logging
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor

from configs.engine import EngineSettings
from configs.model import ModelSettings
from engine import memory
from engine.attention.registry import choose_backend
from engine.checkpoint import Checkpoint, read_checkpoint
from engine.core import EngineCore
from engine.dtypes import KV_FORMATS, resolve_kv_cache_dtype
from engine.errors import ModelLoadError
from engine.info import EngineInfo
from engine.kernels.select import select_kernels
from engine.models.decoder import Decoder
from engine.models.tensor_names import build_weight_map
from engine.rehearsal import Stage, measure_workspace
from engine.runner import Runner
from engine.scheduler import Scheduler
from engine.weights import load_parameters
from engine.workspace import StepSize
from kvcache.geometry import KVGeometry
from kvcache.manager import KVCacheManager
from kvcache.storage import KVStorage

_log = logging.getLogger(__name__)

FLOAT8_DTYPES = {"fp8_e4m3": torch.float8_e4m3fn}
"""Formats whose names PyTorch writes in another way."""


class Phases:
    """Seconds of each phase of the start, from the start of the process on; they sum to the whole."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last_s = psutil.Process().create_time()

    def end(self, name: str) -> None:
        """The time since the last phase ended was phase `name`."""
        now_s = time.time()
        self.seconds[name] = now_s - self._last_s
        self._last_s = now_s


class Pool(NamedTuple):
    """How large the KV pool is.

    Attributes:
        num_blocks: in it.
        max_model_len: the longest context that it can hold.
        workspace_bytes: what the largest step takes beside it.
    """

    num_blocks: int
    max_model_len: int
    workspace_bytes: int


class Placement(NamedTuple):
    """Where the model runs and in which number formats."""

    device: torch.device
    dtype_name: str
    dtype: torch.dtype
    kv_cache_dtype_name: str
    kv_cache_dtype: torch.dtype


def load_engine(folder: Path, settings: EngineSettings) -> EngineCore:
    """Load the checkpoint in `folder`, measure the largest step, and size the KV pool.

    Raises:
        ModelLoadError: the model is not supported, or its files do not fit its config.
        KVCapacityError: the KV pool cannot hold one request of max_model_len tokens, or no step fits beside the weights.
        checkpoints.errors.CheckpointError: a file is missing, unreadable or corrupt.
    """
    phases = Phases()
    device = choose_device(settings.model_settings)
    framework_bytes = memory.process_bytes(device)
    phases.end("imports")
    checkpoint = read_checkpoint(folder)
    placement = _place(checkpoint, settings, device)
    parameters = _load_parameters(checkpoint, settings.model_settings, placement)
    phases.end("weights")
    kv_format = KV_FORMATS[placement.kv_cache_dtype_name]
    geometry = checkpoint.spec.kv_geometry(kv_format.dtype_bytes, settings.cache.block_size, kv_format.scale_bytes)
    stage, objections = _choose_stage(checkpoint, settings, placement, parameters)
    phases.end("kernels")
    pool = _size_pool(checkpoint, settings, geometry, stage)
    phases.end("rehearsal")
    storage = KVStorage(geometry, pool.num_blocks, placement.kv_cache_dtype, device)
    runner = _build_runner(checkpoint, stage, storage, pool.max_model_len)
    ledger = memory.build_ledger(
        device,
        weights_bytes=sum(tensor.nbytes for tensor in parameters.values()),
        kv_cache_bytes=storage.nbytes,
        workspace_bytes=pool.workspace_bytes,
        framework_bytes=framework_bytes,
    )
    phases.end("kv_cache")
    info = EngineInfo(
        architecture=checkpoint.spec.architecture,
        dtype=placement.dtype_name,
        kv_cache_dtype=placement.kv_cache_dtype_name,
        device=str(device),
        attention_backend=runner.attention.name,
        attention_objections=objections,
        vocab_size=checkpoint.spec.vocab_size,
        max_model_len=pool.max_model_len,
        longest_context=checkpoint.max_model_len(settings.model_settings),
        eos_token_ids=checkpoint.eos_token_ids,
        geometry=geometry,
        num_blocks=pool.num_blocks,
        ledger=ledger,
        startup_s=phases.seconds,
    )
    manager = KVCacheManager(geometry, pool.num_blocks, enable_prefix_cache=settings.cache.enable_prefix_cache)
    return EngineCore(info, Scheduler(settings.scheduler, manager), runner, manager)


def choose_device(settings: ModelSettings) -> torch.device:
    """The device that the settings name.

    Side effects: sets PyTorch's number of CPU threads where the settings name one.

    Raises:
        ModelLoadError: a GPU is asked for and PyTorch sees none.
    """
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError("device cuda was asked for, but PyTorch sees no GPU; use --device cpu")
    has_gpu = settings.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")


def _place(checkpoint: Checkpoint, settings: EngineSettings, device: torch.device) -> Placement:
    name = checkpoint.dtype_name(settings.model_settings)
    kv_name = resolve_kv_cache_dtype(settings.cache.kv_cache_dtype, name)
    kv_cache_dtype = FLOAT8_DTYPES.get(kv_name) or getattr(torch, kv_name)
    return Placement(device, name, getattr(torch, name), kv_name, kv_cache_dtype)


def _load_parameters(checkpoint: Checkpoint, settings: ModelSettings, placement: Placement) -> dict[str, Tensor]:
    return load_parameters(
        checkpoint.spec,
        build_weight_map(checkpoint.spec, checkpoint.tensor_names),
        checkpoint.headers,
        placement.dtype,
        placement.device,
        allow_non_finite=settings.allow_non_finite_weights,
    )


def _choose_stage(
    checkpoint: Checkpoint, settings: EngineSettings, placement: Placement, parameters: dict[str, Tensor]
) -> tuple[Stage, dict[str, list[str]]]:
    """Kernels, and the first attention backend that has no objection, and the others' objections."""
    wanted = settings.model_settings.attention_backend
    backend, objections = choose_backend(
        checkpoint.spec,
        placement.dtype,
        placement.device,
        wanted,
        placement.kv_cache_dtype,
        block_size=settings.cache.block_size,
    )
    passed_over = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in objections.items())
    _log.info("attention: %s%s", backend.name, f". Passed over: {passed_over}" if passed_over else "")
    stage = Stage(
        spec=checkpoint.spec,
        parameters=parameters,
        kernels=select_kernels(placement.device, placement.dtype, wanted),
        backend=backend,
        kv_cache_dtype=placement.kv_cache_dtype,
        scale_bytes=KV_FORMATS[placement.kv_cache_dtype_name].scale_bytes,
        block_size=settings.cache.block_size,
        dtype=placement.dtype,
        device=placement.device,
    )
    return stage, objections


def _build_runner(checkpoint: Checkpoint, stage: Stage, storage: KVStorage, max_model_len: int) -> Runner:
    return Runner(
        Decoder(stage.spec, stage.parameters, max_model_len, stage.kernels),
        stage.backend(stage.spec, storage),
        block_size=stage.block_size,
        eos_token_ids=checkpoint.eos_token_ids,
        device=stage.device,
    )


def _size_pool(checkpoint: Checkpoint, settings: EngineSettings, geometry: KVGeometry, stage: Stage) -> Pool:
    """Measure the largest step, and give the KV pool what is left.

    How large that step is depends on the longest context, and that on the pool: the step is the one of the context that
    would fit if it needed nothing.

    Raises:
        KVCapacityError: the pool cannot hold one request of the length that is set, or none at all, or there is no room
            for a step.
    """
    longest, wanted = checkpoint.max_model_len(settings.model_settings), settings.model_settings.max_model_len
    chunk = settings.scheduler.max_num_batched_tokens
    budget = memory.kv_budget(settings.cache, stage.device)
    context = memory.fit_context(geometry, budget.num_bytes, longest, wanted, chunk)
    size = StepSize(
        num_tokens=chunk,
        num_seqs=settings.scheduler.max_num_seqs,
        max_model_len=context,
        num_kv_tokens=geometry.num_tokens_in(budget.num_bytes, context),
    )
    workspace_bytes = measure_workspace(stage, size)
    pool_bytes = budget.num_bytes - (workspace_bytes if budget.is_shared else 0)
    max_model_len = memory.fit_context(geometry, pool_bytes, longest, wanted, chunk)
    return Pool(geometry.num_blocks_in(pool_bytes), max_model_len, workspace_bytes)
