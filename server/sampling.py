"""The wire's fields become the engine's SamplingParams."""

from engine.errors import EngineUnavailableError
from engine.info import EngineInfo
from engine.request import SamplingParams
from server.errors import MAX_ECHO_CHARS, invalid_request, printable
from server.protocol.generation import GenerationBody
from server.served_model import GenerationDefaults, ServedModel

SEED_LIMIT = 2**63


def build_sampling_params(
    body: GenerationBody,
    defaults: GenerationDefaults,
    *,
    max_tokens: int,
    logprobs: int | None,
    prompt_logprobs: int | None,
    choice_idx: int,
    bad_words_token_ids: tuple[tuple[int, ...], ...] = (),
    grammar: str = "",
) -> SamplingParams:
    """SamplingParams of one choice.

    Args:
        body: the request.
        defaults: the model's, for fields that are left out.
        max_tokens: already worked out.
        logprobs: for output tokens.
        prompt_logprobs: for prompt tokens.
        choice_idx: which of the n choices of its prompt; shifts the seed.
        bad_words_token_ids: `bad_words`, as the tokenizer spells them.
        grammar: that the output must match.

    Raises:
        APIError: a value is out of range (400, param names the field).
    """
    try:
        return SamplingParams(
            max_tokens=max_tokens,
            min_tokens=body.min_tokens,
            temperature=defaults.temperature if body.temperature is None else body.temperature,
            top_p=defaults.top_p if body.top_p is None else body.top_p,
            top_k=defaults.top_k if body.top_k is None else body.top_k,
            min_p=body.min_p,
            seed=None if body.seed is None else _shifted(body.seed, choice_idx),
            repetition_penalty=body.repetition_penalty,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias={int(token_id): bias for token_id, bias in (body.logit_bias or {}).items()},
            bad_words_token_ids=bad_words_token_ids,
            allowed_token_ids=tuple(body.allowed_token_ids or ()),
            grammar=grammar,
            stop=body.stop_strings,
            stop_token_ids=tuple(body.stop_token_ids),
            ignore_eos=body.ignore_eos,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
    except ValueError as error:
        # The message begins with the field's name, which is the wire's name too, and ends with what was given.
        problem, got, given = str(error).partition(", got ")
        message = problem + got + printable(given[:MAX_ECHO_CHARS])
        raise invalid_request(message, code="invalid_value", param=problem.split()[0]) from None


def ready_info(model: ServedModel) -> EngineInfo:
    """The facts of a model's engine, which must have been ready once.

    Raises:
        EngineUnavailableError: it is still loading, or cannot be loaded.
    """
    if model.client.info is None:
        message = model.client.failure or f"model {model.name!r} is still loading"
        raise EngineUnavailableError(message, retry_after_s=5.0)
    return model.client.info


def _shifted(seed: int, choice_idx: int) -> int:
    """Seed + choice_idx, wrapped at the ends of the 64-bit range; a seed outside it is left for SamplingParams."""
    if not -SEED_LIMIT <= seed < SEED_LIMIT:
        return seed
    return (seed + choice_idx + SEED_LIMIT) % (2 * SEED_LIMIT) - SEED_LIMIT
