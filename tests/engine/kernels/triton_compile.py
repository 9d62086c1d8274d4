"""Compiles what a launcher launches for GPUs that need not be there: a kernel that the interpreter runs may not compile.

Run as a program, because Triton either interprets or compiles in a process:

    python -m tests.engine.kernels.triton_compile [80 90 ...]

prints a line a kernel: capability, name, shared memory, registers spilled. Exit status 1 where something is over a limit.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float64: "*fp64",
    torch.int8: "*i8",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
SHARED_BYTES = 99 << 10
"""What a program may have on the smallest GPU since Ampere (compute capability 8.6)."""


class Launch(NamedTuple):
    """What a launcher asked for."""

    kernel: JITFunction[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class Compiled(NamedTuple):
    """What the compiler made of it."""

    name: str
    shared_bytes: int
    spill_bytes: int
    num_registers: int


def record(run: Callable[[], Any]) -> list[Launch]:
    """The launches of `run`, none of which takes place."""
    launches: list[Launch] = []
    plain = JITFunction.run

    def capture(self: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        launches.append(Launch(self, args, kwargs))

    JITFunction.run = capture
    try:
        run()
    finally:
        JITFunction.run = plain
    return launches


def compile_launch(launch: Launch, capability: int) -> Compiled:
    """As Triton's own launch would: None and constants are part of the program, 16 divides what it divides."""
    kernel, args, kwargs = launch
    named = dict(zip(kernel.arg_names, args, strict=False))
    options = {name: value for name, value in kwargs.items() if name not in kernel.arg_names}
    named |= {name: value for name, value in kwargs.items() if name in kernel.arg_names}
    constants = {param.name for param in kernel.params if param.is_constexpr}
    signature, constexprs, attrs = {}, {}, {}
    for place, name in enumerate(kernel.arg_names):
        value = named[name]
        signature[name] = "constexpr" if name in constants else _type_of(value)
        if signature[name] == "constexpr":
            constexprs[(place,)] = value
        elif isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attrs[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs, attrs)
    binary = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    spilled, registers = _assemble(binary.asm["ptx"], capability)
    return Compiled(kernel.__name__, binary.metadata.shared, spilled, registers)


def _type_of(value: Any) -> str:
    if value is None or (isinstance(value, int) and value == 1):
        return "constexpr"
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if abs(value) < 2**31 else "i64"


def _assemble(ptx: str, capability: int) -> tuple[int, int]:
    """Bytes of registers that the assembler spills to memory, and registers of a thread."""
    arch = f"sm_{capability}a" if capability == 90 else f"sm_{capability}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx, encoding="utf-8")
        assembler = _path_of(get_ptxas, capability)
        command = [assembler, "-v", f"--gpu-name={arch}", str(path), "-o", str(path.with_suffix(".cubin"))]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    return sum(map(int, spills)), int(re.findall(r"Used (\d+) registers", report)[-1])


def _path_of(get_tool: Any, capability: int) -> str:
    try:
        return str(get_tool(capability).path)
    except TypeError:
        return str(get_tool().path)


def _examples(capability: int) -> list[Launch]:
    """Every kernel, with what a Llama layer and one that has everything give it."""
    from engine.kernels.base import HeadNorm, KVTarget, Rotation
    from engine.kernels.triton import kernels, sampling
    from engine.models.spec import Activation
    from tests.engine.attention.eight_bit import quantized
    from tests.engine.attention.naive_attention import Shape, make_case

    x, weight, gate_up = torch.zeros(8, 4096), torch.ones(4096), torch.zeros(8, 2 * 14336)
    heads, angles = torch.zeros(8, 40, 128), torch.zeros(8, 64)
    case = make_case(Shape(32, 8, 128, 128, 16), [1, 40], [3000, 40], torch.bfloat16)
    x, weight, gate_up, heads = (tensor.bfloat16() for tensor in (x, weight, gate_up, heads))
    eight_bit = [quantized(case, torch.int8)]
    if capability >= 89:
        eight_bit.append(quantized(case, torch.float8_e4m3fn))
    rows, ones, uniform = torch.zeros(2, 128256), torch.ones(2), torch.zeros(2, dtype=torch.float64)
    features = {"sliding_window": 2000, "softcap": 30.0, "alibi_slopes": torch.ones(32), "sinks": torch.ones(32)}

    def run() -> None:
        kernels.rms_norm(x, weight, 1e-5)
        kernels.layer_norm(heads, None, None, 1e-5)
        for activation in Activation:
            kernels.activate_and_multiply(gate_up, activation)
        kernels.activate(x, Activation.GELU)
        for is_interleaved in (False, True):
            kernels.apply_rope(heads, angles, angles, is_interleaved=is_interleaved)
        kernels.store_kv(heads[:, :8], heads[:, 8:16], case.cache, torch.arange(8))
        for norm in (None, HeadNorm(weight[:128], weight[:128], 1e-5)):
            for cache in (case.cache, *eight_bit):
                target, turned = KVTarget(cache, torch.arange(8)), Rotation(angles, angles)
                kernels.rope_and_store(heads[:, :24], heads[:, 24:32], heads[:, 32:], target, turned, norm=norm)
        kernels.grouped_linear(x, torch.zeros(2, 64, 4096, dtype=x.dtype), None, torch.tensor([3, 5]))
        others = {"cu_seqlens_q": case.cu_seqlens_q, "seq_lens": case.seq_lens, "softmax_scale": 0.1}
        for options in ({}, features):
            for cache in (case.cache, *eight_bit):
                kernels.paged_attention(case.q, cache, case.block_tables, **others, **options)
        for cache in eight_bit:
            kernels.store_kv(heads[:, :8], heads[:, 8:16], cache, torch.arange(8))
        sampling.draw(rows, ones, uniform)
        sampling.draw_truncated(rows, ones, uniform, top_k=torch.tensor([5, 9]), top_p=ones, min_p=ones)

    return record(run)


def main() -> None:
    """Compile the examples for the capabilities that are named."""
    excess = False
    for capability in map(int, sys.argv[1:] or ("80", "90")):
        for launch in _examples(capability):
            compiled = compile_launch(launch, capability)
            excess |= compiled.shared_bytes > SHARED_BYTES
            print(capability, *compiled)
    sys.exit(excess)


if __name__ == "__main__":
    main()
