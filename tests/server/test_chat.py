"""Chat templates give what transformers gives, and can do no harm."""

import json
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import pytest

from checkpoints.errors import CheckpointError
from server.chat import ChatTemplates, check_variables, load_chat_templates, special_tokens
from server.chat_template import ChatTemplate, Conversation, TemplateRefusedError, TemplateSource
from server.errors import APIError
from server.tokenizer import Tokenizer
from tests.server import tiny_tokenizers as tiny

CONFIG = {"bos_token": "<s>", "eos_token": {"content": tiny.EOS}, "tokenizer_class": "PreTrainedTokenizerFast"}

CHATML = """{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0]['content'] %}
{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}
{% for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- if loop.index0 == 0 and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}
    {%- else %}{% set content = message['content'] %}{% endif %}
    {%- if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}
    {%- else %}{{ ' ' + content | trim + ' ' + eos_token }}{% endif %}
{%- endfor %}"""

LLAMA3 = """{{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if tools is not none %}{{- 'Environment: ipython\n' }}{%- endif %}
{%- if documents is not none %}{{- 'Documents\n' }}{%- endif %}
{{- "Today Date: " + strftime_now("%Y") + "\n\n" }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{% continue %}{% endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

MARKED = """{% for m in messages %}
  {% if loop.index > 3 %}
    {% break %}
  {% endif %}
  {% if m.role == 'assistant' %}
A: {% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}

  {% else %}
