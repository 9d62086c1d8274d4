"""The plain data that travels through the engine and, as msgpack, between processes.

The three counts of a request in one step (fixed here once, used everywhere):

    |<------------------- seq_len --------------------->|
    |<- context_len ->|<---------- query_len ---------->|
      KV valid before    computed in this step

`num_computed_tokens` and `num_scheduled_tokens` are the scheduler's names of context_len and query_len.
"""

import enum
import math

import msgspec

MAX_LOGPROBS = 20
MAX_LOGPROB_ROWS = 256
"""Prompt positions whose logits exist at the same time: at a vocabulary of 128k a row takes half a megabyte."""
MAX_STOP_STRINGS = 16
MAX_BAD_WORDS = 256
"""Sequences of tokens: a word may have several spellings."""
MAX_BAD_WORD_TOKENS = 512
MAX_ALLOWED_TOKEN_IDS = 1024
MAX_LOGIT_BIASES = 1024
"""Every step brings them to the device anew."""


class FinishReason(enum.StrEnum):
    """Why a request ended. Every accepted request ends in exactly one."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class RequestStatus(enum.StrEnum):
    """Where a request is."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How output tokens are chosen. Out-of-range values raise ValueError when the object is made."""

    max_tokens: int = 16
    """Output tokens at most; 0 computes the prompt only (for its logprobs)."""
    min_tokens: int = 0
    """End-of-sequence and stop tokens are masked until this many tokens are out."""
    temperature: float = 1.0
    """0 is greedy: always the most probable token."""
    top_p: float = 1.0
    """Smallest set of most probable tokens whose probabilities sum to at least this."""
    top_k: int = 0
    """Only the k most probable tokens; 0 (or -1): all."""
    min_p: float = 0.0
    """Only tokens at least this times as probable as the most probable one."""
    seed: int | None = None
    """The same seed gives the same tokens, whatever else is in the batch. None: the engine draws one."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens seen in prompt or output (Keskar et al. 2019, 4.1)."""
    presence_penalty: float = 0.0
    """Subtracted from the logit of every token that is in the output."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once for each time it is in the output."""
    logit_bias: dict[int, float] = {}
    """Token id -> number added to its logit."""
    grammar: str = ""
    """What the output must match, see engine/grammar.py; empty: anything."""
    bad_words_token_ids: tuple[tuple[int, ...], ...] = ()
    """Sequences of tokens that the output must not hold: the last one is kept out where the others came before it."""
    allowed_token_ids: tuple[int, ...] = ()
    """Only these come out; none: all may."""
    stop: tuple[str, ...] = ()
    """Texts that end the output. The text layer above the engine matches them; the engine gets ids only."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end the output, beside the model's own end-of-sequence tokens."""
    ignore_eos: bool = False
    """Go on past the model's end-of-sequence tokens."""
    logprobs: int | None = None
    """For each output token its log-probability and those of this many most probable tokens."""
    prompt_logprobs: int | None = None
    """The same for each prompt token but the first."""

    def __post_init__(self) -> None:
        for name, problem in _out_of_range(self):
            raise ValueError(f"{name} {problem}, got {getattr(self, name)!r}")


