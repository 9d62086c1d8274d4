"""Sums load up: throughput, percentiles, goodput."""

from collections.abc import Sequence

import msgspec

from server.load.times import LevelTimes

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


class Goodput(msgspec.Struct, frozen=True):
    """How many requests met the service level objective.

    Attributes:
        objectives_s: objective -> the most seconds that it allows.
        share: of all requests that were sent; one that failed did not meet it.
        requests_per_s: that met it.
    """

    objectives_s: dict[str, float]
    num_requests: int
    share: float
    requests_per_s: float


class LevelReport(msgspec.Struct, frozen=True):
    """One concurrency or rate, summed up. Latencies map p50, p90, p95 and p99 to seconds.

    Attributes:
        ttft_s: time to first token.
        itl_s: gaps between the pieces of an answer, all requests' together.
        tpot_s: mean time of a token after the first, of each request.
        e2e_s: to the end of a request.
    """

    concurrency: int | None
    request_rate: float | None
    most_at_once: int
    num_requests: int
    num_errors: int
    errors: dict[str, int]
    wall_s: float
    prompt_tokens: int
    output_tokens: int
    output_tokens_per_s: float
    total_tokens_per_s: float
    requests_per_s: float
    ttft_s: dict[str, float]
    itl_s: dict[str, float]
    tpot_s: dict[str, float]
    e2e_s: dict[str, float]
    goodput: Goodput | None = None

    @property
    def title(self) -> str:
        """`8 at once` or `2.5 a second`."""
        return LevelTimes(self.concurrency, self.request_rate).title


def sum_up(level: LevelTimes, objectives_s: dict[str, float]) -> LevelReport:
    """Throughput over the whole wall time, latencies over the requests that ended well."""
    prompt_tokens = sum(times.prompt_tokens for times in level.completed)
    output_tokens = sum(times.output_tokens for times in level.completed)
    return LevelReport(
        concurrency=level.concurrency,
        request_rate=level.request_rate,
        most_at_once=level.most_at_once,
        num_requests=level.num_completed + level.errors.total(),
        num_errors=level.errors.total(),
        errors=dict(level.errors),
        wall_s=level.wall_s,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        output_tokens_per_s=output_tokens / level.wall_s,
        total_tokens_per_s=(prompt_tokens + output_tokens) / level.wall_s,
        requests_per_s=level.num_completed / level.wall_s,
        ttft_s=percentiles([times.ttft_s for times in level.completed]),
        itl_s=percentiles([gap for times in level.completed for gap in times.itl_s]),
        tpot_s=percentiles([times.tpot_s for times in level.completed if times.tpot_s is not None]),
        e2e_s=percentiles([times.e2e_s for times in level.completed]),
        goodput=_goodput(level, objectives_s) if objectives_s else None,
    )


def _goodput(level: LevelTimes, objectives_s: dict[str, float]) -> Goodput:
    num_good = sum(times.meets(objectives_s) for times in level.completed)
    num_sent = level.num_completed + level.errors.total()
    return Goodput(objectives_s, num_good, num_good / num_sent, num_good / level.wall_s)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p95 and p99, interpolated between neighbours; empty where there is nothing to measure."""
    ordered = sorted(values)
    return {name: _quantile(ordered, share) for name, share in QUANTILES.items()} if ordered else {}


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
