"""The pictures of benchmarks/plots.py, as far as a test can see them."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from benchmarks.plots import _spaced, draw_all

PNG = b"\x89PNG\r\n\x1a\n"


def point(batch_size: int, context_tokens: int) -> dict[str, Any]:
    step = {"weight_bytes_per_step": 1e8, "kv_bytes_per_step": 1e6 * batch_size, "step_s": {"p50": 0.01 * batch_size}}
    return {"batch_size": batch_size, "context_tokens": context_tokens, **step}


def test_every_picture_is_drawn(tmp_path: Path) -> None:
    sweeps = {"by_batch": [point(1, 128), point(8, 128)], "by_context": [point(4, 128), point(4, 1024)]}
    variants = [
        {"num_kv_heads": number, "attention_type": kind, **sweeps}
        for number, kind in ((9, "mha"), (3, "gqa"), (1, "mqa"))
    ]
    report = {"ceilings": {"read_bytes_per_s": 3e10}, "short_context": 128, "batch_size": 4, "variants": variants}
    paths = draw_all(report, tmp_path)
    assert [path.stem for path in paths] == ["step_time_batch", "step_time_context", "step_time_kv_heads"]
    for path in paths:
        assert path.read_bytes().startswith(PNG)


def test_labels_that_would_overlap_are_left_out() -> None:
    assert _spaced([1, 2, 4, 8, 16, 32]) == [2, 4, 8, 16, 32]
