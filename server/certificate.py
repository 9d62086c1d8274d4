"""The server's TLS certificate: checked before it is used, and exchanged without closing a connection."""

import logging
import ssl
from pathlib import Path

from configs.errors import SettingsError
from configs.http import HTTPSettings

logger = logging.getLogger("headcount.server")


def check_certificate(http: HTTPSettings) -> None:
    """Load the certificate and its key, if any, into a context that is thrown away.

    Raises:
        SettingsError: a file cannot be read, or the two do not belong together.
    """
    if http.tls_certificate and http.tls_key:
        _load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), http.tls_certificate, http.tls_key)


def reload_certificate(context: ssl.SSLContext | None, http: HTTPSettings) -> None:
    """Let new connections see what is in the files now; those that are open go on with what they have.

    Where the files cannot be used the old certificate stays, and the log says why.

    Args:
        context: of the listening socket; None without TLS.
        http: names the files.
    """
    if context is None or not (http.tls_certificate and http.tls_key):
        return
    try:
        check_certificate(http)  # first: half a certificate in `context` would end all handshakes
        _load(context, http.tls_certificate, http.tls_key)
    except SettingsError as error:
        logger.error("the certificate stays as it was: %s", error)
    else:
        logger.info("the certificate was read again")


def _load(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except FileNotFoundError:
        missing = next((path for path in (certificate, key) if not path.exists()), certificate)
        raise SettingsError(f"there is no file {missing}, which tls_certificate or tls_key names") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        problem = reason.lower().replace("_", " ")  # OpenSSL's names are such as KEY_VALUES_MISMATCH
        raise SettingsError(f"tls_certificate {certificate} with tls_key {key} cannot be used: {problem}") from None


def _no_password() -> str:
    """Called for an encrypted key, where OpenSSL would ask the terminal, and wait."""
    raise ValueError("the key has a password; give one without")
