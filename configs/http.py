"""Where the server listens, and what a client may ask of it."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Self

from cyclopts import Parameter
from pydantic import Field, SecretStr, field_validator, model_validator

from configs.base import Settings
from configs.groups import HTTP
from configs.sizes import Bytes

ORIGIN = re.compile(r"https?://[^/\s?#]+")
"""What browsers send as `Origin`."""


@Parameter(name="*", group=HTTP)
class HTTPSettings(Settings):
    """The HTTP front."""

    host: str = "127.0.0.1"
    """Address to bind. Another one than loopback needs `api_key`, or `insecure`."""

    port: int = Field(default=8000, ge=0, le=65535)
    """Port to bind; 0 takes a free one (the log names it)."""

    api_key: SecretStr | None = Field(default=None, min_length=1)
    """Key that clients send as `Authorization: Bearer KEY`. Unset, and no file of keys: no key is asked for."""

    api_key_file: Path | None = None
    """File of such keys, one a line; read again on SIGHUP. A line that begins with # is a comment."""

    admin_key: SecretStr | None = Field(default=None, min_length=1)
    """Key for what shows others' requests; it opens all the rest too. Unset, and no file: whoever may come in sees it."""

    admin_key_file: Path | None = None
    """File of admin keys, one a line; read again on SIGHUP."""

    insecure: bool = False
    """Allow a bind address beyond loopback without an `api_key`: everybody who reaches it can use it."""

    cors_origins: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """Web page whose scripts may call this server, as `https://example.org`; repeat it for several. `*`: any page."""

    tls_certificate: Path | None = None
    """PEM file of the certificate chain, to serve HTTPS; read again on SIGHUP. Needs `tls_key`."""

    tls_key: Path | None = None
    """PEM file of the certificate's private key, without a password."""

    dashboard: bool = True
    """Serve the dashboard's pages at /."""

    max_body_bytes: Bytes = Field(default=2_000_000, ge=1)
    """Largest request body; a larger one is refused (HTTP 413)."""

    max_header_bytes: Bytes = Field(default=32_768, ge=1024)
    """Largest request line with its headers; a larger one is refused (HTTP 431)."""

    max_json_depth: int = Field(default=100, ge=1, le=500)
    """Arrays and objects inside each other in a request body."""

    max_num_connections: int = Field(default=4096, ge=1)
    """Open connections; one more is refused (HTTP 503)."""

    receive_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds in which a client has to send its headers, and as many for the body; a slower one is refused (HTTP 408)."""

    unread_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds for which a client may leave a response unread once its connection takes no more; then it is cut off."""

    request_timeout_s: float = Field(default=3600.0, gt=0)
    """Seconds after which a request ends with an error, finished or not; its field `timeout` can only say less."""

    max_logprobs_bytes: Bytes = Field(default=64_000_000, ge=1)
    """What the log-probabilities of one response may take, as estimated from the most that it asks for."""

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

    max_compare_s: float = Field(default=1800.0, gt=0)
    """Seconds that a comparison (POST /v1/compare) may take; one that takes longer is ended."""

    @model_validator(mode="after")
    def _others_need_a_key(self) -> Self:
        if not (is_loopback(self.host) or self.api_key or self.api_key_file or self.insecure):
            raise ValueError(
                f"host {self.host} can be reached from other machines: set an api_key, or bind 127.0.0.1,"
                " or allow everybody in with insecure"
            )
        return self

    @model_validator(mode="after")
    def _a_certificate_has_a_key(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: give both, or neither for plain HTTP")
        return self

    @field_validator("cors_origins")
    @classmethod
    def _origins_can_match(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"must hold origins such as https://example.org (no path, no / at the end), got {origin}"
                )
        return origins


def is_loopback(host: str) -> bool:
    """True where only this machine reaches `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