def _out_of_range(params: SamplingParams) -> list[tuple[str, str]]:
    """All fields of `params` that are out of range, each with what it must be."""
    finite = [params.temperature, params.repetition_penalty, params.presence_penalty, params.frequency_penalty]
    checks = [
        ("max_tokens", params.max_tokens >= 0, "must be at least 0"),
        ("min_tokens", 0 <= params.min_tokens <= params.max_tokens, f"must be 0 to max_tokens ({params.max_tokens})"),
        ("temperature", params.temperature >= 0 and math.isfinite(finite[0]), "must be a number of at least 0"),
        ("top_p", 0 < params.top_p <= 1, "must be more than 0 and at most 1"),
        ("top_k", -1 <= params.top_k < 2**31, "must be 1 to 2**31 - 1, or 0 for no limit"),
        ("min_p", 0 <= params.min_p <= 1, "must be 0 to 1"),
        ("seed", params.seed is None or -(2**63) <= params.seed < 2**63, "must fit in 64 bits"),
        ("repetition_penalty", params.repetition_penalty > 0 and math.isfinite(finite[1]), "must be more than 0"),
        ("presence_penalty", -2 <= params.presence_penalty <= 2, "must be -2 to 2"),
        ("frequency_penalty", -2 <= params.frequency_penalty <= 2, "must be -2 to 2"),
        ("logit_bias", all(-100 <= v <= 100 for v in params.logit_bias.values()), "must hold values from -100 to 100"),
        *_mask_checks(params),
        ("logit_bias", len(params.logit_bias) <= MAX_LOGIT_BIASES, f"must hold at most {MAX_LOGIT_BIASES} tokens"),
        ("stop", len(params.stop) <= MAX_STOP_STRINGS, f"must hold at most {MAX_STOP_STRINGS} strings"),
        ("stop", all(params.stop), "must hold no empty string"),
        ("logprobs", params.logprobs is None or 0 <= params.logprobs <= MAX_LOGPROBS, f"must be 0 to {MAX_LOGPROBS}"),
        (
            "prompt_logprobs",
            params.prompt_logprobs is None or 0 <= params.prompt_logprobs <= MAX_LOGPROBS,
            f"must be 0 to {MAX_LOGPROBS}",
        ),
    ]
    return [(name, problem) for name, holds, problem in checks if not holds]


def _mask_checks(params: SamplingParams) -> list[tuple[str, bool, str]]:
    allowed, bad_words = params.allowed_token_ids, params.bad_words_token_ids
    banned = {word[0] for word in bad_words if len(word) == 1}
    return [
        ("allowed_token_ids", len(allowed) <= MAX_ALLOWED_TOKEN_IDS, f"must hold at most {MAX_ALLOWED_TOKEN_IDS} ids"),
        ("allowed_token_ids", not allowed or bool(set(allowed) - banned), "must hold more than bad words"),
        ("allowed_token_ids", not (allowed and params.grammar), "cannot be used with a grammar, which says the same"),
        ("bad_words_token_ids", len(bad_words) <= MAX_BAD_WORDS, f"must hold at most {MAX_BAD_WORDS} words"),
        (
            "bad_words_token_ids",
            all(1 <= len(word) <= MAX_BAD_WORD_TOKENS for word in bad_words),
            f"must hold words of 1 to {MAX_BAD_WORD_TOKENS} tokens",
        ),
    ]


