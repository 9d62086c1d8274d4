"""The public face: LLM and SamplingParams, in this process."""

import re
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import headcount
from configs.errors import SettingsError
from engine.errors import RequestRefusedError
from headcount import LLM, FinishReason, SamplingParams
from tests.engine.tiny_models import build_model, save_model

CHAT_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokens are single bytes."""
    folder = save_model(build_model("llama", vocab_size=256), tmp_path_factory.mktemp("bytes"))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def llm(folder: Path) -> LLM:
    return LLM(str(folder), dtype="float64", device="cpu", kv_cache_memory_bytes=10_000_000)


def test_one_generation_for_each_prompt_in_order(llm: LLM) -> None:
    params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    together = llm.generate(["abc", "hello", "abc"], params)
    assert [len(generation.token_ids) for generation in together] == [8, 8, 8]
    assert together[0].token_ids == together[2].token_ids != together[1].token_ids
    assert together[1].prompt_token_ids == llm.tokenizer.encode("hello", add_special_tokens=False)
    [alone] = llm.generate("hello", params)
    assert alone.text == together[1].text
    assert alone.finish_reason is FinishReason.LENGTH


def test_token_ids_as_prompts(llm: LLM) -> None:
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    ids = llm.tokenizer.encode("hello", add_special_tokens=False)
    [by_ids] = llm.generate(ids, params)
    [by_text] = llm.generate(["hello"], params)
    assert by_ids.token_ids == by_text.token_ids


def test_params_for_each_prompt(llm: LLM) -> None:
    params = [SamplingParams(max_tokens=n, temperature=0, ignore_eos=True) for n in (2, 5)]
    assert [len(generation.token_ids) for generation in llm.generate(["a", "b"], params)] == [2, 5]
    with pytest.raises(ValueError, match="zip"):
        llm.generate(["a", "b", "c"], params)


def test_a_stop_string_ends_the_request_in_the_engine_too(llm: LLM) -> None:
    free = llm.generate("hello", SamplingParams(max_tokens=30, temperature=0, ignore_eos=True))[0]
    stop = next(char for char in free.text if char.isascii())
    [stopped] = llm.generate("hello", SamplingParams(max_tokens=30, temperature=0, ignore_eos=True, stop=(stop,)))
    assert stopped.text == free.text.partition(stop)[0]
    assert stopped.finish_reason is FinishReason.STOP
    assert len(stopped.token_ids) < 30


def test_logprobs(llm: LLM) -> None:
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True, logprobs=2, prompt_logprobs=1)
    [generation] = llm.generate("hello", params)
    assert [entry.token_id for entry in generation.logprobs] == generation.token_ids
    assert [entry.token_id for entry in generation.prompt_logprobs] == generation.prompt_token_ids[1:]
    assert all(len(entry.top_logprobs) == 2 for entry in generation.logprobs)


def test_chat_goes_through_the_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "hi"}]
    generation = llm.chat(messages, SamplingParams(max_tokens=2, temperature=0, ignore_eos=True))
    assert llm.tokenizer.decode(generation.prompt_token_ids, skip_special_tokens=False) == "user: hi\n"


def test_a_prompt_that_does_not_fit_runs_nothing(llm: LLM) -> None:
    with pytest.raises(RequestRefusedError, match="the context holds 256 tokens"):
        llm.generate(["fits", "x" * 300])
    assert len(llm.generate("fits", SamplingParams(max_tokens=2, ignore_eos=True))[0].token_ids) == 2


def test_a_misspelt_setting_names_the_right_one(folder: Path) -> None:
    with pytest.raises(SettingsError, match="dtype"):
        LLM(str(folder), dtyp="float32")


def test_everything_named_is_there() -> None:
    assert all(hasattr(headcount, name) for name in headcount.__all__)


def test_outputs_match_a_grammar(llm: LLM) -> None:
    grammar = '{"grammars": [{"lark_grammar": "start: /[a-c]{3}-[0-9]{2}/"}]}'
    params = SamplingParams(max_tokens=20, seed=1, grammar=grammar)
    for generation in llm.generate(["x", "y", "z"], params):
        assert re.fullmatch("[a-c]{3}-[0-9]{2}", generation.text)
        assert generation.finish_reason is FinishReason.STOP
    with pytest.raises(RequestRefusedError, match="unknown name"):
        llm.generate("x", SamplingParams(grammar='{"grammars": [{"lark_grammar": "start: nothing"}]}'))
