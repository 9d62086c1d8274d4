"""What the two generation routes share: from prompts to choices, from choices to a response."""

import math
import time
from collections.abc import Mapping
from typing import NamedTuple

from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from engine.errors import EngineError, RequestRefusedError
from engine.request import Request
from server.bad_words import spell_bad_words
from server.errors import APIError, error_of, invalid_request
from server.generation import Choice
from server.protocol.generation import GenerationBody
from server.request_id import engine_request_id, new_response_id
from server.salts import prefix_salt
from server.sampling import build_sampling_params
from server.served_model import ServedModel, ServerState
from server.streaming import EventStream, respond
from server.text_assembler import TextAssembler
from server.tracing import trace_choice
from server.writers.base import Writer

BYTES_PER_LOGPROB = 100
"""Of JSON, for one token with its text, its bytes and its number."""


class Wanted(NamedTuple):
    """What a route works out before its choices are made.

    Attributes:
        prompts: token ids of each prompt.
        max_tokens: for each prompt.
        logprobs: most probable tokens to list for output tokens; None: no log-probabilities.
        prompt_logprobs: the same for prompt tokens.
        names: what the request calls the fields that the engine knows by another name.
        grammar: that outputs must match; empty: anything.
        kept_token_ids: special tokens that are part of the text, whatever the request says of others.
    """

    prompts: list[list[int]]
    max_tokens: list[int]
    logprobs: int | None
    prompt_logprobs: int | None
    names: Mapping[str, str] = {}
    grammar: str = ""
    kept_token_ids: frozenset[int] = frozenset()


def check_body(body: GenerationBody, state: ServerState) -> None:
    """Compare fields with the server's limits and with each other.

    Raises:
        APIError: one is out of range (400).
    """
    limit, num_choices = state.http.max_num_choices, body.num_choices_per_prompt
    if num_choices > limit:
        name = "n" if num_choices == body.n else "best_of"
        raise invalid_request(f"{name} must be at most {limit}, got {num_choices}", code="invalid_value", param=name)
    if body.stream_options is not None and not body.stream:
        raise invalid_request(
            "stream_options is only allowed with stream: true", code="invalid_value", param="stream_options"
        )
    options = body.stream_options
    if body.kv_receipt and body.stream and not (options and (options.include_usage or options.continuous_usage_stats)):
        message = "kv_receipt is a part of usage: a stream tells it only with stream_options: {include_usage: true}"
        raise invalid_request(message, code="invalid_value", param="kv_receipt")


def check_logprobs_bytes(wanted: Wanted, num_choices: int, max_bytes: int) -> None:
    """Estimate what all log-probabilities of the response take.

    Raises:
        APIError: more than `max_bytes` (400).
    """
    num_entries = 0
    for prompt, max_tokens in zip(wanted.prompts, wanted.max_tokens, strict=True):
        num_entries += 0 if wanted.logprobs is None else max_tokens * (wanted.logprobs + 1)
        num_entries += 0 if wanted.prompt_logprobs is None else len(prompt) * (wanted.prompt_logprobs + 1)
    num_bytes = num_entries * num_choices * BYTES_PER_LOGPROB
    if num_bytes > max_bytes:
        param = "logprobs" if wanted.prompt_logprobs is None else "prompt_logprobs"
        message = f"the log-probabilities may take {max_bytes} bytes, and all that are asked for could take {num_bytes}"
        raise invalid_request(f"{message}: ask for fewer, or for fewer tokens", param=param)


def build_choices(
    http_request: HTTPRequest, body: GenerationBody, model: ServedModel, wanted: Wanted, *, id_prefix: str
) -> list[Choice]:
    """All choices of each prompt, in order; the engine has checked each, and has it in its queue.

    Args:
        http_request: says whose cached blocks may be shared.
        body: the request.
        model: runs it.
        wanted: what the route has worked out.
        id_prefix: of the response's id.

    Raises:
        APIError: a value is out of range.
        EngineError: the engine refuses a request, or is not there.
    """
    state: ServerState = http_request.app.state.server
    name, salt = new_response_id(id_prefix), prefix_salt(http_request, body.cache_salt)
    bad_words_token_ids = spell_bad_words(body.bad_words, model.tokenizer)
    choices: list[Choice] = []
    try:
        model.client.check_room(wanted.prompts, body.num_choices_per_prompt)
        check_logprobs_bytes(wanted, body.num_choices_per_prompt, state.http.max_logprobs_bytes)
        for prompt_idx, prompt_token_ids in enumerate(wanted.prompts):
            for choice_idx in range(body.num_choices_per_prompt):
                params = build_sampling_params(
                    body,
                    model.defaults,
                    max_tokens=wanted.max_tokens[prompt_idx],
                    logprobs=wanted.logprobs,
                    prompt_logprobs=wanted.prompt_logprobs,
                    choice_idx=choice_idx,
                    bad_words_token_ids=bad_words_token_ids,
                    grammar=wanted.grammar,
                )
                request = Request(
                    request_id=engine_request_id(name, len(choices)),
                    prompt_token_ids=prompt_token_ids,
                    sampling_params=params,
                    priority=body.priority,
                    arrival_time_s=time.time(),
                    timeout_s=min(body.timeout or math.inf, state.http.request_timeout_s),
                    cache_salt=salt,
                    enable_kv_receipt=body.kv_receipt,
                )
                trace = trace_choice(state.tracing, getattr(http_request.state, "span", None), model.name, request)
                assembler = _assembler(body, model, request, wanted)
                choices.append(Choice(len(choices), model, request, assembler, state.metrics, trace=trace))
    except (APIError, EngineError) as error:
        state.metrics.count_rejected(model.name, error_of(error).code)
        for choice in choices:
            choice.close()
        if isinstance(error, RequestRefusedError):
            param = wanted.names.get(error.param or "", error.param)
            raise RequestRefusedError(str(error), code=error.code, param=param) from None
        raise
    return choices


def truncate_prompt(prompt: list[int], body: GenerationBody, max_tokens: int | None, max_model_len: int) -> list[int]:
    """The end of a prompt that `truncate_prompt_tokens` asks for.

    Args:
        prompt: token ids.
        body: the request.
        max_tokens: as the request says, which must fit behind the prompt.
        max_model_len: of the model.
    """
    num_kept = body.truncate_prompt_tokens
    if num_kept is None:
        return prompt
    if num_kept == -1:
        num_kept = max(1, max_model_len - max(1, max_tokens or 0))
    return prompt[-num_kept:]


async def send(http_request: HTTPRequest, body: GenerationBody, writer: Writer) -> Response:
    """Run the writer's choices and answer, at once or as a stream."""
    state: ServerState = http_request.app.state.server
    if body.stream:
        return EventStream(writer, body.stream_options, state.http.keep_alive_interval_s)
    return await respond(http_request, writer)


def _assembler(body: GenerationBody, model: ServedModel, request: Request, wanted: Wanted) -> TextAssembler:
    return TextAssembler(
        model.tokenizer,
        request.prompt_token_ids,
        request.sampling_params,
        skip_special_tokens=body.skip_special_tokens,
        include_stop=body.include_stop_str_in_output,
        kept_token_ids=wanted.kept_token_ids,
    )
