"""Who may open the dashboard's pages where the server asks for a key: a browser that has shown one."""

import hashlib
import hmac
import secrets
import time

COOKIE = "headcount_session"
LIFETIME_S = 12 * 3600


class Sessions:
    """Issues signed tokens and knows them again. Nothing is stored, and a restart forgets them all.

    A token opens pages, which hold no data: every number on them is asked for with the key itself.
    """

    def __init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def issue(self) -> str:
        """A token that is good for `LIFETIME_S` seconds."""
        expiry = f"{time.time() + LIFETIME_S:.0f}"
        return f"{expiry}.{self._sign(expiry)}"

    def is_valid(self, token: str) -> bool:
        """True for a token of this process that has not expired."""
        expiry, _, signature = token.partition(".")
        if not hmac.compare_digest(signature.encode(), self._sign(expiry).encode()):
            return False
        return float(expiry) > time.time()

    def _sign(self, expiry: str) -> str:
        return hmac.new(self._secret, expiry.encode(), hashlib.sha256).hexdigest()
