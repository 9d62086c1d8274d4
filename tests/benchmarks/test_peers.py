"""The parts of benchmarks/peers.py that need no peer."""

import sys
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType, GGUFReader

from benchmarks.peer_runs.gguf_files import write_gguf
from benchmarks.peer_runs.http_servers import find_llama_server
from benchmarks.peer_runs.processes import PeerError, Worker, llama_cpp_python
from benchmarks.peer_runs.worker import Job, Result
from benchmarks.peers import OURS, PAIRS, PEERS, Case, common_prefix, is_wanted, parse_case, rates, ratios
from checkpoints.gguf_import import import_gguf
from headcount import LLM, SamplingParams
from tests.checkpoints.gguf_models import tiny_llama, write_llama


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A GGUF file with a tokenizer, and the folder that comes of it."""
    folder = tmp_path_factory.mktemp("peers")
    original = write_llama(folder / "original.gguf", tiny_llama())
    import_gguf(original, folder / "imported")
    return original, folder / "imported"


def test_a_file_written_for_llama_cpp_holds_the_checkpoint(checkpoint: tuple[Path, Path], tmp_path: Path) -> None:
    original, folder = checkpoint
    write_gguf(folder, original, tmp_path / "bf16.gguf", "bf16")
    import_gguf(tmp_path / "bf16.gguf", tmp_path / "again")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_matrices_are_quantized_and_vectors_are_not(checkpoint: tuple[Path, Path], tmp_path: Path) -> None:
    original, folder = checkpoint
    write_gguf(folder, original, tmp_path / "q8_0.gguf", "q8_0")
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(tmp_path / "q8_0.gguf").tensors}
    assert {kind for name, kind in kinds.items() if "norm" in name} == {GGMLQuantizationType.F32}
    assert {kind for name, kind in kinds.items() if "norm" not in name} == {GGMLQuantizationType.Q8_0}


def test_a_worker_answers_with_the_greedy_tokens_of_its_model(checkpoint: tuple[Path, Path]) -> None:
    _, folder = checkpoint
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12]]
    params = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    llm = LLM(str(folder), dtype="float32", device="cpu", kv_cache_memory_bytes=4_000_000)
    expected = [generation.token_ids for generation in llm.generate(prompts, params)]
    worker = Worker(sys.executable, "headcount_worker", str(folder), "float32", "none", "1")
    try:
        result = worker.run(Job(prompts, 6))
        assert result.output_token_ids == expected
        assert result.num_decode_tokens == 2 * 5
        assert min(result.prefill_s, result.decode_s) > 0
        assert set(worker.versions) == {"headcount", "torch"}
    finally:
        worker.close()


def test_a_worker_that_dies_says_which() -> None:
    with pytest.raises(PeerError, match="headcount_worker ended with status 1"):
        Worker(sys.executable, "headcount_worker")


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(PeerError, match="--llama-server"):
        find_llama_server("no-such-binary")
    with pytest.raises(PeerError, match="does not import llama_cpp"):
        llama_cpp_python(sys.executable)


def test_rates_and_ratios_are_of_medians() -> None:
    results = [Result(seconds, seconds, 7 * 4, []) for seconds in (1.0, 2.0, 10.0)]
    assert rates(Case(4, 16, 8), results) == {"prefill_tokens_per_s": 32.0, "decode_tokens_per_s": 14.0}
    figures = {"headcount bf16": {"tok": 30.0}, "llama.cpp BF16": {"tok": 20.0}, "llama.cpp Q8_0": {"tok": 40.0}}
    assert ratios(figures) == {"llama.cpp BF16": {"tok": 1.5}}, "of int8 there is nothing to compare with"


def test_cases_and_common_prefixes() -> None:
    assert parse_case("4x2000x32") == Case(4, 2000, 32)
    assert [common_prefix([1, 2, 3], other) for other in ([1, 2, 3], [1, 2, 4], [2])] == [3, 2, 0]


def test_peers_run_where_they_are_asked_for_and_ours_always() -> None:
    names = [*PAIRS, *OURS.values()]
    assert [name for name in names if is_wanted(name, list(PEERS))] == names
    without = [name for name in names if is_wanted(name, ["llama.cpp"])]
    assert without == [name for name in names if not name.startswith("transformers")]
