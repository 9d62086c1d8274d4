"""Calls as Hermes and Qwen models write them: `<tool_call>{"name": "f", "arguments": {...}}</tool_call>`, one after the other."""

import json
from collections.abc import Sequence

from server.replies.tools.parser import After, Opening, Spell, ToolParser, free_rules, opening_at_brace, skip_blanks

END = "</tool_call>"


class HermesParser(ToolParser):
    """See ToolParser."""

    begin = "<tool_call>"
    markers = (begin, END)

    @classmethod
    def is_used_by(cls, template: str) -> bool:
        """See ToolParser. Some templates have XML inside of the same markers."""
        return cls.begin in template and "<function=" not in template

    @classmethod
    def rules(cls, names: Sequence[str], spell: Spell, template: str) -> str:
        """See ToolParser."""
        heads = [json.dumps(f'\n{{"name": {json.dumps(name)}, "arguments": ') for name in names]
        objects = " | ".join(f"{head} @arguments_{i}" for i, head in enumerate(heads))
        begin = spell(cls.begin)
        body = f'body: ({objects}) "}}\\n" {spell(END)}\n'
        return body + f'one: {begin} body\nseveral: one ("\\n" one)*\n' + free_rules(begin)

    def _opening(self, rest: str) -> Opening | None:
        return opening_at_brace(rest)

    def _after(self, rest: str) -> After | None:
        num_blanks = skip_blanks(rest)
        if rest.startswith(END, num_blanks):
            return After(num_blanks + len(END))
        return None if END.startswith(rest[num_blanks:]) else After()
