"""Which requests can never run: checked before a request is queued, by whoever queues it. No torch."""

from engine.errors import RequestRefusedError
from engine.info import EngineInfo
from engine.request import Request, SamplingParams


def check_request(request: Request, info: EngineInfo) -> None:
    """Compare a request with the engine's limits.

    Raises:
        RequestRefusedError: it is empty, has a token id out of range, or does not fit the context or the KV pool.
    """
    num_prompt_tokens, params = request.num_prompt_tokens, request.sampling_params
    if num_prompt_tokens == 0:
        raise RequestRefusedError(
            "the prompt must hold at least 1 token, got none", code="invalid_value", param="prompt"
        )
    check_token_ids("prompt", request.prompt_token_ids, info)
    check_token_ids("logit_bias", list(params.logit_bias), info)
    check_token_ids("stop_token_ids", list(params.stop_token_ids), info)
    check_token_ids("allowed_token_ids", list(params.allowed_token_ids), info)
    for word in params.bad_words_token_ids:
        check_token_ids("bad_words", list(word), info)
    _check_min_tokens(params, info)
    _check_length(num_prompt_tokens, params.max_tokens, info)


def _check_min_tokens(params: SamplingParams, info: EngineInfo) -> None:
    """Before min_tokens no token that ends the output may come out: others must be allowed."""
    others = set(params.allowed_token_ids) - {*info.eos_token_ids, *params.stop_token_ids}
    if params.min_tokens and params.allowed_token_ids and not others:
        raise RequestRefusedError(
            f"allowed_token_ids holds only tokens that end the output, but min_tokens is {params.min_tokens}: allow"
            " others, or lower min_tokens",
            code="invalid_value",
            param="allowed_token_ids",
        )


def _check_length(num_prompt_tokens: int, max_tokens: int, info: EngineInfo) -> None:
    num_tokens = num_prompt_tokens + max_tokens
    if num_tokens <= info.max_model_len:
        return
    wanted = f"the prompt has {num_prompt_tokens} and max_tokens is {max_tokens}: {num_tokens} together"
    param = "prompt" if num_prompt_tokens >= info.max_model_len else "max_tokens"
    if num_tokens <= info.longest_context:
        pool_bytes = info.num_blocks * info.geometry.bytes_per_block
        raise RequestRefusedError(
            f"the KV cache of {pool_bytes} bytes holds a context of {info.max_model_len} tokens, but {wanted}"
            f" ({info.geometry.bytes_per_request(num_tokens)} bytes); shorten the prompt or lower max_tokens",
            code="kv_capacity_exceeded",
            param=param,
        )
    raise RequestRefusedError(
        f"the context holds {info.max_model_len} tokens, but {wanted}; shorten the prompt or lower max_tokens",
        code="context_length_exceeded",
        param=param,
    )


def check_token_ids(param: str, token_ids: list[int], info: EngineInfo) -> None:
    """Compare ids with the model's vocabulary; `param` is the request's field that they come from.

    Raises:
        RequestRefusedError: one is not in it.
    """
    for token_id in token_ids:
        if not 0 <= token_id < info.vocab_size:
            raise RequestRefusedError(
                f"{param}: token ids must be 0 to {info.vocab_size - 1}, got {token_id}",
                code="invalid_value",
                param=param,
            )
