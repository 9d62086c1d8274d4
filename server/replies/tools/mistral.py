"""Calls as Mistral models write them: `[TOOL_CALLS][{"name": "f", "arguments": {...}}, ...]`, newer ones `[TOOL_CALLS]f[ARGS]{...}`."""

import json
import re
from collections.abc import Collection, Sequence

from server.replies.tools.parser import NO_CALL, After, Opening, Spell, ToolParser, free_rules, skip_blanks

ARGS = "[ARGS]"
NAMED = re.compile(r"\s*([\w-]+)(\[CALL_ID\]\w*)?(\[ARGS\])?\s*(?=\{)")
MAX_NAMED_CHARS = 128


class MistralParser(ToolParser):
    """See ToolParser."""

    begin = "[TOOL_CALLS]"
    markers = (begin, ARGS)
    id_chars = 9

    @classmethod
    def is_used_by(cls, template: str) -> bool:
        """See ToolParser."""
        return cls.begin in template

    @classmethod
    def rules(cls, names: Sequence[str], spell: Spell, template: str) -> str:
        """See ToolParser."""
        begin = spell(cls.begin)
        if ARGS in template:
            calls = " | ".join(f"{json.dumps(name)} {spell(ARGS)} @arguments_{i}" for i, name in enumerate(names))
            return f"body: {calls}\none: {begin} body\nseveral: one+\n" + free_rules(begin)
        heads = [json.dumps(f'{{"name": {json.dumps(name)}, "arguments": ') for name in names]
        objects = " | ".join(f"{head} @arguments_{i}" for i, head in enumerate(heads))
        body = f'call: ({objects}) "}}"\nbody: "[" call (", " call)* "]"\n'
        return body + f'one: {begin} "[" call "]"\nseveral: {begin} body\n' + free_rules(begin)

    def __init__(self, names: Collection[str], *, is_certain: bool) -> None:
        super().__init__(names, is_certain=is_certain)
        self._is_array = False

    def _opening(self, rest: str) -> Opening | None:
        num_blanks = skip_blanks(rest)
        array = rest[num_blanks : num_blanks + 1]
        self._is_array = array == "["
        if self._is_array:
            num_blanks += 1 + skip_blanks(rest[num_blanks + 1 :])
        if num_blanks == len(rest):
            return None
        if rest[num_blanks] == "{":
            return Opening(num_blanks)
        if not self._is_array and (named := NAMED.match(rest)):
            return Opening(named.end(), named[1])
        return NO_CALL if self._is_array or "{" in rest or len(rest) > MAX_NAMED_CHARS else None

    def _after(self, rest: str) -> After | None:
        if not self._is_array:
            return After()
        num_chars = skip_blanks(rest)
        if rest[num_chars : num_chars + 1] == "]":
            return After(num_chars + 1)
        if rest[num_chars : num_chars + 1] == ",":
            num_chars += 1 + skip_blanks(rest[num_chars + 1 :])
        if num_chars == len(rest):
            return None
        return After(num_chars, has_call=True) if rest[num_chars] == "{" else After()
