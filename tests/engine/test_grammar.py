"""Outputs match their grammars, whatever else a request asks for and however it is scheduled."""

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from engine.core import EngineCore
from engine.grammar import GrammarError, build_tokenizer, compile_grammar
from engine.grammar_states import GrammarState
from engine.request import FinishReason, TokenDelta
from engine.token_bytes import TokenBytes
from engine.token_masks import token_bits
from tests.engine.parity.test_pressure import PreemptingAll, PreemptingSome
from tests.engine.tiny_models import VOCAB_SIZE, make_request, run, tokens

Load = Callable[..., EngineCore]

CHARACTERS = '{}[]":, abcdefghijklmnopqrstuvwxyz0123456789-._\n'
EOS_ID = 1
"""Of the tiny models."""
TEXTS = [*CHARACTERS, '{"', '":', "ab"]
TOKEN_BYTES = TokenBytes([b"<bos>", b"<eos>", b"<pad>", *(text.encode() for text in TEXTS)], [0, 1, 2])
ROOMY = {"max_num_batched_tokens": 16, "max_num_seqs": 4}


def lark(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def regex(pattern: str) -> str:
    return lark(f"start: /{pattern}/")


SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "b": {"enum": ["x", "yz"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
JSON = json.dumps({"grammars": [{"json_schema": SCHEMA}]})


def text_of(deltas: list[TokenDelta]) -> str:
    ids = [token_id for token_id in tokens(deltas) if token_id != EOS_ID]
    return b"".join(TOKEN_BYTES.tokens[token_id] for token_id in ids).decode()


def ended(deltas: list[TokenDelta]) -> FinishReason | None:
    return deltas[-1].finish_reason


def start(load: Load, folder: Path, **settings: Any) -> EngineCore:
    core = load(folder, **{**ROOMY, **settings})
    core.learn(TOKEN_BYTES)
    return core


@pytest.mark.parametrize("enable_overlap", ["on", "off"])
@pytest.mark.parametrize("scheduling", ["plain", "preempting-some", "preempting-all", "tight"])
def test_outputs_match_among_others(
    tiny_llama: Path, load: Load, monkeypatch: pytest.MonkeyPatch, enable_overlap: str, scheduling: str
) -> None:
    """Random weights choose among what fits: several grammars beside requests without one, also where steps preempt."""
    schedulers = {"preempting-some": PreemptingSome, "preempting-all": PreemptingAll}
    settings: dict[str, Any] = {"max_num_batched_tokens": 512} if scheduling in schedulers else {}
    if scheduling in schedulers:
        monkeypatch.setattr("engine.loading.Scheduler", schedulers[scheduling])
    if scheduling == "tight":
        settings = {"kv_cache_memory_bytes": 24 * 4 * 768, "max_model_len": 80, "kv_watermark": 0.0}
    core = start(load, tiny_llama, enable_overlap=enable_overlap, **settings)
    options = {"max_tokens": 40, "temperature": 1.3}
    requests = [
        *(make_request(f"json{seed}", [5, 6, 7], seed=seed, grammar=JSON, **options) for seed in range(4)),
        *(
            make_request(f"date{seed}", [8], seed=seed, grammar=regex("[0-9]{4}-[0-9]{2}"), **options)
            for seed in range(3)
        ),
        *(make_request(f"free{seed}", [9, 10], seed=seed, ignore_eos=True, **options) for seed in range(3)),
    ]
    deltas = run(core, requests)
    for seed in range(4):
        found = json.loads(text_of(deltas[f"json{seed}"]))
        assert 0 <= found["a"] <= 99
        assert found["b"] in ("x", "yz")
        assert ended(deltas[f"json{seed}"]) is FinishReason.STOP
    assert all(re.fullmatch("[0-9]{4}-[0-9]{2}", text_of(deltas[f"date{seed}"])) for seed in range(3))
    assert all(len(tokens(deltas[f"free{seed}"])) == 40 for seed in range(3))


def test_scheduling_changes_nothing(tiny_llama: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    def outputs(**settings: Any) -> dict[str, list[int]]:
        core = start(load, tiny_llama, **settings)
        made = [
            make_request(f"r{seed}", [5, 6], seed=seed, temperature=2.0, grammar=JSON, max_tokens=40)
            for seed in range(5)
        ]
        return {name: tokens(deltas) for name, deltas in run(core, made).items()}

    plain = outputs(enable_overlap="off")
    assert len({tuple(ids) for ids in plain.values()}) > 1
    assert outputs(enable_overlap="on") == plain
    monkeypatch.setattr("engine.loading.Scheduler", PreemptingSome)
    assert outputs(enable_overlap="on", max_num_batched_tokens=512) == plain


def one(core: EngineCore, **params: Any) -> list[TokenDelta]:
    return run(core, [make_request("r", [5, 6], **params)])["r"]


def test_a_complete_output_ends_at_once(tiny_llama: Path, load: Load) -> None:
    deltas = one(start(load, tiny_llama), grammar=lark('start: "abc"'), max_tokens=40)
    assert text_of(deltas) == "abc"
    assert (ended(deltas), deltas[-1].stop_token_id) == (FinishReason.STOP, None), "without an end token"


def test_an_output_that_may_end_does_so_by_the_end_token(tiny_llama: Path, load: Load) -> None:
    core = start(load, tiny_llama)
    bias = {EOS_ID: 100.0}
    deltas = one(core, grammar=regex("[a-z]+"), max_tokens=40, logit_bias=bias)
    assert len(tokens(deltas)) == 2, "the end token does not fit before the first letter"
    assert (ended(deltas), deltas[-1].stop_token_id) == (FinishReason.STOP, EOS_ID)
    kept = one(core, grammar=regex("[a-z]+"), max_tokens=7, logit_bias=bias, ignore_eos=True)
    assert re.fullmatch("[a-z]{7,}", text_of(kept))
    assert ended(kept) is FinishReason.LENGTH
    late = one(core, grammar=regex("[a-z]+"), max_tokens=40, logit_bias=bias, min_tokens=5)
    assert len(tokens(late)) == 6


def test_a_grammar_ends_before_min_tokens_if_it_must(tiny_llama: Path, load: Load) -> None:
    deltas = one(start(load, tiny_llama), grammar=lark('start: "ab"'), min_tokens=30, max_tokens=40)
    assert (text_of(deltas), ended(deltas)) == ("ab", FinishReason.STOP)


def test_max_tokens_cuts(tiny_llama: Path, load: Load) -> None:
    deltas = one(start(load, tiny_llama), grammar=regex("[a-z]{30}"), max_tokens=4)
    assert (len(tokens(deltas)), ended(deltas)) == (4, FinishReason.LENGTH)


def test_a_stop_token_still_stops(tiny_llama: Path, load: Load) -> None:
    a = 3 + CHARACTERS.index("a")
    deltas = one(start(load, tiny_llama), grammar=regex("ba{30}"), stop_token_ids=(a,), max_tokens=40)
    assert deltas[-1].stop_token_id == a


def test_log_probabilities_are_the_models_own(tiny_llama: Path, load: Load) -> None:
    deltas = one(start(load, tiny_llama), grammar=lark('start: "abc"'), logprobs=2, max_tokens=40)
    entries = [entry for delta in deltas for entry in delta.logprobs]
    assert [entry.token_id for entry in entries] == tokens(deltas)
    assert any(entry.token_id not in entry.top_token_ids for entry in entries)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('start: "a" missing', "unknown name"),
        ("start: /(/", "unclosed group"),
        ("", "no start"),
    ],
)
def test_a_wrong_grammar_ends_its_own_request_only(tiny_llama: Path, load: Load, grammar: str, message: str) -> None:
    core = start(load, tiny_llama)
    deltas = run(core, [make_request("bad", [5], grammar=lark(grammar)), make_request("good", [5], ignore_eos=True)])
    [failed] = deltas["bad"]
    assert (failed.finish_reason, failed.is_grammar_error) == (FinishReason.ERROR, True)
    assert message in (failed.error or "")
    assert len(tokens(deltas["good"])) == 16


def test_what_no_token_can_say_ends_with_an_error(tiny_llama: Path, load: Load) -> None:
    deltas = one(start(load, tiny_llama), grammar=lark('start: "aé"'))
    assert ended(deltas) is FinishReason.ERROR
    assert deltas[-1].is_grammar_error


def test_a_step_that_is_too_large_says_why(tiny_llama: Path, load: Load) -> None:
    deltas = one(start(load, tiny_llama), grammar=regex("(a{1000}){1000}"))
    assert ended(deltas) is FinishReason.ERROR
    assert "the grammar cannot go on: lexer error" in (deltas[-1].error or "")


def test_a_token_that_does_not_fit_says_so() -> None:
    tokenizer = build_tokenizer(TOKEN_BYTES, VOCAB_SIZE, [EOS_ID])
    with ThreadPoolExecutor(1) as threads:
        state = GrammarState(
            compile_grammar(tokenizer, regex("[ab]+")),
            threads,
            VOCAB_SIZE,
            token_bits([EOS_ID], VOCAB_SIZE + 1),
            keeps_eos_out=False,
        )
        fits, other = (TOKEN_BYTES.tokens.index(text) for text in (b"a", b"c"))
        assert state.advance(fits).error is None
        assert state.advance(other).error == "no token that the request allows fits its grammar"


def test_an_engine_that_knows_no_tokens_says_so(tiny_llama: Path, load: Load) -> None:
    deltas = one(load(tiny_llama), grammar=JSON)
    assert "what its tokens stand for" in (deltas[-1].error or "")


def test_a_request_can_be_aborted_at_any_time(tiny_llama: Path, load: Load) -> None:
    core = start(load, tiny_llama)
    core.add(make_request("waits", [5], grammar=JSON))
    assert core.has_requests
    [state] = core.request_states(["waits"])
    assert state.num_output_tokens == 0
    assert core.take_stats().num_waiting == 1
    assert core.abort("waits") is not None
    assert not core.has_requests
    core.add(make_request("runs", [5], grammar=JSON, max_tokens=40))
    while core.take_stats().generation_tokens < 2:
        core.step()
    assert core.abort("runs") is not None
    assert core.abort("runs") is None
    assert not core.has_requests


def test_allowed_tokens_and_a_grammar_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="cannot be used with a grammar"):
        make_request("r", [5], grammar=JSON, allowed_token_ids=(5,))


def test_a_vocabulary_without_an_end_token() -> None:
    tokenizer = build_tokenizer(TokenBytes([b"a", b"b"], []), 64, [])
    matcher = compile_grammar(tokenizer, lark("start: /a+/"))
    assert matcher.compute_bitmask()[0] & 3 == 1
    assert matcher.consume_token(0)
    assert not matcher.is_stopped()


def test_errors_are_short_and_tell_nothing_of_the_parser() -> None:
    tokenizer = build_tokenizer(TOKEN_BYTES, VOCAB_SIZE, [EOS_ID])
    with pytest.raises(GrammarError) as caught:
        compile_grammar(tokenizer, json.dumps({"grammars": [{"json_schema": {"type": "objekt" * 1000}}]}))
    assert len(str(caught.value)) <= 300
    assert "<state>" not in str(caught.value)