class Request(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One prompt on its way to its output. The last group of fields is the engine's; a client leaves it alone."""

    request_id: str
    prompt_token_ids: list[int]
    sampling_params: SamplingParams
    priority: int = 0
    """Lower runs earlier; equal priorities run in order of arrival."""
    arrival_time_s: float = 0.0
    """time.time() at which the server took it."""
    timeout_s: float | None = None
    """Seconds after which the client ends it, finished or not."""
    cache_salt: str = ""
    """Only requests with the same salt share blocks."""
    enable_kv_receipt: bool = False
    """Put a KVReceipt into every delta."""

    status: RequestStatus = RequestStatus.WAITING
    output_token_ids: list[int] = []
    num_pending_tokens: int = 0
    """Output tokens that steps have sampled whose results are not read yet: their ids are on the device only."""
    num_computed_tokens: int = 0
    """Tokens whose KV is valid once the steps that are launched have run."""
    num_cached_tokens: int = 0
    """Of those, found in the prefix cache when the request was first scheduled."""
    scheduled_time_s: float = 0.0
    """time.time() at which its first step was planned."""
    num_counted_prompt_tokens: int = 0
    """Prompt tokens that the stats know of: a recomputation after preemption does not count them again."""
    num_peak_blocks: int = 0
    """Most blocks that it held in a step so far."""
    num_preemptions: int = 0
    num_reported_prompt_logprobs: int = 0
    """Prompt positions whose log-probabilities are out; a recomputation after preemption does not repeat them."""

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        return len(self.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        """Output tokens so far, pending ones included."""
        return len(self.output_token_ids) + self.num_pending_tokens

    @property
    def num_tokens(self) -> int:
        """Prompt and output tokens so far, pending ones included."""
        return len(self.prompt_token_ids) + self.num_output_tokens

    @property
    def num_known_tokens(self) -> int:
        """Prompt and output tokens whose ids are here."""
        return len(self.prompt_token_ids) + len(self.output_token_ids)

    @property
    def is_ending(self) -> bool:
        """Its last token is pending, whatever that is: nothing is left to compute."""
        return self.num_pending_tokens > 0 and self.num_output_tokens >= self.sampling_params.max_tokens

    @property
    def awaits_token(self) -> bool:
        """Its next token depends on one that is pending: a grammar has to read that first."""
        return self.num_pending_tokens > 0 and bool(self.sampling_params.grammar)

    def token_ids(self, start: int, stop: int) -> list[int]:
        """Token ids at positions [start, stop) of prompt followed by output, as far as they are known."""
        num_prompt = self.num_prompt_tokens
        if stop <= num_prompt:
            return self.prompt_token_ids[start:stop]
        output = self.output_token_ids[max(0, start - num_prompt) : stop - num_prompt]
        return self.prompt_token_ids[start:num_prompt] + output if start < num_prompt else output


class ScheduledRequest(msgspec.Struct, frozen=True):
    """One request's part in a step. What it derives from the request holds until the core has booked the step."""

    request: Request
    num_computed_tokens: int
    num_scheduled_tokens: int
    block_tables: list[list[int]]
    """A group of layers each; see kvcache/manager.py."""

    @property
    def seq_len(self) -> int:
        """Tokens with valid KV after this step."""
        return self.num_computed_tokens + self.num_scheduled_tokens

    @property
    def samples(self) -> bool:
        """True where this step ends with the newest token, so that the next one is sampled."""
        return self.seq_len == self.request.num_tokens

    @property
    def has_pending_token(self) -> bool:
        """True where the last token of this step is pending."""
        return self.seq_len > self.request.num_known_tokens

    @property
    def reported_places(self) -> range:
        """Prompt positions whose successors' log-probabilities this step gives, where they are asked for."""
        if self.request.sampling_params.prompt_logprobs is None:
            return range(0)
        first = max(self.num_computed_tokens, self.request.num_reported_prompt_logprobs)
        return range(first, max(first, min(self.seq_len, self.request.num_prompt_tokens - 1)))


class ScheduledBatch(msgspec.Struct, frozen=True):
    """What one step computes."""

    scheduled: list[ScheduledRequest]

    @property
    def num_tokens(self) -> int:
        """Tokens computed in this step, over all requests."""
        return sum(item.num_scheduled_tokens for item in self.scheduled)


class TokenLogprobs(msgspec.Struct, frozen=True, omit_defaults=True):
    """Log-probabilities at one position, from the model's own distribution (before temperature and penalties)."""

    token_id: int
    logprob: float
    top_token_ids: list[int] = []
    top_logprobs: list[float] = []


class KVReceipt(msgspec.Struct, frozen=True):
    """What a request holds of the KV cache."""

    num_blocks: int = 0
    """Shared ones included."""
    num_peak_blocks: int = 0
    """Most that it held in a step so far."""
    num_tokens: int = 0
    """Whose KV is valid."""
    num_wasted_slots: int = 0
    """Slots of its last block that hold no token; each group of layers has such a block."""


class TokenDelta(msgspec.Struct, omit_defaults=True):
    """What one step adds to one request; the last one carries the finish reason."""

    request_id: str
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    """One per token id, where asked for."""
    prompt_logprobs: list[TokenLogprobs] = []
    """Prompt positions 1, 2, … as they are computed (chunk by chunk), where asked for."""
    num_cached_tokens: int = 0
    scheduled_time_s: float | None = None
    """With the first token: when the request's first step was planned."""
    kv_receipt: KVReceipt | None = None
    """As of this delta, where asked for: a stop string ends a request in the server, which the engine learns too late."""
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    """The stop token that ended it (it is the last of `token_ids`)."""
    error: str | None = None
    """With FinishReason.ERROR: what went wrong, fit for a client's eyes."""
    error_code: str | None = None
    """Where the client ended it before its time: `deadline_exceeded`, `slow_reader`."""
    is_engine_lost: bool = False
    """With FinishReason.ERROR: the whole engine ended, not only this request."""
    is_grammar_error: bool = False
    """With FinishReason.ERROR: the request's grammar is at fault."""
