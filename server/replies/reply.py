"""A chat model's text, as it comes, becomes the parts of a message."""

from collections.abc import Callable
from typing import NamedTuple

from server.replies.reasoning import ReasoningParser
from server.replies.tools.parser import CallPart, ToolParser


class ReplyFormat(NamedTuple):
    """How to read the replies to a request.

    Attributes:
        reasoning: makes what takes thoughts out of a reply; None: the model has none.
        tools: makes what takes calls out of it; None: there are no tools to call.
        max_calls: how many calls are given; those after them are dropped.
        call_id_chars: length of a call's id.
    """

    reasoning: Callable[[], ReasoningParser] | None = None
    tools: Callable[[], ToolParser] | None = None
    max_calls: int | None = None
    call_id_chars: int = ToolParser.id_chars


class MessagePart(NamedTuple):
    """What a piece of text adds to a message.

    Attributes:
        content: text of the answer.
        reasoning: text of the thoughts.
        calls: of tools, and more of their arguments; at most one part for each call.
    """

    content: str
    reasoning: str
    calls: list[CallPart]


class Reply:
    """Reads one reply. However its text is cut, the parts joined are the same.

    Args:
        reply_format: of the request.

    Attributes:
        has_calls: a call was found.
    """

    def __init__(self, reply_format: ReplyFormat) -> None:
        self.has_calls = False
        self._max_calls = reply_format.max_calls
        self._reasoning = reply_format.reasoning() if reply_format.reasoning else None
        self._tools = reply_format.tools() if reply_format.tools else None
        self._blanks = ""

    def feed(self, text: str, *, is_last: bool) -> MessagePart:
        """What a piece adds; with `is_last` also what was held back."""
        reasoning = ""
        if self._reasoning is not None:
            thought = self._reasoning.feed(text)
            rest = self._reasoning.flush() if is_last else None
            reasoning = thought.reasoning + (rest.reasoning if rest else "")
            text = thought.answer + (rest.answer if rest else "")
        if self._tools is None:
            return MessagePart(text, reasoning, [])
        parts = self._tools.feed(text) + (self._tools.flush() if is_last else [])
        content, calls = "", []
        for part in parts:
            if isinstance(part, CallPart):
                calls.append(part)
                self.has_calls, self._blanks = True, ""
            else:
                content += self._without_blanks(part)
        if is_last and not self.has_calls:
            content += self._blanks
        return MessagePart(content, reasoning, self._merged(calls))

    def _without_blanks(self, text: str) -> str:
        """Blanks around calls belong to neither: those at the end of a text wait for what comes."""
        text = self._blanks + text
        content = text.rstrip()
        self._blanks = text[len(content) :]
        return content

    def _merged(self, parts: list[CallPart]) -> list[CallPart]:
        merged: dict[int, CallPart] = {}
        for part in parts:
            if self._max_calls is None or part.call_idx < self._max_calls:
                before = merged.get(part.call_idx, CallPart(part.call_idx, None, ""))
                arguments = before.arguments + part.arguments
                merged[part.call_idx] = CallPart(part.call_idx, before.name or part.name, arguments)
        return list(merged.values())
