"""Grammars of outputs, compiled by llguidance. No torch.

A grammar is a text: llguidance's dialect of Lark, or a JSON object with a list of named grammars, each in Lark or a JSON
schema (the server makes it of what clients send). Compiling it takes from a millisecond to seconds, and memory: what comes
from a client is compiled in a confined process first (server/confined).
"""

import llguidance

from engine.token_bytes import TokenBytes

MAX_ERROR_CHARS = 300
LIMITS = llguidance.LLParserLimits(
    max_lexer_states=50_000,  # 2 kB each
    max_grammar_size=100_000,
    step_lexer_fuel=100_000,  # some 7 ms a token
    step_max_items=20_000,  # some 1 ms a token
    verbose_errors=False,
)
"""All requests of a batch wait for the slowest mask, so a step of a grammar may cost no more than a step of a model."""


class GrammarError(Exception):
    """A grammar that cannot be compiled; the message says where and why."""


class _Table(llguidance.TokenizerWrapper):
    """A vocabulary with the face that llguidance asks for.

    Where a grammar leaves no choice for some bytes, only the first token of their encoding fits: the longest one here.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, token_bytes: TokenBytes, num_tokens: int, eos_token_id: int) -> None:
        known = token_bytes.tokens[:num_tokens]
        self.tokens = known + [b""] * (num_tokens - len(known))
        self.special_token_ids = [i for i in token_bytes.special_token_ids if i < num_tokens]
        self.eos_token_id = eos_token_id
        special = set(self.special_token_ids)
        self._ids = {token: i for i, token in enumerate(self.tokens) if token and i not in special}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: str) -> list[int]:
        data, place, ids = text.encode(), 0, []
        while place < len(data):
            lengths = range(min(self._longest, len(data) - place), 0, -1)
            found = next((length for length in lengths if data[place : place + length] in self._ids), 0)
            if not found:
                break  # no token begins here: what follows cannot be said
            ids.append(self._ids[data[place : place + found]])
            place += found
        return ids


def ending_tokens(vocab_size: int, eos_token_ids: list[int]) -> list[int]:
    """What fits where a grammar may end: one id beyond the vocabulary where the model has no end-of-sequence token."""
    return eos_token_ids or [vocab_size]


def build_tokenizer(token_bytes: TokenBytes, vocab_size: int, eos_token_ids: list[int]) -> llguidance.LLTokenizer:
    """What grammars are compiled against.

    Args:
        token_bytes: of the model's tokenizer.
        vocab_size: columns of the model's logits; ids beyond the tokenizer's never fit.
        eos_token_ids: the model's end-of-sequence tokens.
    """
    ends = ending_tokens(vocab_size, eos_token_ids)
    num_tokens = max(vocab_size, *(token_id + 1 for token_id in ends))
    return llguidance.LLTokenizer(_Table(token_bytes, num_tokens, ends[0]), n_vocab=num_tokens, eos_token=ends)


def compile_grammar(tokenizer: llguidance.LLTokenizer, grammar: str) -> llguidance.LLMatcher:
    """The parser of a grammar, before its first token.

    Raises:
        GrammarError: it has a mistake, asks for something unsupported, or is too large.
    """
    matcher = llguidance.LLMatcher(tokenizer, grammar, limits=LIMITS, log_level=0)
    if matcher.is_error():
        raise GrammarError(why_stuck(matcher))
    return matcher


def why_stuck(matcher: llguidance.LLMatcher) -> str:
    """Why a parser fails, without its own state."""
    reason = matcher.get_error().partition("\n<")[0]
    return reason[:MAX_ERROR_CHARS] or "no token of the model fits"
