"""How many requests fit: the search, and waves on a real engine of a tiny model."""

from collections.abc import AsyncIterator

import pytest

from configs.compare import Workload
from engine.client import EngineClient
from server.compare.capacity import Wave, largest_wave, run_wave, wave_lengths, wave_prompts
from tests.engine.tiny_models import build_model, save_model, settings

pytestmark = pytest.mark.anyio

WORKLOAD = Workload(prompt_tokens=24, max_tokens=8, num_requests=4, concurrency=2)
NUM_FITTING = 5


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EngineClient]:
    """Room for five requests of 32 tokens, and half of a sixth."""
    folder = save_model(build_model("llama"), tmp_path_factory.mktemp("llama"))
    bytes_per_token = 3 * 2 * 2 * 8 * 8
    budget = (NUM_FITTING * 8 + 4) * 4 * bytes_per_token
    client = EngineClient("tiny", folder, settings(kv_cache_memory_bytes=budget, max_model_len=32, max_num_seqs=20))
    await client.start()
    await client.wait_ready()
    yield client
    await client.shutdown()


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens", "expected"),
    [
        (192, 64, (177, 79)),
        (193, 63, (193, 63)),
        (1000, 24, (945, 79)),
        (5, 8, (1, 12)),
        (16, 2, (1, 17)),
        (17, 2, (1, 18)),
    ],
)
def test_a_waves_prompts_are_whole_blocks_and_a_token(
    prompt_tokens: int, max_tokens: int, expected: tuple[int, int]
) -> None:
    workload = Workload(prompt_tokens=prompt_tokens, max_tokens=max_tokens)
    lengths = wave_lengths(workload, 16, 0.05)
    assert lengths == expected
    assert sum(lengths) == workload.request_tokens


@pytest.mark.parametrize("num_pool_blocks", [64, 130, 546, 5460])
@pytest.mark.parametrize(("prompt_tokens", "max_tokens"), [(192, 64), (1000, 24), (500, 500), (2000, 2)])
def test_all_that_fit_may_start_although_the_scheduler_keeps_a_reserve(
    num_pool_blocks: int, prompt_tokens: int, max_tokens: int
) -> None:
    lengths = wave_lengths(Workload(prompt_tokens=prompt_tokens, max_tokens=max_tokens), 16, 0.05)
    num_requests = num_pool_blocks // -(-sum(lengths) // 16)
    num_blocks_at_start = num_requests * -(-lengths.prompt_tokens // 16)
    assert num_requests <= 1 or num_blocks_at_start + int(0.05 * num_pool_blocks) <= num_pool_blocks


@pytest.mark.parametrize(
    ("fitting", "planned", "at_most", "found", "sent"),
    [
        (5, 5, 20, 5, [5, 6]),
        (7, 5, 20, 7, [5, 6, 7, 8]),
        (3, 5, 20, 3, [5, 4, 3]),
        (9, 5, 6, 6, [5, 6]),
        (0, 2, 9, 1, [2, 1]),
    ],
)
async def test_the_search_ends_where_one_more_does_not_fit(
    fitting: int, planned: int, at_most: int, found: int, sent: list[int]
) -> None:
    seen = []

    async def run(num_requests: int) -> Wave:
        seen.append(num_requests)
        return Wave(num_requests, num_requests <= fitting, 1, 1, 1, 1.0)

    wave = await largest_wave(run, planned, at_most)
    assert (wave.num_requests, wave.fits) == (found, found <= fitting)
    assert seen == sent


async def test_as_many_run_at_once_as_geometry_says_and_not_one_more(client: EngineClient) -> None:
    info = await client.wait_ready()
    assert info.geometry.num_requests_in(info.num_blocks * info.geometry.bytes_per_block, 32) == NUM_FITTING
    lengths = wave_lengths(WORKLOAD, info.geometry.block_size, 0.05)

    async def run(num_requests: int) -> Wave:
        prompts = wave_prompts(WORKLOAD, range(3, 101), lengths.prompt_tokens, num_requests)
        return await run_wave(client, prompts, lengths.max_tokens, f"of-{num_requests}")

    assert not (await run(NUM_FITTING + 1)).fits
    wave = await largest_wave(run, NUM_FITTING, 20)
    assert (wave.num_requests, wave.fits, wave.num_peak_blocks) == (NUM_FITTING, True, 8)
    mean_context = lengths.prompt_tokens + (lengths.max_tokens - 1) / 2
    assert wave.kv_read_bytes_per_token == info.geometry.bytes_per_token * mean_context


async def test_a_smaller_plan_is_corrected_upward(client: EngineClient) -> None:
    lengths = wave_lengths(WORKLOAD, 4, 0.05)

    async def run(num_requests: int) -> Wave:
        prompts = wave_prompts(WORKLOAD, range(3, 101), lengths.prompt_tokens, num_requests)
        return await run_wave(client, prompts, lengths.max_tokens, f"up-{num_requests}")

    assert (await largest_wave(run, NUM_FITTING - 1, 20)).num_requests == NUM_FITTING


def test_a_larger_wave_begins_with_a_smaller_ones_prompts() -> None:
    assert wave_prompts(WORKLOAD, [3, 4, 5], 9, 4)[:2] == wave_prompts(WORKLOAD, [3, 4, 5], 9, 2)
