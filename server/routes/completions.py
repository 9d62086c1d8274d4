"""POST /v1/completions."""

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from server.errors import invalid_request
from server.infill import encode_infill
from server.openapi import COMPLETIONS
from server.output_grammar import wanted_output
from server.protocol.completions import CompletionBody
from server.reply_plan import completion_grammar
from server.routes.generation import Wanted, build_choices, check_body, send, truncate_prompt
from server.sampling import ready_info
from server.served_model import ServedModel, ServerState
from server.writers.completions import CompletionWriter

router = APIRouter(tags=["generation"])

DEFAULT_MAX_TOKENS = 16


@router.post("/v1/completions", responses=COMPLETIONS)
async def create_completion(body: CompletionBody, http_request: HTTPRequest) -> Response:
    """Go on with a text, or with several."""
    state: ServerState = http_request.app.state.server
    model = state.find(body.model)
    check_body(body, state)
    _check_combinations(body)
    info = ready_info(model)
    whole_prompts = await _encode_prompts(body, model, state.http.max_num_prompts)
    prompts = [truncate_prompt(prompt, body, body.max_tokens, info.max_model_len) for prompt in whole_prompts]
    max_tokens = [_max_tokens(body, len(prompt), info.max_model_len) for prompt in prompts]
    grammar = completion_grammar(wanted_output(body))
    await state.grammars.check(grammar, model.name, model.tokenizer, info)
    wanted = Wanted(prompts, max_tokens, _logprobs(body), _prompt_logprobs(body), grammar=grammar.text)
    echoes = _echoes(body, model, prompts)
    choices = build_choices(http_request, body, model, wanted, id_prefix="cmpl")
    writer = CompletionWriter(
        model,
        choices,
        num_choices_per_prompt=body.num_choices_per_prompt,
        num_kept_per_prompt=body.n,
        num_top=body.logprobs,
        num_prompt_top=body.prompt_logprobs,
        echoes=echoes,
        skip_special_tokens=body.skip_special_tokens,
        returns_token_ids=body.return_token_ids,
    )
    return await send(http_request, body, writer)


async def _encode_prompts(body: CompletionBody, model: ServedModel, max_num_prompts: int) -> list[list[int]]:
    """Token ids of every prompt.

    Raises:
        APIError: there is none, or there are too many (400).
    """
    prompts = body.prompts
    if not 1 <= len(prompts) <= max_num_prompts:
        message = f"prompt must hold 1 to {max_num_prompts} prompts, got {len(prompts)}"
        raise invalid_request(message, code="invalid_value", param="prompt")
    if body.suffix is not None:
        add = body.add_special_tokens
        return [await encode_infill(model.tokenizer, p, body.suffix, add_special_tokens=add) for p in prompts]
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if texts:
        return await model.tokenizer.encode_async(texts, add_special_tokens=body.add_special_tokens)
    return [prompt for prompt in prompts if not isinstance(prompt, str)]


def _max_tokens(body: CompletionBody, num_prompt_tokens: int, max_model_len: int) -> int:
    """What the request says; where it says nothing 16, or what is left of the context if that is less."""
    if body.max_tokens is not None:
        return body.max_tokens
    return max(1, min(DEFAULT_MAX_TOKENS, max_model_len - num_prompt_tokens))


def _check_combinations(body: CompletionBody) -> None:
    """Fields that only make sense together.

    Raises:
        APIError: they contradict each other, or ask for nothing (400).
    """
    num_choices = body.num_choices_per_prompt
    problems = {
        "max_tokens": body.max_tokens == 0 and not body.echo and body.prompt_logprobs is None,
        "best_of": num_choices < body.n or (body.stream and num_choices > body.n),
        "suffix": body.suffix is not None and body.echo,
    }
    remedies = {
        "max_tokens": "max_tokens must be at least 1 (0 only with echo or prompt_logprobs), got 0",
        "best_of": f"best_of must be at least n ({body.n}), and n itself in a stream, got {num_choices}",
        "suffix": "suffix is not allowed with echo: the prompt would be told without the text behind the gap",
    }
    for param, is_wrong in problems.items():
        if is_wrong:
            raise invalid_request(remedies[param], code="invalid_value", param=param)


def _logprobs(body: CompletionBody) -> int | None:
    """Most probable tokens to compute at each output place; the best choices are found by log-probabilities too."""
    return 0 if body.logprobs is None and body.num_choices_per_prompt > body.n else body.logprobs


def _prompt_logprobs(body: CompletionBody) -> int | None:
    """Most probable tokens to compute at each prompt place: for `prompt_logprobs`, and for `echo` with `logprobs`."""
    wanted = [body.prompt_logprobs, body.logprobs if body.echo else None]
    return max((number for number in wanted if number is not None), default=None)


def _echoes(body: CompletionBody, model: ServedModel, prompts: list[list[int]]) -> dict[int, str]:
    """The prompt's text by choice index, where it is to be echoed."""
    if not body.echo:
        return {}
    skip, is_whole = body.skip_special_tokens, body.truncate_prompt_tokens is None
    texts = [
        prompt if isinstance(prompt, str) and is_whole else model.tokenizer.decode(token_ids, skip_special_tokens=skip)
        for prompt, token_ids in zip(body.prompts, prompts, strict=True)
    ]
    num = body.num_choices_per_prompt
    return {prompt_idx * num + i: text for prompt_idx, text in enumerate(texts) for i in range(num)}
