"""Who shares prefix-cache blocks with whom: requests with the same API key and the same `cache_salt`.

A cached prefix is quicker than one that is computed, so whoever shares blocks can time another's prompts. The salt that
the engine gets is a hash of both, so neither a key nor a client's salt goes any further than this process.
"""

import hashlib

from starlette.requests import Request as HTTPRequest

MAX_CACHE_SALT_CHARS = 256
SALT_BYTES = 16


def key_identity(api_key: bytes) -> bytes:
    """What stands for an API key where the key itself must not be: 32 bytes."""
    return hashlib.blake2b(api_key, digest_size=32, person=b"headcount-key").digest()


def prefix_salt(http_request: HTTPRequest, cache_salt: str | None) -> str:
    """The salt of a request's blocks: "", the common one, where it came with neither an API key nor a `cache_salt`.

    Args:
        http_request: the middleware has left the identity of its key in its state.
        cache_salt: the request's field.
    """
    identity: bytes = getattr(http_request.state, "key_identity", b"")
    if not identity and cache_salt is None:
        return ""
    # A field that is given holds a character at least, so no salt is taken for none.
    text = (cache_salt or "").encode()
    return hashlib.blake2b(text, key=identity, digest_size=SALT_BYTES, person=b"headcount-salt").hexdigest()
