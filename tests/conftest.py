"""What all tests share: options of the long ones; cases of hypothesis have no deadline, which a busy machine would miss."""

import pytest
from hypothesis import settings

settings.register_profile("headcount", deadline=None)
settings.load_profile("headcount")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How long, and how patiently, the long tests run."""
    group = parser.getgroup("soak")
    group.addoption("--soak-minutes", type=float, default=30.0, help="length of the mixed soak test")
    group.addoption("--overload-seconds", type=float, default=60.0, help="length of the overload test")
    group.addoption(
        "--patience", type=float, default=1.0, help="factor on limits of time, for a machine that others use"
    )


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked anyio run on asyncio, as the server does."""
    return "asyncio"
