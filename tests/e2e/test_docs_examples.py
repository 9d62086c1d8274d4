"""The examples of the documentation, run as they stand."""

import re
import subprocess
import sys

import pytest

from tests.architecture.sources import ROOT
from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]


def run_example(page: str, url: str, model: str) -> str:
    """What the page's Python prints when its server and model are these."""
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    code = code.replace("http://127.0.0.1:8000", url).replace('model="MODEL"', f'model="{model}"')
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_structured_output(demo_server: ServerProcess) -> None:
    assert re.search(r"name='.*' is_capital=(True|False)", run_example("structured-output.md", demo_server.url, "demo"))


def test_tools(templated_server: ServerProcess) -> None:
    printed = run_example("tools.md", templated_server.url, "tiny")
    assert re.search(r'get_weather \{\s*"city"\s*:\s*"(Rome|Oslo)"', printed), printed