U: {{ m | tojson }} {{ m | tojson(indent=2) }} {{ m | tojson(ensure_ascii=true, sort_keys=True) }}
  {% endif %}
{% endfor %}
{% if pad_token is defined %}PAD{% endif %}{{ missing }}{{ messages | length }}"""

TEMPLATES = {"chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "marked": MARKED}

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "short": [{"role": "user", "content": "Hi"}],
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " <b>é</b> & 'x' \n"}],
    "turns": [
        {"role": "user", "content": "1 < 2?"},
        {"role": "assistant", "content": " yes "},
        {"role": "user", "content": "{{ 7 * 7 }} {% raw %}"},
        {"role": "assistant", "content": "49"},
    ],
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(tiny.save(tiny.byte_level(), tmp_path_factory.mktemp("tokenizer"), CONFIG))


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast(tokenizer_object=tiny.byte_level(), bos_token="<s>", eos_token=tiny.EOS)


def render(source: str, tokenizer: Tokenizer, messages: list[dict[str, Any]], **options: Any) -> str:
    template = ChatTemplate(TemplateSource(source, special_tokens(tokenizer)))
    return template.render(Conversation(messages=messages, **options))


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_the_prompt_is_the_one_of_transformers(
    tokenizer: Tokenizer, oracle: Any, name: str, conversation: str, add_generation_prompt: bool
) -> None:
    messages = CONVERSATIONS[conversation]
    expected = oracle.apply_chat_template(
        messages, chat_template=TEMPLATES[name], add_generation_prompt=add_generation_prompt, tokenize=False
    )
    found = render(TEMPLATES[name], tokenizer, messages, add_generation_prompt=add_generation_prompt)
    assert found == expected


@pytest.mark.parametrize("content", ["i", "end", "", "a\n", "Sure: ", "  x", "assistant", " \n ", "user\nuser"])
@pytest.mark.parametrize("name", ["chatml", "llama2", "llama3"])
def test_the_final_message_goes_on(tokenizer: Tokenizer, oracle: Any, name: str, content: str) -> None:
    messages = [{"role": "user", "content": "i end x"}, {"role": "assistant", "content": content}]
    expected = oracle.apply_chat_template(
        messages, chat_template=TEMPLATES[name], continue_final_message=True, tokenize=False
    )
    found = render(TEMPLATES[name], tokenizer, messages, continue_final_message=True)
    assert found == expected
    assert messages[-1]["content"] == content


def test_a_final_message_that_is_not_shown_cannot_go_on(tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(TemplateRefusedError, match="does not show the last message") as caught:
        render("{{ messages[0].content }}", tokenizer, messages, continue_final_message=True)
    assert caught.value.param == "continue_final_message"


def test_a_template_may_refuse_messages(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        TemplateRefusedError, match="refuses these messages: Conversation roles must alternate"
    ) as caught:
        render(LLAMA2, tokenizer, [{"role": "assistant", "content": "a"}])
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.append(1) }}",
        "{{ messages.__class__ }}",
        "{{ ''.__class__ }}",
        "{{ messages[0].update(role='x') }}",
        "{{ messages[0].pop('role') }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ strftime_now.__globals__['os'] }}",
        "{{ raise_exception.__globals__.sys }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ '{0.__class__.__mro__}'.format(1) }}",
        "{{ ('%s' | attr('format'))('x').__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for i in range(1000000000) %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{% include 'x' %}",
        "{% import '/etc/passwd' as x %}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(tokenizer: Tokenizer, source: str) -> None:
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(TemplateRefusedError):
        render(source, tokenizer, messages)
    assert messages == [{"role": "user", "content": "x"}]


def test_a_template_may_ask_for_what_is_not_there(tokenizer: Tokenizer) -> None:
    source = "{{ x is defined }}{{ messages[0].tool_calls is defined }}{{ messages[0]._private is defined }}"
    assert render(source, tokenizer, [{"role": "user", "content": "x"}]) == "FalseFalseFalse"


def write(folder: Path, config: dict[str, Any], template: bytes | None = None) -> ChatTemplates | None:
    tiny.save(tiny.byte_level(), folder, config)
    if template is not None:
        (folder / "chat_template.jinja").write_bytes(template)
    return load_chat_templates(folder, Tokenizer(folder))


def test_where_a_template_comes_from(tmp_path: Path) -> None:
    conversation = Conversation(messages=[{"role": "user", "content": "x"}])
    assert write(tmp_path, {}) is None
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "default"}]
    for config in ({"chat_template": "default"}, {"chat_template": named}):
        templates = write(tmp_path, config)
        assert templates is not None
        assert templates.plain.render(conversation) == "default"
        assert templates.with_tools.render(conversation) == ("no" if config["chat_template"] is named else "default")
    assert write(tmp_path, {"chat_template": [{"name": "other", "template": "x"}]}) is None
    templates = write(tmp_path, {"chat_template": "default"}, "from the file: é".encode())
    assert templates is not None
    assert templates.plain.render(conversation) == "from the file: é"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (b"{% if %}", "the chat template of .* is no Jinja template: got Expected an expression, .* in line 1"),
        (b"\n{% nothing %}", "is no Jinja template: got Encountered unknown tag 'nothing'.* in line 2"),
        (b"{{ x | no_such_filter }}", "is no Jinja template: got No filter named 'no_such_filter'"),
        (b"{% autoescape 'x' * 10 %}{% endautoescape %}", "autoescape takes true or false here in line 1"),
        (b"\xff\xfe", r"chat_template\.jinja is malformed: expected UTF-8 text"),
    ],
)
def test_a_broken_template_is_named(tmp_path: Path, template: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        write(tmp_path, {}, template)
    assert str(tmp_path) in str(caught.value)


def test_special_tokens_of_other_files_reach_the_template(tmp_path: Path) -> None:
    tiny.save(tiny.byte_level(), tmp_path, {"chat_template": "{{ bos_token }}{{ eos_token }}"})
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "<b>", "eos_token": {"content": "<e>"}}))
    templates = load_chat_templates(tmp_path, Tokenizer(tmp_path))
    assert templates is not None
    assert templates.plain.render(Conversation(messages=[{"role": "user", "content": "x"}])) == "<b><e>"


def test_json_can_hold_what_templates_print(tokenizer: Tokenizer) -> None:
    text = render("{{ messages | tojson(false, 1) }}", tokenizer, [{"role": "user", "content": "<é>"}])
    assert text == json.dumps([{"role": "user", "content": "<é>"}], ensure_ascii=False, indent=1)


TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


def test_tools_are_those_of_transformers(tokenizer: Tokenizer, oracle: Any) -> None:
    source = "{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{{ messages[0].content }}"
    messages = [{"role": "user", "content": "x"}]
    expected = oracle.apply_chat_template(messages, tools=TOOLS, chat_template=source, tokenize=False)
    assert render(source, tokenizer, messages, tools=TOOLS) == expected


def test_a_template_says_what_it_reads() -> None:
    source = "{% set x = 1 %}{{ x }}{{ enable_thinking }}{% if tools %}{% endif %}{{ bos_token }}{{ range(2) }}"
    template = ChatTemplate(TemplateSource(source))
    assert template.variables == {"enable_thinking"}
    assert template.takes_tools
    assert not ChatTemplate(TemplateSource("{{ messages }}")).takes_tools
    check_variables(template, ["enable_thinking"])
    for name, param in (("bos_token", "chat_template_kwargs"), ("reasoning_effort", "reasoning_effort")):
        with pytest.raises(APIError, match="has no variable") as caught:
            check_variables(template, [name])
        assert caught.value.param == param


@pytest.mark.parametrize("source", ["{{ 'x' * 99000000 }}", "{{ 'x' | center(99000000) }}", "{{ '%99000000d' % 1 }}"])
def test_nothing_is_worked_out_before_its_turn(source: str) -> None:
    """Templates are compiled in the server, and rendered where the kernel limits them."""
    tracemalloc.start()
    try:
        template = ChatTemplate(TemplateSource(source))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert len(template.render(Conversation(messages=[]))) == 99_000_000
