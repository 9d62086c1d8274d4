"""A checkpoint folder becomes a running engine core."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torch import Tensor

from configs.cpu_list import parse_cpu_list
from configs.engine import EngineSettings
from configs.model import ModelSettings
from configs.scheduler import SchedulerSettings
from engine import memory
from engine.attention.registry import choose_backend
from engine.checkpoint import Checkpoint, read_checkpoint
from engine.core import EngineCore
from engine.cpus import choose_num_threads, pin_process
from engine.cuda_graph import CudaCapture
from engine.dtypes import KV_FORMATS, resolve_kv_cache_dtype
from engine.errors import ModelLoadError
from engine.grammar_states import GrammarStates
from engine.graphs import DecodeGraphs, GraphShapes, graph_objections, graph_sizes, record_graphs
from engine.info import EngineInfo
from engine.kernels.select import select_kernels, select_sampling
from engine.models.decoder import Decoder
from engine.models.tensor_names import build_weight_map
from engine.rehearsal import Stage, measure_workspace
from engine.runner import Runner
from engine.scheduler import Scheduler
from engine.weights import load_parameters, pack_weights
from engine.workspace import StepSize
from kvcache.geometry import KVGeometry
from kvcache.manager import KVCacheManager
from kvcache.storage import KVStorage

logger = logging.getLogger("headcount.engine")

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


GetWeights = Callable[[Checkpoint, ModelSettings, Placement], dict[str, Tensor]]


def load_engine(folder: Path, settings: EngineSettings) -> EngineCore:
    """Load the checkpoint in `folder`, measure the largest step, and size the KV pool.

    Raises:
        ModelLoadError: the model is not supported, or its files do not fit its config.
        KVCapacityError: the KV pool cannot hold one request of max_model_len tokens, or no step fits beside the weights.
        checkpoints.errors.CheckpointError: a file is missing, unreadable or corrupt.
    """
    return build_engine(read_checkpoint(folder), settings, read_weights)


def build_engine(checkpoint: Checkpoint, settings: EngineSettings, get_weights: GetWeights) -> EngineCore:
    """An engine of weights that come from wherever `get_weights` has them.

    Raises:
        ModelLoadError: what the settings ask for is not there, or speaks against this model.
        KVCapacityError: as in `load_engine`.
    """
    phases = Phases()
    device = choose_device(settings.model_settings)
    check_quantization(settings.model_settings.quantization, device)
    framework_bytes = memory.process_bytes(device)
    phases.end("imports")
    placement = _place(checkpoint, settings, device)
    parameters = get_weights(checkpoint, settings.model_settings, placement)
    phases.end("weights")
    kv_format = KV_FORMATS[placement.kv_cache_dtype_name]
    geometry = checkpoint.spec.kv_geometry(kv_format.dtype_bytes, settings.cache.block_size, kv_format.scale_bytes)
    stage, objections = _choose_stage(checkpoint, settings, placement, parameters)
    phases.end("kernels")
    pool = _size_pool(checkpoint, settings, geometry, stage)
    phases.end("rehearsal")
    sizes = _graph_sizes(settings, stage)
    num_spare_blocks = 1 if sizes else 0
    storage = KVStorage(geometry, pool.num_blocks + num_spare_blocks, placement.kv_cache_dtype, device)
    if sizes:
        phases.end("kv_cache")
    grammars = GrammarStates(checkpoint.spec.vocab_size, checkpoint.eos_token_ids)
    runner, graph_memory = _build_runner(checkpoint, stage, storage, pool, sizes, grammars=grammars)
    ledger = memory.build_ledger(
        device,
        weights_bytes=sum(tensor.nbytes for tensor in parameters.values()),
        kv_cache_bytes=storage.nbytes - num_spare_blocks * geometry.bytes_per_block,
        workspace_bytes=pool.workspace_bytes,
        framework_bytes=framework_bytes,
        graphs=graph_memory,
    )
    phases.end("graphs" if sizes else "kv_cache")
    info = EngineInfo(
        architecture=checkpoint.spec.architecture,
        dtype=placement.dtype_name,
        kv_cache_dtype=placement.kv_cache_dtype_name,
        device=str(device),
        kernels=stage.kernels.name,
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
        quantization=settings.model_settings.quantization,
    )
    manager = KVCacheManager(geometry, pool.num_blocks, enable_prefix_cache=settings.cache.enable_prefix_cache)
    scheduler = Scheduler(settings.scheduler, manager)
    enable_overlap = _overlaps(settings.scheduler, device)
    return EngineCore(info, scheduler, runner, manager, grammars, enable_overlap=enable_overlap)


def choose_device(settings: ModelSettings) -> torch.device:
    """The device that the settings name.

    Side effects: the process is pinned to the CPUs that the settings name, and PyTorch's number of threads is set.

    Raises:
        ModelLoadError: a GPU is asked for and PyTorch sees none, or a CPU that the process may not use.
    """
    if settings.cpu_affinity:
        pin_process(parse_cpu_list(settings.cpu_affinity))
    torch.set_num_threads(choose_num_threads(settings.num_threads, torch.get_num_threads()))
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ModelLoadError("device cuda was asked for, but PyTorch sees no GPU; use --device cpu")
    has_gpu = settings.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if has_gpu else torch.device("cpu")


def _overlaps(settings: SchedulerSettings, device: torch.device) -> bool:
    """Whether steps are planned ahead; not on a CPU unless asked for: planning would take the model's cores."""
    return device.type == "cuda" if settings.enable_overlap == "auto" else settings.enable_overlap == "on"


