"""Calls as Llama 3 models write them: the whole answer is `{"name": "f", "parameters": {...}}`; several have `; ` between."""

import json
from collections.abc import Collection, Sequence

from server.replies.tools.parser import After, Opening, Part, Spell, ToolParser, opening_at_brace, skip_blanks


class Llama3Parser(ToolParser):
    """See ToolParser. Calls stand at the beginning or nowhere: elsewhere an object is part of the answer."""

    begin = "<|python_tag|>"
    markers = (begin,)

    @classmethod
    def is_used_by(cls, template: str) -> bool:
        """See ToolParser."""
        return '{"name": function name, "parameters":' in template or cls.begin in template

    @classmethod
    def rules(cls, names: Sequence[str], spell: Spell, template: str) -> str:
        """See ToolParser."""
        heads = [json.dumps(f'{{"name": {json.dumps(name)}, "parameters": ') for name in names]
        objects = " | ".join(f"{head} @arguments_{i}" for i, head in enumerate(heads))
        several = f'one: ({objects}) "}}"\nseveral: one ("; " one)*\n'
        return several + "free: several | text\ntext: /([^{\\s](.|\\n)*)?/\n"

    def __init__(self, names: Collection[str], *, is_certain: bool) -> None:
        super().__init__(names, is_certain=is_certain)
        self._is_past_start = False

    def _read_text(self, is_last: bool) -> list[Part] | None:
        if self._is_past_start:
            text, self._rest = self._rest, ""
            return [text] if text else None
        num_blanks = skip_blanks(self._rest)
        start = self._rest[num_blanks:]
        if self.begin.startswith(start) and start != self.begin and not is_last:
            return None
        self._is_past_start = True
        if start.startswith(self.begin):
            num_blanks += len(self.begin)
        elif not start.startswith("{"):
            return []
        self._lead, self._rest = self._rest[:num_blanks], self._rest[num_blanks:]
        self._read = self._read_opening
        return []

    def _opening(self, rest: str) -> Opening | None:
        return opening_at_brace(rest)

    def _after(self, rest: str) -> After | None:
        num_chars = skip_blanks(rest)
        if rest[num_chars : num_chars + 1] == ";":
            num_chars += 1 + skip_blanks(rest[num_chars + 1 :])
        if num_chars == len(rest):
            return None
        return After(num_chars, has_call=True) if rest[num_chars] == "{" and num_chars else After()
