"""Chat templates: messages to the text that the model was trained on. Runs in any process; the server's is a confined one."""

import datetime
import json
from typing import Any

import jinja2
import msgspec
from jinja2 import meta, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

Message = dict[str, Any]

CONTINUE_MARK = "\ufdd0continue here\ufdd0"
"""Holds characters that Unicode keeps out of texts."""
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
GIVEN = frozenset(("messages", "tools", "documents", "add_generation_prompt"))
"""What a template always gets, beside the special tokens."""


class TemplateRefusedError(Exception):
    """A template that refuses its messages, or fails at them.

    Attributes:
        param: the request's field at fault.
    """

    def __init__(self, message: str, param: str = "messages") -> None:
        super().__init__(message)
        self.param = param


class TemplateSource(msgspec.Struct, frozen=True):
    """A template as its checkpoint gives it."""

    text: str
    special_tokens: tuple[tuple[str, str], ...] = ()
    """`bos_token` and so on, as far as the tokenizer has them: templates may ask whether one is defined."""


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """What a template is rendered with."""

    messages: list[Message]
    """Each with `role` and `content`."""
    tools: list[dict[str, Any]] | None = None
    """Descriptions of functions, in OpenAI's shape."""
    variables: dict[str, Any] = {}
    """More values for the template, which reads them all."""
    add_generation_prompt: bool = True
    """End with the opening of the assistant's turn."""
    continue_final_message: bool = False
    """End within the last message, so that the model goes on with it."""


class ChatTemplate:
    """A compiled template, run in a sandbox that can change nothing.

    Args:
        source: Jinja text and special tokens.

    Attributes:
        source: the same.
        variables: names that the template reads beside those that it always gets: clients may set them.
        takes_tools: it shows tools to the model.

    Raises:
        jinja2.TemplateSyntaxError: the text is no template.
    """

    def __init__(self, source: TemplateSource) -> None:
        environment = _environment()
        self.source = source
        self._template = environment.from_string(source.text)
        names = _NamesAhead(environment)
        names.visit(environment.parse(source.text))
        used = names.undeclared_identifiers
        self.variables = frozenset(used) - GIVEN - set(environment.globals) - set(SPECIAL_TOKENS)
        self.takes_tools = "tools" in used

    def render(self, conversation: Conversation) -> str:
        """The prompt.

        Raises:
            TemplateRefusedError: the template refuses these messages, or fails at them.
        """
        if not conversation.continue_final_message:
            return self._render(conversation, conversation.messages)
        # A mark behind the last content shows where the template goes on after it.
        *others, last = conversation.messages
        marked = [*others, {**last, "content": f"{last['content']}{CONTINUE_MARK} "}]
        before, mark, after = self._render(conversation, marked).rpartition(CONTINUE_MARK)
        if not mark:
            message = "continue_final_message: the chat template does not show the last message as it is"
            raise TemplateRefusedError(message, "continue_final_message")
        # A template that takes the blank from behind the mark would have taken those at the end of the content.
        return before if after.startswith(" ") else before.rstrip()

    def _render(self, conversation: Conversation, messages: list[Message]) -> str:
        adds_prompt = conversation.add_generation_prompt and not conversation.continue_final_message
        try:
            return self._template.render(
                **conversation.variables,
                **dict(self.source.special_tokens),
                messages=messages,
                tools=conversation.tools,  # defined: templates ask whether they are none
                documents=None,
                add_generation_prompt=adds_prompt,
            )
        except MemoryError:
            raise
        except Exception as error:  # a template is a program: it can fail in every way
            raise TemplateRefusedError(f"the model's chat template refuses these messages: {error}") from None


class GenerationBlock(Extension):
    """The block `{% generation %}`, which marks the assistant's words for training: here its content, unchanged."""

    tags: set[str] = {"generation"}  # noqa: RUF012 - the base class declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes up to `{% endgeneration %}`."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _NothingAhead(CodeGenerator):
    """Jinja works out constant expressions while it compiles, where nothing limits them; here they wait for their turn."""

    def _output_child_to_const(self, node: nodes.Expr, frame: Any, finalize: Any) -> str:
        if not isinstance(node, nodes.TemplateData):
            raise nodes.Impossible
        return super()._output_child_to_const(node, frame, finalize)

    def visit_EvalContextModifier(self, node: nodes.EvalContextModifier, frame: Any) -> None:  # noqa: N802 - Jinja's
        if not all(isinstance(option.value, nodes.Const) for option in node.options):
            self.fail("autoescape takes true or false here", node.lineno)
        super().visit_EvalContextModifier(node, frame)


class _NamesAhead(_NothingAhead, meta.TrackingCodeGenerator):
    """Finds the names that a template reads, and works nothing out either."""

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        self.optimizer = None


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's own gives an undefined value for an attribute that leads out of it, which a template may print."""

    code_generator_class = _NothingAhead

    def unsafe_undefined(self, obj: Any, attribute: str) -> jinja2.Undefined:
        raise SecurityError(f"access to attribute {attribute!r} of {type(obj).__name__!r} object is unsafe.")


def _environment() -> ImmutableSandboxedEnvironment:
    extensions = [loopcontrols, GenerationBlock]
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions, optimized=False)
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().astimezone().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # templates give these by place too
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # Jinja's own filter escapes for HTML, which is not what models were trained on.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
