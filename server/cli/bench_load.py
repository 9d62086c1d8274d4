"""The load that `headcount bench` puts a server under, and what counts as served well."""

import random
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import Group, Parameter
from pydantic import Field, field_validator, model_validator

from configs.base import Settings
from server.load.prompts import draw_prompts

OBJECTIVES = ("ttft", "itl", "tpot", "e2e")
OPEN_LOOP_S = 30.0
"""How long requests keep arriving where nobody says how many there are."""
FEWEST_REQUESTS = 8

Body = dict[str, Any]


@Parameter(name="*", group=Group.create_ordered("Load"))
class LoadOptions(Settings):
    """The load that a server is put under."""

    concurrency: Annotated[tuple[int, ...], Parameter(negative="")] = (1, 8)
    """Closed loop: requests kept running at once; 1,8,32 measures one after the other."""

    request_rate: Annotated[tuple[float, ...], Parameter(negative="")] = ()
    """Open loop instead: requests a second, arriving at random (Poisson) whether or not earlier ones have ended; 1,2,4 measures one after the other."""

    num_requests: int | None = Field(default=None, ge=1)
    """Requests of each concurrency or rate. Unset: four times the concurrency, or what arrives in 30 s; at least 8."""

    prompt_tokens: int = Field(default=128, ge=1)
    """Tokens of each prompt. Every prompt is another one, so that no prefix is found in the cache."""

    min_prompt_tokens: int | None = Field(default=None, ge=1)
    """Draw the length of each prompt between this and --prompt-tokens. Unset: all have --prompt-tokens."""

    max_tokens: int = Field(default=64, ge=1)
    """Tokens of each answer: exactly these, an end-of-sequence token does not end it."""

    slo: str | None = None
    """Service level objective, such as ttft=0.5,itl=0.05 (seconds; ttft, itl, tpot, e2e): count the requests that meet all of it. itl is a request's longest gap, tpot its mean one."""

    seed: int = 0
    """The same seed draws the same prompts and arrivals."""

    @field_validator("concurrency", "request_rate", mode="before")
    @classmethod
    def _split(cls, given: object) -> object:
        parts = given if isinstance(given, tuple | list) else [given]
        return tuple(number for part in parts for number in str(part).split(","))

    @field_validator("concurrency")
    @classmethod
    def _at_least_one(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if not given or min(given) < 1:
            raise ValueError(f"must hold numbers of at least 1, got {','.join(map(str, given))}")
        return given

    @field_validator("request_rate")
    @classmethod
    def _positive(cls, given: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < rate < float("inf") for rate in given):
            raise ValueError(f"must hold finite numbers above 0, got {','.join(map(str, given))}")
        return given

    @field_validator("slo")
    @classmethod
    def _readable(cls, given: str | None) -> str | None:
        parse_slo(given)
        return given

    @model_validator(mode="after")
    def _ordered(self) -> "LoadOptions":
        if self.min_prompt_tokens and self.min_prompt_tokens > self.prompt_tokens:
            raise ValueError(
                f"--min-prompt-tokens must be at most --prompt-tokens ({self.prompt_tokens}), got {self.min_prompt_tokens}"
            )
        return self

    @property
    def objectives_s(self) -> dict[str, float]:
        """Objective -> the most seconds that it allows; empty without an SLO."""
        return parse_slo(self.slo)

    def requests_at(self, concurrency: int) -> int:
        """Requests to send while `concurrency` of them run at once."""
        return self.num_requests or max(FEWEST_REQUESTS, 4 * concurrency)

    def requests_of_rate(self, rate: float) -> int:
        """Requests to send at `rate` requests a second."""
        return self.num_requests or max(FEWEST_REQUESTS, round(OPEN_LOOP_S * rate))

    def arrivals_s(self, rate: float) -> list[float]:
        """When each request is due, in seconds from the start: a Poisson process, so gaps are exponential."""
        draw, now_s, times_s = random.Random(self.seed), 0.0, []  # noqa: S311  arrivals are no secret
        for _ in range(self.requests_of_rate(rate)):
            times_s.append(now_s)
            now_s += draw.expovariate(rate)
        return times_s

    def bodies(self, model: str, token_ids: list[int]) -> Iterator[Body]:
        """Completion requests without end, each with a prompt of its own, drawn from `token_ids`."""
        shortest = self.min_prompt_tokens or self.prompt_tokens
        for prompt in draw_prompts(token_ids, shortest, self.prompt_tokens, self.seed):
            yield {
                "model": model,
                "prompt": prompt,
                "max_tokens": self.max_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }


def parse_slo(text: str | None) -> dict[str, float]:
    """`ttft=0.5,itl=0.05` as {"ttft": 0.5, "itl": 0.05}.

    Raises:
        ValueError: an objective is unknown, named twice, or no positive number of seconds.
    """
    objectives: dict[str, float] = {}
    for part in text.split(",") if text is not None else []:
        name, _, number = part.strip().partition("=")
        if name not in OBJECTIVES or name in objectives:
            raise ValueError(f"must name each of {', '.join(OBJECTIVES)} at most once, such as ttft=0.5; got {part!r}")
        objectives[name] = _seconds(number, part)
    return objectives


def _seconds(number: str, part: str) -> float:
    try:
        seconds = float(number)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"must give a positive number of seconds, such as ttft=0.5; got {part!r}")
    return seconds