def check_quantization(quantization: str, device: torch.device) -> None:
    """Refuse 8-bit weights where no kernels are fast with them.

    Raises:
        ModelLoadError: the device is no CPU.
    """
    if quantization != "none" and device.type != "cpu":
        raise ModelLoadError(
            f"--quantization {quantization} runs on a CPU only, and the model is to run on {device.type}: use --device cpu,"
            " or leave --quantization out"
        )


def _place(checkpoint: Checkpoint, settings: EngineSettings, device: torch.device) -> Placement:
    name = checkpoint.dtype_name(settings.model_settings)
    kv_name = resolve_kv_cache_dtype(settings.cache.kv_cache_dtype, name)
    kv_cache_dtype = FLOAT8_DTYPES.get(kv_name) or getattr(torch, kv_name)
    return Placement(device, name, getattr(torch, name), kv_name, kv_cache_dtype)


def read_weights(checkpoint: Checkpoint, settings: ModelSettings, placement: Placement) -> dict[str, Tensor]:
    """All parameters, from the checkpoint's files.

    Raises:
        ModelLoadError, CheckpointError: they do not fit the config, or cannot be read.
    """
    return load_parameters(
        checkpoint.spec,
        build_weight_map(checkpoint.spec, checkpoint.tensor_names),
        checkpoint.headers,
        placement.dtype,
        placement.device,
        allow_non_finite=settings.allow_non_finite_weights,
        quantization=settings.quantization,
        kernels=select_kernels(placement.device, placement.dtype, settings.attention_backend),
    )


def _choose_stage(
    checkpoint: Checkpoint, settings: EngineSettings, placement: Placement, parameters: dict[str, Tensor]
) -> tuple[Stage, dict[str, list[str]]]:
    """Kernels, the weights in their order, the first attention backend without objections, and the others' objections."""
    wanted = settings.model_settings.attention_backend
    backend, objections = choose_backend(
        checkpoint.spec,
        placement.dtype,
        placement.device,
        wanted,
        placement.kv_cache_dtype,
        block_size=settings.cache.block_size,
    )
    kernels = select_kernels(placement.device, placement.dtype, wanted)
    # Both take PyTorch's number of threads as it is now; a process that serves may lower it for PyTorch itself.
    select_sampling(placement.device, torch.float32)
    pack_weights(checkpoint.spec, parameters, kernels)
    logger.info("kernels: %s, threads: %d", kernels.name, torch.get_num_threads())
    passed_over = "; ".join(f"{name}: {', '.join(reasons)}" for name, reasons in objections.items())
    logger.info("attention: %s%s", backend.name, f". Passed over: {passed_over}" if passed_over else "")
    stage = Stage(
        spec=checkpoint.spec,
        parameters=parameters,
        kernels=kernels,
        backend=backend,
        kv_cache_dtype=placement.kv_cache_dtype,
        scale_bytes=KV_FORMATS[placement.kv_cache_dtype_name].scale_bytes,
        block_size=settings.cache.block_size,
        dtype=placement.dtype,
        device=placement.device,
    )
    return stage, objections


def _graph_sizes(settings: EngineSettings, stage: Stage) -> list[int]:
    """Of the graphs to record; none where something speaks against them."""
    objections = graph_objections(
        stage.spec,
        stage.backend,
        stage.kernels,
        stage.device,
        enforce_eager=settings.model_settings.enforce_eager,
    )
    if objections:
        logger.info("no CUDA graphs: %s", "; ".join(objections))
    return [] if objections else graph_sizes(settings.scheduler.max_num_seqs)


def _build_runner(
    checkpoint: Checkpoint,
    stage: Stage,
    storage: KVStorage,
    pool: Pool,
    sizes: list[int],
    *,
    grammars: GrammarStates,
) -> tuple[Runner, memory.GraphMemory]:
    """The runner, with graphs where there are to be some, and what these take."""
    decoder = Decoder(stage.spec, stage.parameters, pool.max_model_len, stage.kernels, stage.dtype)
    graphs, graph_memory = None, memory.GraphMemory()
    if sizes:
        graphs, graph_memory = _record_graphs(stage, decoder, storage, pool, sizes)
    runner = Runner(
        decoder,
        stage.backend(stage.spec, storage),
        block_size=stage.block_size,
        eos_token_ids=checkpoint.eos_token_ids,
        device=stage.device,
        grammars=grammars,
        graphs=graphs,
    )
    return runner, graph_memory


def _record_graphs(
    stage: Stage, decoder: Decoder, storage: KVStorage, pool: Pool, sizes: list[int]
) -> tuple[DecodeGraphs, memory.GraphMemory]:
    """The graphs that there is room for beside the largest step, and what they take; the last block is theirs."""
    meter = memory.GraphMeter(stage.device, storage.geometry.bytes_per_block)
    shapes = GraphShapes(
        num_groups=len(storage.geometry.groups),
        block_size=stage.block_size,
        max_model_len=pool.max_model_len,
        spare_block=pool.num_blocks,
        device=stage.device,
    )
    graphs = record_graphs(
        shapes,
        sizes,
        decode=decoder,
        build_attention=lambda: stage.backend(stage.spec, storage),
        capture=CudaCapture(stage.device),
        reserved_bytes=pool.workspace_bytes,
    )
    return graphs, meter.read()


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
