"""The vocabulary in a GGUF file: tokens, their kinds, and the ones with a role."""

import msgspec
from gguf import TokenType
from tokenizers import AddedToken

from checkpoints.errors import GGUFError, UnsupportedModelError
from checkpoints.gguf_file import GGUFFile

ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
"""Our name of a role -> GGUF's."""

END_TOKENS = frozenset(
    {
        "</s>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<|end_of_turn|>",
        "<end_of_turn>",
    }
)
"""Special tokens that end an answer in the chat formats of the supported architectures."""


class Vocabulary(msgspec.Struct, frozen=True):
    """The tokens of a model.

    Attributes:
        tokens: spelling, by id.
        kinds: kind, by id.
        role_ids: ids of those of `ROLES` that the file names.
        end_token_ids: all tokens that end a text, the model's eos first.
    """

    tokens: list[str]
    kinds: list[int]
    role_ids: dict[str, int]
    end_token_ids: list[int]

    def ids(self) -> dict[str, int]:
        """Spelling to id."""
        return {token: token_id for token_id, token in enumerate(self.tokens)}

    def added_tokens(self) -> list[AddedToken]:
        """Tokens that are found in text as a whole, before it is cut; special ones are left out of decoded text."""
        special = {TokenType.CONTROL, TokenType.UNKNOWN}
        return [
            AddedToken(token, special=kind in special, normalized=False)
            for token, kind in zip(self.tokens, self.kinds, strict=True)
            if kind in special or kind == TokenType.USER_DEFINED
        ]

    def role_token(self, role: str) -> str | None:
        """Spelling of the token in a role."""
        return self.tokens[self.role_ids[role]] if role in self.role_ids else None

    def role(self, role: str) -> tuple[str, int] | None:
        """Spelling and id of the token in a role."""
        return (self.tokens[self.role_ids[role]], self.role_ids[role]) if role in self.role_ids else None


def read_vocabulary(source: GGUFFile) -> Vocabulary:
    """The vocabulary of `source`.

    Raises:
        GGUFError: it is absent or its parts do not match.
        UnsupportedModelError: two tokens are spelled alike.
    """
    tokens = source.list_of("tokenizer.ggml.tokens", str)
    if not tokens:
        raise GGUFError(f"{source.path} holds no tokenizer", expected="the metadata 'tokenizer.ggml.tokens'")
    kinds = source.list_of("tokenizer.ggml.token_type", int) or [int(TokenType.NORMAL)] * len(tokens)
    if len(kinds) != len(tokens):
        what = f"tokenizer.ggml.token_type of {source.path}"
        raise GGUFError(what, expected=f"{len(tokens)} entries, one per token", given=str(len(kinds)))
    if len(set(tokens)) != len(tokens):
        raise UnsupportedModelError(f"{source.path} cannot be imported: tokens that are spelled alike")
    role_ids = _role_ids(source, len(tokens))
    return Vocabulary(tokens, kinds, role_ids, _end_token_ids(source, tokens, kinds, role_ids))


def _role_ids(source: GGUFFile, num_tokens: int) -> dict[str, int]:
    role_ids = {}
    for role, theirs in ROLES.items():
        token_id = source.get(f"tokenizer.ggml.{theirs}_token_id", int, -1)
        if token_id >= num_tokens:
            what = f"the {role} token of {source.path}"
            raise GGUFError(what, expected=f"an id below {num_tokens}", given=str(token_id))
        if token_id >= 0:
            role_ids[role] = token_id
    return role_ids


def _end_token_ids(source: GGUFFile, tokens: list[str], kinds: list[int], role_ids: dict[str, int]) -> list[int]:
    """All ids that end a text.

    One eos is not enough: a chat model ends its turn with one token and a document with another, and either may come.
    SmolLM2's are <|im_end|> (2, the eos of the file) and <|endoftext|> (0, which the file gives as unknown token only).
    """
    named = [source.get(f"tokenizer.ggml.{name}_token_id", int, -1) for name in ("eot", "eom")]
    spelled = [i for i, token in enumerate(tokens) if token in END_TOKENS and kinds[i] == TokenType.CONTROL]
    ends = [role_ids.get("eos", -1), *named, *spelled]
    return list(dict.fromkeys(token_id for token_id in ends if 0 <= token_id < len(tokens)))
