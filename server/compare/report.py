"""What a comparison found: plain data, the same in JSON files, over HTTP and for tables."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from engine.info import EngineInfo
from server.cli.machine import machine_facts, versions_of
from server.compare.capacity import Wave
from server.compare.plan import SOURCE, Job, PlannedVariant
from server.load.summary import LevelReport

VERSIONED = ("headcount", "torch")


class TokenAgreement(msgspec.Struct, frozen=True):
    """The answers of a variant beside the source's, request by request.

    Attributes:
        is_expected: a variant whose heads are repeated computes what its source does; pooled heads compute something else.
        num_equal_requests: answers that are the same to the last token.
        num_requests: answers that were compared.
        equal_token_share: tokens that stand before the first difference, over all.
    """

    is_expected: bool
    num_equal_requests: int
    num_requests: int
    equal_token_share: float

    @property
    def is_equal(self) -> bool:
        """Every answer is the source's."""
        return self.num_equal_requests == self.num_requests


class VariantReport(msgspec.Struct, frozen=True, tag="variant", tag_field="type"):
    """One variant: what was planned for it, and what it did.

    Attributes:
        planned: from geometry, before anything ran.
        attention_backend: of its engine.
        weights_bytes: of its parameters.
        num_requests_reached: requests of the workload's length that ran at once, to their end, with none preempted.
        num_peak_blocks: most blocks that one of those held.
        kv_read_bytes_per_token: that attention read for each token that those decoded.
        decode_tokens_per_s: of those, side by side, with nothing to prefill.
        load: the workload: throughput and latencies.
        load_cpu_s: seconds that the engine's process had of the cores meanwhile: beside the load's wall time and the
            number of its threads they say how much of the machine others had.
        num_preemptions: under the workload.
        tokens: its answers to the workload beside the source's.
    """

    planned: PlannedVariant
    attention_backend: str
    weights_bytes: int
    num_requests_reached: int
    num_peak_blocks: int
    kv_read_bytes_per_token: float
    decode_tokens_per_s: float
    load: LevelReport
    load_cpu_s: float
    num_preemptions: int
    tokens: TokenAgreement


class Comparison(msgspec.Struct, frozen=True):
    """A whole comparison, with what is needed to judge and to repeat it.

    Attributes:
        checkpoint: the source's folder, by its name.
        settings: what was asked for.
        device: that the engines ran on, and the formats of weights and cache.
        num_other_requests: that the server took for its own models meanwhile; None where no server was there.
        load_average: of the machine at the end, over one, five and fifteen minutes: more than these engines' threads
            means that others took part of it.
        variants: most heads first.
    """

    time: str
    wall_s: float
    checkpoint: str
    settings: dict[str, Any]
    request_tokens: int
    device: dict[str, str]
    machine: dict[str, Any]
    versions: dict[str, str]
    load_average: tuple[float, float, float]
    num_other_requests: int | None
    variants: list[VariantReport]


Phase = Literal["build", "start", "capacity", "load"]


class Progress(msgspec.Struct, frozen=True, tag="progress", tag_field="type"):
    """Where a comparison is.

    Attributes:
        phase: of this variant: its checkpoint is made, its engine starts, its capacity is measured, it is under load.
        num_done: of `num_total` steps of the phase.
    """

    phase: Phase
    num_kv_heads: int
    num_done: int
    num_total: int


class Measured(msgspec.Struct, frozen=True):
    """What one variant did, before it is set beside the source.

    Attributes:
        outputs: token ids of each answer to the workload.
    """

    info: EngineInfo
    wave: Wave
    load: LevelReport
    load_cpu_s: float
    num_preemptions: int
    outputs: list[list[int]]


def report_variant(planned: PlannedVariant, measured: Measured, source_outputs: Sequence[list[int]]) -> VariantReport:
    """One variant beside the source."""
    return VariantReport(
        planned=planned,
        attention_backend=measured.info.attention_backend,
        weights_bytes=measured.info.ledger.weights_bytes,
        num_requests_reached=measured.wave.num_requests if measured.wave.fits else 0,
        num_peak_blocks=measured.wave.num_peak_blocks,
        kv_read_bytes_per_token=measured.wave.kv_read_bytes_per_token,
        decode_tokens_per_s=measured.wave.output_tokens_per_s,
        load=measured.load,
        load_cpu_s=measured.load_cpu_s,
        num_preemptions=measured.num_preemptions,
        tokens=compare_tokens(planned, measured.outputs, source_outputs),
    )


def compare_tokens(
    planned: PlannedVariant, outputs: Sequence[list[int]], source_outputs: Sequence[list[int]]
) -> TokenAgreement:
    """The answers of a variant beside the source's to the same prompts."""
    pairs = list(zip(outputs, source_outputs, strict=True))
    num_leading = sum(_num_leading_equal(ours, theirs) for ours, theirs in pairs)
    num_tokens = sum(len(theirs) for _, theirs in pairs)
    return TokenAgreement(
        is_expected=planned.is_exact,
        num_equal_requests=sum(ours == theirs for ours, theirs in pairs),
        num_requests=len(pairs),
        equal_token_share=num_leading / num_tokens,
    )


def _num_leading_equal(ours: list[int], theirs: list[int]) -> int:
    differences = (place for place, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
    return next(differences, len(theirs))


def build_comparison(
    job: Job, variants: list[VariantReport], info: EngineInfo, wall_s: float, num_other_requests: int | None
) -> Comparison:
    """All variants, and the circumstances."""
    return Comparison(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_s=wall_s,
        checkpoint=job.folder.name,
        settings=job.settings.model_dump(mode="json"),
        request_tokens=job.settings.workload.request_tokens,
        device={"device": info.device, "dtype": info.dtype, "kv_cache_dtype": info.kv_cache_dtype},
        machine=machine_facts(),
        versions=versions_of(VERSIONED),
        load_average=os.getloadavg(),
        num_other_requests=num_other_requests,
        variants=sorted(variants, key=lambda variant: -variant.planned.num_kv_heads),
    )


def is_source(variant: VariantReport) -> bool:
    """Whether it is the model itself."""
    return variant.planned.method == SOURCE
