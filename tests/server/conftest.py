"""A server without an engine process, for the tests of this room."""

from pathlib import Path

import pytest

from tests.server.fake_engine import FakeServer


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    return FakeServer(tmp_path)
