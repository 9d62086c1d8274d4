"""What each token id stands for: the only text that an engine is told, for the grammars of its requests. No torch."""

import msgspec


class TokenBytes(msgspec.Struct, frozen=True):
    """A vocabulary as bytes."""

    tokens: list[bytes]
    """By token id; empty for ids that are no token."""
    special_token_ids: list[int]
    """Tokens that are no text: a grammar matches them by name only."""
