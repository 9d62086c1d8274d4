"""Variants are made once, by a child process, and again only when something has changed."""

import os
import sys
from pathlib import Path

import msgspec
import pytest

from server.compare import variants
from server.compare.errors import ComparisonFailedError
from server.compare.variants import build_variant, variant_folder
from tests.server.compare.small_jobs import make_job, write_model

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HEADCOUNT_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run_instead(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """The child runs `script`, with the folder to make as its argument."""
    monkeypatch.setattr(
        variants, "_command", lambda source, folder, variant: [sys.executable, "-c", script, str(folder)]
    )


MAKE = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.mkdir(parents=True); (p / 'config.json').write_text('{}')"


def test_the_source_is_served_as_it_is(tmp_path: Path) -> None:
    mha, gqa, mqa = make_job(tmp_path / "source").variants
    assert variant_folder(tmp_path / "source", gqa) == tmp_path / "source"
    assert len({variant_folder(tmp_path / "source", variant) for variant in (mha, gqa, mqa)}) == 3


def test_a_folder_is_known_by_source_heads_and_method(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "my model"
    mha, _, mqa = make_job(source).variants
    before = [variant_folder(source, mha), variant_folder(source, mqa)]
    assert [folder.parent for folder in before] == [cache / "variants"] * 2
    assert before[0].name.startswith("my_model-kv9-repeat-")
    aligned_mha, _, aligned_mqa = make_job(source, method="aligned").variants
    assert variant_folder(source, msgspec.structs.replace(aligned_mqa)) != before[1]
    assert aligned_mha.method == "repeat", "repeating is the same whatever pooling would be"
    os.utime(source / "model.safetensors", ns=(1, 1))
    assert variant_folder(source, mha) != before[0]
    write_model(source, rms_norm_eps=1e-6)
    os.utime(source / "model.safetensors", ns=(1, 1))
    assert variant_folder(source, mqa) != before[1]


async def test_a_variant_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mha, _, _ = make_job(tmp_path / "source").variants
    run_instead(monkeypatch, MAKE)
    folder = await build_variant(tmp_path / "source", mha)
    assert (folder / "config.json").is_file()
    run_instead(monkeypatch, "raise SystemExit('must not run again')")
    assert await build_variant(tmp_path / "source", mha) == folder


async def test_why_a_variant_cannot_be_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mha, _, mqa = make_job(tmp_path / "source").variants
    run_instead(monkeypatch, "import sys; sys.exit('some log\\nheadcount: the disk is too full')")
    with pytest.raises(
        ComparisonFailedError, match=r"MHA, 9 KV heads: the variant cannot be made: the disk is too full$"
    ):
        await build_variant(tmp_path / "source", mha)
    run_instead(monkeypatch, "import os; os._exit(3)")
    with pytest.raises(ComparisonFailedError, match=r"MQA, 1 KV head: .*: the process ended with 3$"):
        await build_variant(tmp_path / "source", mqa)
