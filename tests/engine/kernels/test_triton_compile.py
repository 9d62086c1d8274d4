"""What runs in the interpreter must compile too, for a GPU that need not be there."""

import os
import subprocess
import sys

import pytest

from tests.architecture.sources import ROOT


@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles_and_fits(capability: int) -> None:
    """For Ampere and Hopper, within the shared memory of the smallest GPU since Ampere; attention spills next to nothing."""
    pytest.importorskip("triton", reason="the package triton is not installed")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-m", "tests.engine.kernels.triton_compile", str(capability)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    names = {row[1] for row in rows}
    attention = {"prefill_kernel", "decode_kernel", "combine_kernel"}
    others = {"norm_kernel", "activation_kernel", "rope_kernel", "store_kernel", "quantize_kernel", "grouped_kernel"}
    others |= {"rope_store_kernel"}
    assert names == attention | others | {"draw_kernel", "draw_truncated_kernel"}
    assert all(int(row[3]) <= 256 for row in rows), done.stdout
