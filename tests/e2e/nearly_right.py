"""Request bodies that are right, or right but for a field or two."""

from typing import Any

from hypothesis import strategies as st

MAX_TOKENS = 6
TEXT = st.text(st.sampled_from("ab e\n1é漢🌍<|>\x00\u2028"), max_size=12)
IDS = st.lists(st.integers(0, 49_151), min_size=1, max_size=8)
FRACTION = st.floats(0, 1, exclude_min=True)

COMMON: dict[str, st.SearchStrategy[Any]] = {
    "max_tokens": st.integers(1, MAX_TOKENS),
    "min_tokens": st.integers(0, 2),
    "temperature": st.sampled_from([0, 0.5, 1, 3.0]),
    "top_p": FRACTION,
    "top_k": st.sampled_from([-1, 0, 1, 5, 10**6]),
    "min_p": FRACTION,
    "repetition_penalty": st.floats(0.1, 3),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "logit_bias": st.dictionaries(IDS.map(lambda ids: str(ids[0])), st.floats(-100, 100), max_size=3),
    "stop": TEXT.filter(bool) | st.lists(TEXT.filter(bool), max_size=4),
    "stop_token_ids": st.lists(st.integers(0, 49_151), max_size=3),
    "include_stop_str_in_output": st.booleans(),
    "ignore_eos": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "bad_words": st.lists(TEXT.filter(bool), max_size=3),
    "allowed_token_ids": st.lists(st.integers(0, 60), min_size=1, max_size=20),
    "truncate_prompt_tokens": st.sampled_from([-1, 1, 3, 1000]),
    "return_token_ids": st.booleans(),
    "prompt_logprobs": st.integers(0, 3),
    "n": st.integers(1, 3),
    "priority": st.integers(-2, 2),
    "cache_salt": st.text(min_size=1, max_size=4),
    "kv_receipt": st.just(False),
    "user": TEXT,
    "metadata": st.dictionaries(TEXT, TEXT, max_size=2),
    "add_special_tokens": st.booleans(),
}
COMPLETION: dict[str, st.SearchStrategy[Any]] = {
    **COMMON,
    "logprobs": st.integers(0, 3),
    "echo": st.booleans(),
    "best_of": st.integers(1, 3),
}
CHAT: dict[str, st.SearchStrategy[Any]] = {
    **COMMON,
    "logprobs": st.just(True),
    "top_logprobs": st.integers(0, 3),
    "add_generation_prompt": st.booleans(),
    "continue_final_message": st.booleans(),
    "max_completion_tokens": st.integers(1, MAX_TOKENS),
}
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant"]), "content": TEXT}),
    min_size=1,
    max_size=3,
)
PROMPT = (
    TEXT.filter(bool)
    | IDS
    | st.lists(TEXT.filter(bool), min_size=1, max_size=3)
    | st.lists(IDS, min_size=1, max_size=3)
)
NUMBERS = [0, -1, 1.5, 10**30, -(10**400), 1e308]
TEXTS = ["", "x", "1", "\ud800", "\x1b[2J", "x" * 5000]
LISTS = [[], [[]], [None], [True], [1, "a"], [[1], "a"], ["x"] * 20]
JUNK = st.sampled_from([None, True, False, {}, {"a": 1}, {"1": None}, *NUMBERS, *TEXTS, *LISTS])
UNKNOWN = st.sampled_from(["temprature", "chat_template", "prompt_embeds", "x", "", "__class__", "messages[0]"])


@st.composite
def bodies(draw: st.DrawFn, path: str, max_num_wrong: int = 2) -> dict[str, Any]:
    """A body for the route; up to so many of its fields hold something else, or are none."""
    is_chat = path == "/v1/chat/completions"
    fields = CHAT if is_chat else COMPLETION
    chosen = draw(st.sets(st.sampled_from(sorted(fields)), max_size=8))
    body = {"model": "tiny", "max_tokens": MAX_TOKENS, **{name: draw(fields[name]) for name in sorted(chosen)}}
    body |= {"messages": draw(MESSAGES)} if is_chat else {"prompt": draw(PROMPT)}
    names = st.sampled_from(sorted({*fields, *body, "stream", "stream_options"})) | UNKNOWN
    return body | draw(st.dictionaries(names, JUNK, max_size=max_num_wrong))
