"""Flags that several commands share."""

from typing import Annotated

from cyclopts import Group, Parameter
from pydantic import SecretStr

from configs.base import Settings


@Parameter(name="*", group=Group.create_ordered("Server"))
class ServerOptions(Settings):
    """The running server that a command talks to."""

    url: Annotated[str, Parameter(env_var="HEADCOUNT_URL")] = "http://127.0.0.1:8000"
    """Where the server is."""

    api_key: Annotated[SecretStr | None, Parameter(env_var="HEADCOUNT_API_KEY")] = None
    """The server's key, where it asks for one."""

    model: str | None = None
    """Name of a served model. Unset: the first one."""

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.api_key.get_secret_value()}"} if self.api_key else {}
