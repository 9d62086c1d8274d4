"""What a chat request's tools, reasoning and structured output mean for one model: how replies are made, and how they are read."""

import functools
from typing import NamedTuple

from server.chat import check_variables
from server.chat_template import ChatTemplate
from server.errors import APIError, echo, invalid_request
from server.grammar_service import OutputGrammar
from server.output_grammar import Part, Wanted, call_parts, grammar_text, joined, reasoning_rule, speller, wanted_output
from server.protocol.chat import ChatBody
from server.protocol.tools import NamedToolChoice, Tool
from server.replies.reasoning import BEGIN, END, ReasoningParser
from server.replies.reply import ReplyFormat
from server.replies.tools.parser import ToolParser
from server.replies.tools.registry import find_format
from server.served_model import ServedModel


class ToolUse(NamedTuple):
    """The tools of a request that its model may call.

    Attributes:
        parser: of the model's format.
        tools: their place in the request, and they.
        rule: of `ToolParser.rules` that a reply must match; None: the model writes what it likes.
        is_forced: the reply is calls and nothing else.
    """

    parser: type[ToolParser]
    tools: dict[int, Tool]
    rule: str | None
    is_forced: bool

    @property
    def names(self) -> frozenset[str]:
        """Of the functions."""
        return frozenset(tool.function.name for tool in self.tools.values())


class ReplyPlan:
    """How a request is answered.

    Args:
        body: the request.
        model: answers.

    Attributes:
        template: of the model, for this conversation.
        tools: what the template is told of tools.

    Raises:
        APIError: the model has no template, or cannot do what is asked (400).
    """

    def __init__(self, body: ChatBody, model: ServedModel) -> None:
        has_tools = bool(body.tools) and body.tool_choice != "none"
        self.template = pick_template(model, has_tools=has_tools)
        check_variables(self.template, body.template_variables)
        self.tools = [tool.as_template_input() for tool in body.tools] if has_tools else None
        self._body = body
        self._tokenizer = model.tokenizer
        self._wanted = wanted_output(body)
        self._use = _tool_use(body, self.template, has_answer=self._wanted is not None)
        self._reasons = END in self.template.source.text

    @property
    def kept_token_ids(self) -> frozenset[int]:
        """Special tokens that replies are read by."""
        markers = [*((BEGIN, END) if self._reasons else ()), *(self._use.parser.markers if self._use else ())]
        found = (self._tokenizer.special_token_id(marker) for marker in markers)
        return frozenset(token_id for token_id in found if token_id is not None)

    def reply_format(self, prompt: str) -> ReplyFormat:
        """How to read replies to the rendered `prompt`."""
        use, has_begun = self._use, self._begins_within_thoughts(prompt)
        return ReplyFormat(
            reasoning=functools.partial(ReasoningParser, has_begun=has_begun) if self._reasons else None,
            tools=functools.partial(use.parser, use.names, is_certain=use.rule is not None) if use else None,
            max_calls=None if self._body.parallel_tool_calls else 1,
            call_id_chars=use.parser.id_chars if use else ToolParser.id_chars,
        )

    def grammar(self, prompt: str) -> OutputGrammar:
        """What replies to the rendered `prompt` must match.

        Raises:
            APIError: the parameters of a tool are no schema (400).
        """
        starts, rules, parts, params = self._calls()
        if self._wanted is not None and not (self._use and self._use.is_forced):
            starts, parts = [*starts, "@answer"], parts | {"answer": self._wanted.part}
            params = {"answer": self._wanted.param} | params
        if not starts:
            return OutputGrammar()
        if parts.keys() == {"answer"} and not self._reasons:
            return OutputGrammar(grammar_text([{"name": "answer", **parts["answer"]}]), params)
        start = " | ".join(starts)
        if self._reasons:
            start = f"thoughts ({start})"
            rules += reasoning_rule(self._spell, has_begun=self._begins_within_thoughts(prompt))
        return OutputGrammar(joined(start, rules, parts), params)

    def _calls(self) -> tuple[list[str], str, dict[str, Part], dict[str, str]]:
        """The rule to begin with, all rules, what they refer to, and where that comes from."""
        if self._use is None or self._use.rule is None:
            return [], "", {}, {}
        params = [f"tools[{i}].function.parameters" for i in self._use.tools]
        tools = list(self._use.tools.values())
        rules, parts = call_parts(self._use.parser, tools, params, self.template.source.text, self._spell)
        return [self._use.rule], rules, parts, dict(zip(parts, params, strict=True))

    def _spell(self, marker: str) -> str:
        return speller(self._tokenizer.special_token_id)(marker)

    def _begins_within_thoughts(self, prompt: str) -> bool:
        return self._reasons and prompt.rstrip().endswith(BEGIN)


def completion_grammar(wanted: Wanted | None) -> OutputGrammar:
    """What a completion must match."""
    if wanted is None:
        return OutputGrammar()
    return OutputGrammar(grammar_text([{"name": "answer", **wanted.part}]), {"answer": wanted.param})


def pick_template(model: ServedModel, *, has_tools: bool) -> ChatTemplate:
    """The model's template for a conversation.

    Raises:
        APIError: it has none, or none that shows tools (400).
    """
    if model.chat_templates is None:
        message = f"model {model.name!r} has no chat template; use /v1/completions"
        raise invalid_request(message, code="no_chat_template", param="messages")
    template = model.chat_templates.pick(has_tools=has_tools)
    if has_tools and not template.takes_tools:
        raise _no_tools(f"the chat template of model {model.name!r} does not show tools to the model", "tools")
    return template


def _tool_use(body: ChatBody, template: ChatTemplate, *, has_answer: bool) -> ToolUse | None:
    """What may be called, and how.

    Raises:
        APIError: the tool choice names what is not there, or the format of the model's calls is not known (400).
    """
    choice = body.tool_choice
    if choice == "none" or not body.tools:
        if not body.tools and choice not in ("none", "auto"):
            raise invalid_request("tool_choice needs tools to choose from", param="tool_choice")
        return None
    parser = find_format(template.source.text)
    if parser is None:
        raise _no_tools("how this model writes calls of tools is not known here", "tools")
    tools = dict(enumerate(body.tools))
    if isinstance(choice, NamedToolChoice):
        tools = {i: tool for i, tool in tools.items() if tool.function.name == choice.function.name}
        if not tools:
            message = f"tool_choice names {echo(choice.function.name)}, which is not among the tools"
            raise invalid_request(message, param="tool_choice")
        return ToolUse(parser, tools, "one", is_forced=True)
    rule = "several" if body.parallel_tool_calls else "one"
    if choice == "auto" and not has_answer:
        is_strict = any(tool.function.strict for tool in body.tools)
        return ToolUse(parser, tools, "free" if is_strict else None, is_forced=False)
    return ToolUse(parser, tools, rule, is_forced=choice == "required")


def _no_tools(message: str, param: str) -> APIError:
    return invalid_request(message, code="unsupported_field", param=param)
