"""POST /v1/completions."""

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from server.errors import invalid_request
from server.openapi import COMPLETIONS
from server.protocol.completions import CompletionBody
from server.routes.generation import Wanted, build_choices, check_body, send
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
    info = ready_info(model)
    prompts = await _encode_prompts(body, model, state.http.max_num_prompts)
    _check_max_tokens(body)
    max_tokens = [_max_tokens(body, len(prompt), info.max_model_len) for prompt in prompts]
    wanted = Wanted(prompts, max_tokens, body.logprobs, _prompt_logprobs(body))
    echoes = _echoes(body, model, prompts)
    choices = build_choices(http_request, body, model, wanted, id_prefix="cmpl")
    writer = CompletionWriter(
        model,
        choices,
        num_choices_per_prompt=body.n,
        num_prompt_top=body.prompt_logprobs,
        echoes=echoes,
        skip_special_tokens=body.skip_special_tokens,
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
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if texts:
        return await model.tokenizer.encode_async(texts, add_special_tokens=body.add_special_tokens)
    return [prompt for prompt in prompts if not isinstance(prompt, str)]


def _max_tokens(body: CompletionBody, num_prompt_tokens: int, max_model_len: int) -> int:
    """What the request says; where it says nothing 16, or what is left of the context if that is less."""
    if body.max_tokens is not None:
        return body.max_tokens
    return max(1, min(DEFAULT_MAX_TOKENS, max_model_len - num_prompt_tokens))


def _check_max_tokens(body: CompletionBody) -> None:
    """0 output tokens make sense only where the prompt itself is asked for.

    Raises:
        APIError: nothing is asked for (400).
    """
    if body.max_tokens == 0 and not body.echo and body.prompt_logprobs is None:
        raise invalid_request(
            "max_tokens must be at least 1 (0 only with echo or prompt_logprobs), got 0",
            code="invalid_value",
            param="max_tokens",
        )


def _prompt_logprobs(body: CompletionBody) -> int | None:
    """Most probable tokens to compute at each prompt place: for `prompt_logprobs`, and for `echo` with `logprobs`."""
    wanted = [body.prompt_logprobs, body.logprobs if body.echo else None]
    return max((number for number in wanted if number is not None), default=None)


def _echoes(body: CompletionBody, model: ServedModel, prompts: list[list[int]]) -> dict[int, str]:
    """The prompt's text by choice index, where it is to be echoed."""
    if not body.echo:
        return {}
    skip = body.skip_special_tokens
    texts = [
        prompt if isinstance(prompt, str) else model.tokenizer.decode(token_ids, skip_special_tokens=skip)
        for prompt, token_ids in zip(body.prompts, prompts, strict=True)
    ]
    return {prompt_idx * body.n + i: text for prompt_idx, text in enumerate(texts) for i in range(body.n)}
