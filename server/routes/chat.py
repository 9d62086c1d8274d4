"""POST /v1/chat/completions."""

from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from server.chat import render
from server.chat_template import Conversation
from server.errors import invalid_request
from server.openapi import CHAT_COMPLETIONS
from server.protocol.chat import ChatBody
from server.reply_plan import ReplyPlan
from server.routes.generation import Wanted, build_choices, check_body, send, truncate_prompt
from server.sampling import ready_info
from server.served_model import ServerState
from server.writers.chat import ChatWriter

router = APIRouter(tags=["generation"])


@router.post("/v1/chat/completions", responses=CHAT_COMPLETIONS)
async def create_chat_completion(body: ChatBody, http_request: HTTPRequest) -> Response:
    """Answer a conversation."""
    state: ServerState = http_request.app.state.server
    model = state.find(body.model)
    check_body(body, state)
    _check_combinations(body)
    info = ready_info(model)
    plan = ReplyPlan(body, model)
    text = await render(state.template_process, plan.template, _conversation(body, plan))
    grammar = plan.grammar(text)
    await state.grammars.check(grammar, model.name, model.tokenizer, info)
    [prompt] = await model.tokenizer.encode_async([text], add_special_tokens=body.add_special_tokens, param="messages")
    prompt = truncate_prompt(prompt, body, _stated_max_tokens(body), info.max_model_len)
    logprobs = (body.top_logprobs or 0) if body.logprobs else None
    max_tokens = _max_tokens(body, len(prompt), info.max_model_len)
    names = {"prompt": "messages", "max_tokens": _length_field(body)}
    wanted = Wanted(
        [prompt], [max_tokens], logprobs, body.prompt_logprobs, names, grammar.text, kept_token_ids=plan.kept_token_ids
    )
    choices = build_choices(http_request, body, model, wanted, id_prefix="chatcmpl")
    writer = ChatWriter(
        model,
        choices,
        num_choices_per_prompt=body.n,
        num_prompt_top=body.prompt_logprobs,
        returns_token_ids=body.return_token_ids,
        reply_format=plan.reply_format(text),
    )
    return await send(http_request, body, writer)


def _conversation(body: ChatBody, plan: ReplyPlan) -> Conversation:
    return Conversation(
        messages=[message.as_template_input() for message in body.messages],
        tools=plan.tools,
        variables=body.template_variables,
        add_generation_prompt=body.add_generation_prompt,
        continue_final_message=body.continue_final_message,
    )


def _check_combinations(body: ChatBody) -> None:
    """Fields that only make sense together.

    Raises:
        APIError: they contradict each other (400).
    """
    problems = {
        "top_logprobs": body.top_logprobs is not None and not body.logprobs,
        "max_completion_tokens": body.max_completion_tokens is not None
        and body.max_tokens not in (None, body.max_completion_tokens),
        "continue_final_message": body.continue_final_message and body.add_generation_prompt,
    }
    remedies = {
        "top_logprobs": "top_logprobs needs logprobs: true",
        "max_completion_tokens": "max_completion_tokens and max_tokens say different things; give one",
        "continue_final_message": "continue_final_message needs add_generation_prompt: false",
    }
    for param, is_wrong in problems.items():
        if is_wrong:
            raise invalid_request(remedies[param], code="invalid_value", param=param)


def _max_tokens(body: ChatBody, num_prompt_tokens: int, max_model_len: int) -> int:
    """What the request says, else all that is left of the context.

    Raises:
        APIError: nothing is left (400).
    """
    wanted = _stated_max_tokens(body)
    if wanted == 0:
        name = _length_field(body)
        raise invalid_request(f"{name} must be at least 1, got 0", code="invalid_value", param=name)
    if wanted is not None:
        return wanted
    if num_prompt_tokens >= max_model_len:
        raise invalid_request(
            f"the context holds {max_model_len} tokens, but the messages take {num_prompt_tokens}: shorten them",
            code="context_length_exceeded",
            param="messages",
        )
    return max_model_len - num_prompt_tokens


def _stated_max_tokens(body: ChatBody) -> int | None:
    return body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens


def _length_field(body: ChatBody) -> str:
    """The name under which the request says how long the answer may be."""
    return "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
