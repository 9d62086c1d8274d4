"""The examples of docs/api.md, run as they stand against a server."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from server.openapi_examples import BASE_URL, EXAMPLES, Example
from tests.e2e.server_process import ServerProcess
from tests.e2e.wire_checks import check_error

pytestmark = [pytest.mark.e2e, pytest.mark.demo]


@pytest.mark.parametrize("name", EXAMPLES)
def test_python(demo_server: ServerProcess, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    program = EXAMPLES[name].as_python.replace(BASE_URL, demo_server.url)
    scope: dict[str, Any] = {}
    exec(compile(program, name, "exec"), scope)
    if "client" in scope:
        scope["client"].close()
    said = capsys.readouterr().out
    assert said.strip()
    assert "'error': {" not in said


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("name", EXAMPLES)
def test_curl(demo_server: ServerProcess, name: str) -> None:
    example: Example = EXAMPLES[name]
    line = example.as_curl.replace(BASE_URL, demo_server.url)
    done = subprocess.run(["bash", "-c", f"{line} -s -w '%{{http_code}}'"], capture_output=True, text=True, check=True)
    assert done.stdout[-3:] == str(example.status), done.stdout
    if example.status >= 400:
        check_error(json.loads(done.stdout[:-3]))
