"""Where the server listens, and what a client may ask of it."""

import ipaddress
from typing import Self

from cyclopts import Parameter
from pydantic import Field, SecretStr, model_validator

from configs.base import Settings
from configs.groups import HTTP
from configs.sizes import Bytes


@Parameter(name="*", group=HTTP)
class HTTPSettings(Settings):
    """The HTTP front."""

    host: str = "127.0.0.1"
    """Address to bind. Another one than loopback needs `api_key`, or `insecure`."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to bind; 0 takes a free one (the log names it)."""

    api_key: SecretStr | None = None
    """Key that clients send as `Authorization: Bearer KEY`. Unset: no key is asked for."""

    insecure: bool = False
    """Allow a bind address beyond loopback without an `api_key`: everybody who reaches it can use it."""

    max_body_bytes: Bytes = Field(default=2_000_000, ge=1)
    """Largest request body; a larger one is refused (HTTP 413)."""

    max_num_prompts: int = Field(default=1024, ge=1)
    """Prompts in one completions request."""

    max_num_choices: int = Field(default=128, ge=1)
    """Largest `n`."""

    keep_alive_interval_s: float = Field(default=15.0, gt=0)
    """Seconds without a token after which a stream gets a comment line, so that proxies keep it open."""

    max_grammar_bytes: Bytes = Field(default=100_000, ge=1)
    """Longest JSON schema, regular expression or grammar that an output can be held to, with the tools of a request."""

    grammar_timeout_s: float = Field(default=2.0, gt=0)
    """Processor seconds that a grammar may take to compile."""

    chat_template_timeout_s: float = Field(default=2.0, gt=0)
    """Processor seconds that a chat template may take for one conversation."""

    drain_timeout_s: float = Field(default=30.0, ge=0)
    """Seconds that running requests get to finish after SIGTERM."""

    @model_validator(mode="after")
    def _others_need_a_key(self) -> Self:
        if not (is_loopback(self.host) or self.api_key or self.insecure):
            raise ValueError(
                f"host {self.host} can be reached from other machines: set an api_key, or bind 127.0.0.1,"
                " or allow everybody in with insecure"
            )
        return self


def is_loopback(host: str) -> bool:
    """True where only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
