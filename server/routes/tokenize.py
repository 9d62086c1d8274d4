"""POST /tokenize and POST /detokenize."""

import msgspec
from fastapi import APIRouter
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response

from server.chat import render
from server.chat_template import Conversation
from server.errors import invalid_request
from server.openapi import DETOKENIZE, TOKENIZE
from server.protocol.tokens import DetokenizeBody, Detokenized, TokenizeBody, Tokenized
from server.reply_plan import pick_template
from server.served_model import ServedModel, ServerState

router = APIRouter(tags=["tokens"])


@router.post("/tokenize", responses=TOKENIZE)
async def tokenize(body: TokenizeBody, http_request: HTTPRequest) -> Response:
    """Token ids of a text or of a conversation."""
    state: ServerState = http_request.app.state.server
    model = state.find(body.model)
    token_ids = await _encode(body, model, state)
    info = model.client.info
    return _json(
        Tokenized(
            count=len(token_ids),
            max_model_len=info.max_model_len if info else None,
            tokens=token_ids,
            token_strs=[model.tokenizer.token_text(i) for i in token_ids] if body.return_token_strs else None,
        )
    )


@router.post("/detokenize", responses=DETOKENIZE)
async def detokenize(body: DetokenizeBody, http_request: HTTPRequest) -> Response:
    """The text of token ids, special tokens included."""
    state: ServerState = http_request.app.state.server
    model = state.find(body.model)
    vocab_size = model.tokenizer.vocab_size
    if any(not 0 <= token_id < vocab_size for token_id in body.tokens):
        worst = next(token_id for token_id in body.tokens if not 0 <= token_id < vocab_size)
        message = f"tokens must be 0 to {vocab_size - 1}, got {worst}"
        raise invalid_request(message, code="invalid_value", param="tokens")
    return _json(Detokenized(model.tokenizer.decode(body.tokens, skip_special_tokens=False)))


async def _encode(body: TokenizeBody, model: ServedModel, state: ServerState) -> list[int]:
    add_special_tokens = body.add_special_tokens
    texts, default = [body.prompt or ""], True
    if body.messages is not None:
        messages = [message.as_template_input() for message in body.messages]
        conversation = Conversation(messages=messages, add_generation_prompt=body.add_generation_prompt)
        template = pick_template(model, has_tools=False)
        texts, default = [await render(state.template_process, template, conversation)], False
    if add_special_tokens is None:
        add_special_tokens = default
    [token_ids] = await model.tokenizer.encode_async(texts, add_special_tokens=add_special_tokens)
    return token_ids


def _json(content: Tokenized | Detokenized) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
