"""The same tokens under any pressure (float64): preempted in every step, with and without prefix cache, windows freed or kept."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.checkpoint import read_checkpoint
from engine.core import EngineCore
from engine.scheduler import Scheduler
from kvcache import geometry
from kvcache.layer_groups import LayerGroup
from tests.engine.parity.oracles import build_oracle, save
from tests.engine.parity.rows import ROWS
from tests.engine.tiny_models import make_request, prompt, run, tokens

# The first two begin with the same 14 tokens, so that they share blocks; all go past the windows of 7 tokens.
PROMPTS = [prompt(17, seed=1), [*prompt(14, seed=1), 5, 9], prompt(11, seed=2)]
# Sampled, because a model of random weights repeats its most probable token whatever came before.
PARAMS = {"max_tokens": 16, "ignore_eos": True, "temperature": 1.5, "seed": 7}
MODELS = ["Llama-gqa", "Gemma3-older-pattern", "GptOss-gqa"]


class PreemptingAll(Scheduler):
    """Before every step all requests lose their blocks: each token is computed from the prompt on again."""

    def schedule(self):  # type: ignore[no-untyped-def]
        for request in list(self._running.values()):
            self._preempt(request)
        return super().schedule()


class PreemptingSome(Scheduler):
    """Before every step each request loses its blocks with a chance of one in six, also in the midst of a prompt."""

    def __init__(self, settings, manager) -> None:  # type: ignore[no-untyped-def]
        super().__init__(settings, manager)
        self.rng = random.Random(0)

    def schedule(self):  # type: ignore[no-untyped-def]
        for request in list(self._running.values()):
            if self.rng.random() < 1 / 6:
                self._preempt(request)
        return super().schedule()


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build_oracle(ROWS[request.param]), tmp_path_factory.mktemp(request.param))


@pytest.fixture
def alone(folder: Path, load: Callable[..., EngineCore]) -> list[list[int]]:
    core = load(folder, enable_prefix_cache=False)
    return [tokens(run(core, [make_request("r", ids, **PARAMS)])["r"]) for ids in PROMPTS]


@pytest.fixture(params=["windows-freed", "windows-kept"])
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Kept: all layers are one group that keeps every token, as if no layer had a window."""
    if request.param == "windows-kept":
        monkeypatch.setattr(geometry, "group_layers", lambda shapes, _: (LayerGroup(tuple(range(len(shapes))), None),))
    geometry._groups_of.cache_clear()
    yield request.param
    geometry._groups_of.cache_clear()


@pytest.mark.parametrize("is_cached", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize(("scheduler", "num_batched_tokens"), [(PreemptingAll, 512), (PreemptingSome, 16)])
def test_preemption_changes_no_token(
    folder: Path,
    load: Callable[..., EngineCore],
    windows: str,
    is_cached: bool,
    scheduler: type[Scheduler],
    num_batched_tokens: int,
    alone: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.loading.Scheduler", scheduler)
    groups = read_checkpoint(folder).spec.kv_geometry(dtype_bytes=8, block_size=4).groups
    assert (len(groups) > 1) == (windows == "windows-freed" and "Llama" not in str(folder))
    core = load(folder, max_num_batched_tokens=num_batched_tokens, enable_prefix_cache=is_cached)
    requests = [make_request(str(number), ids, **PARAMS) for number, ids in enumerate(PROMPTS)]
    together = run(core, requests)
    assert [tokens(together[str(number)]) for number in range(len(PROMPTS))] == alone
    at_least = 15 if scheduler is PreemptingAll else 0
    assert all(request.num_preemptions >= at_least for request in requests)
    assert sum(request.num_preemptions for request in requests) > 0


@pytest.mark.parametrize("is_cached", [True, False], ids=["cached", "uncached"])
def test_a_preempted_request_finds_what_it_had_computed(
    folder: Path, load: Callable[..., EngineCore], is_cached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.loading.Scheduler", PreemptingAll)
    core = load(folder, enable_prefix_cache=is_cached)
    run(core, [make_request("r", PROMPTS[0], **PARAMS)])
    num_computed = core.take_stats().observations.step_tokens
    seq_lens = range(17, 17 + 16)
    if is_cached:
        # All but what lies in the last block, which is not full; at least one token is left to compute.
        assert num_computed == [17, *((seq_len - 1) % 4 + 1 for seq_len in seq_lens[1:])]
    else:
        assert num_computed == list(seq_lens)
