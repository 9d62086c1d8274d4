"""Engine processes that start before anybody knows what they shall load."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from configs.engine import EngineSettings
from engine.child import EngineChild
from engine.messages import Launch

pytestmark = pytest.mark.anyio

SOON_S = 60.0


async def test_one_that_is_killed_is_seen_to_end_by_all_who_wait() -> None:
    child = EngineChild()
    assert child.return_code is None
    impatient = asyncio.create_task(child.wait())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(child.wait(), 0.01)
    child.kill()
    await asyncio.wait_for(impatient, SOON_S)
    await asyncio.wait_for(child.wait(), SOON_S)
    assert child.return_code == -signal.SIGKILL
    child.kill()  # of no consequence


async def test_it_is_told_what_to_load_and_ends_where_that_is_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    child = EngineChild()
    child.launch(Launch.of(f"ipc://{tmp_path}/nobody", str(tmp_path / "no-model"), EngineSettings()))
    await asyncio.wait_for(child.wait(), SOON_S)
    assert child.return_code == 0
    assert "Traceback" not in capfd.readouterr().err


async def test_one_that_has_ended_takes_no_orders_and_is_seen_to_have_ended(tmp_path: Path) -> None:
    """Whether its end was noticed before the order or not."""
    launch = Launch.of(f"ipc://{tmp_path}/nobody", str(tmp_path), EngineSettings())
    noticed, unnoticed = EngineChild(), EngineChild()
    noticed.kill()
    await asyncio.wait_for(noticed.wait(), SOON_S)
    with pytest.raises(BrokenPipeError):
        noticed.launch(launch)
    unnoticed.kill()
    with contextlib.suppress(BrokenPipeError):
        unnoticed.launch(launch)
    await asyncio.wait_for(unnoticed.wait(), SOON_S)


def test_it_ends_with_a_server_that_never_says_what_to_load() -> None:
    """As one does whose port is taken."""
    server = "from engine.child import EngineChild; print(EngineChild().pid, flush=True)"
    done = subprocess.run([sys.executable, "-c", server], capture_output=True, text=True, timeout=SOON_S, check=True)
    # The child holds the pipe of standard error: it was read to its end, so the child is gone.
    assert done.stdout.strip().isdigit()
    assert done.stderr == ""
