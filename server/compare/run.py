"""A whole comparison: the checkpoints first, then one engine after the other, the source's before all others."""

import time
from collections.abc import Callable

from server.compare.errors import ComparisonError
from server.compare.measure import measure_variant
from server.compare.plan import SOURCE, Job, PlannedVariant
from server.compare.report import Comparison, Progress, VariantReport, build_comparison, report_variant
from server.compare.variants import build_variant

Event = Progress | VariantReport


async def run_comparison(
    job: Job, on_event: Callable[[Event], None], count_other_requests: Callable[[], int] | None = None
) -> Comparison:
    """Build the variants, measure each, and set them beside the source.

    Args:
        job: what to compare.
        on_event: called as it goes on, and with every variant that is done.
        count_other_requests: requests that a server around this has taken so far.

    Raises:
        ComparisonFailedError: a variant could not be built, loaded or measured.
    """
    started_s, num_before = time.perf_counter(), count_other_requests() if count_other_requests else 0
    folders = {}
    for place, variant in enumerate(job.variants):
        on_event(Progress("build", variant.num_kv_heads, place, len(job.variants)))
        folders[variant.num_kv_heads] = await build_variant(job.folder, variant)
    reports, source_outputs = [], None
    for variant in _source_first(job):
        measured = await measure_variant(job, variant, folders[variant.num_kv_heads], on_event)
        source_outputs = measured.outputs if source_outputs is None else source_outputs
        reports.append(report_variant(variant, measured, source_outputs))
        on_event(reports[-1])
    num_others = count_other_requests() - num_before if count_other_requests else None
    return build_comparison(job, reports, measured.info, time.perf_counter() - started_s, num_others)


def _source_first(job: Job) -> list[PlannedVariant]:
    return sorted(job.variants, key=lambda variant: variant.method != SOURCE)


def check_tokens(comparison: Comparison) -> None:
    """Raise where a variant that must give the source's tokens does not.

    Raises:
        ComparisonError: one of them gave others.
    """
    for variant in comparison.variants:
        tokens = variant.tokens
        if tokens.is_expected and not tokens.is_equal:
            raise ComparisonError(
                f"{variant.planned.title}: repeated heads must give the source's tokens, but"
                f" {tokens.num_requests - tokens.num_equal_requests} of {tokens.num_requests} answers are others"
            )
