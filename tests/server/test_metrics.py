"""The metrics that API.md names, with its labels, and numbers that survive a restart of the engine."""

from typing import Any, cast

from prometheus_client.parser import text_string_to_metric_families

from engine.client import EngineState
from engine.info import EngineStats, Observations
from kvcache.geometry import KVGeometry
from server.metrics import Metrics
from tests.server.stand_ins import GQA, MQA, SMOLLM2, FakeClient, FakeModel, make_info

MODEL = {"model_name"}
KV = {"model_name", "attention_type", "num_kv_heads"}

NAMES: dict[str, tuple[str, set[str]]] = {
    "kv_cache_total_bytes": ("gauge", KV),
    "kv_cache_used_bytes": ("gauge", KV),
    "kv_cache_filled_bytes": ("gauge", KV),
    "kv_cache_cached_bytes": ("gauge", KV),
    "kv_bytes_per_token": ("gauge", KV),
    "kv_cache_blocks": ("gauge", KV | {"state"}),
    "weights_bytes": ("gauge", MODEL),
    "workspace_bytes": ("gauge", MODEL),
    "device_total_bytes": ("gauge", MODEL),
    "device_unaccounted_bytes": ("gauge", MODEL),
    "requests_running": ("gauge", MODEL),
    "requests_waiting": ("gauge", MODEL),
    "engine_up": ("gauge", MODEL),
    "prefix_cache_hit_ratio": ("gauge", MODEL),
    "startup_seconds": ("gauge", MODEL | {"phase"}),
    "prompt_tokens_total": ("counter", MODEL),
    "generation_tokens_total": ("counter", MODEL),
    "cached_prompt_tokens_total": ("counter", MODEL),
    "requests_total": ("counter", MODEL | {"finish_reason"}),
    "preemptions_total": ("counter", MODEL),
    "rejected_requests_total": ("counter", MODEL | {"reason"}),
    "kv_read_bytes_total": ("counter", KV),
    "engine_restarts_total": ("counter", MODEL),
    "time_to_first_token_seconds": ("histogram", MODEL),
    "inter_token_latency_seconds": ("histogram", MODEL),
    "request_duration_seconds": ("histogram", MODEL),
    "queue_seconds": ("histogram", MODEL),
    "step_seconds": ("histogram", MODEL),
    "step_tokens": ("histogram", MODEL),
    "prompt_tokens": ("histogram", MODEL),
    "generation_tokens": ("histogram", MODEL),
}

Sample = tuple[str, frozenset[tuple[str, str]]]


def register(metrics: Metrics, **clients: FakeClient) -> None:
    for name, client in clients.items():
        metrics.register(cast(Any, FakeModel(name, client)))


def samples_of(metrics: Metrics) -> dict[Sample, float]:
    """Every sample on the page, by name without the prefix and labels."""
    text = metrics.render()[0].decode()
    found: dict[Sample, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name.removeprefix("headcount_"), frozenset(sample.labels.items()))
            assert key not in found, f"{sample.name} appears twice"
            found[key] = sample.value
    return found


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The one sample of that name that has these labels, whatever others it has."""
    rows = {key: number for key, number in samples_of(metrics).items() if key[0] == name}
    [number] = [number for key, number in rows.items() if set(labels.items()) <= key[1]]
    return number


def test_every_metric_of_the_contract_is_there_with_its_labels_and_nothing_else() -> None:
    metrics = Metrics()
    register(metrics, tiny=FakeClient(make_info()))
    metrics.observe_first_token("tiny", 0.1)
    metrics.observe_inter_token("tiny", 0.01)
    metrics.count_rejected("tiny", "queue_full")
    metrics.observe_finished("tiny", finish_reason="stop", duration_s=1.0, num_prompt_tokens=3, num_generation_tokens=4)
    text = metrics.render()[0].decode()
    types = dict(line.split()[2:4] for line in text.splitlines() if line.startswith("# TYPE"))
    assert types == {f"headcount_{name}": kind for name, (kind, _) in NAMES.items()}
    for name, labels in samples_of(metrics):
        family = next(family for family in (name, name.rsplit("_", 1)[0]) if family in NAMES)
        assert {label for label, _ in labels} - {"le"} == NAMES[family][1], name


def test_each_family_is_described_once() -> None:
    metrics = Metrics()
    register(metrics, a=FakeClient(make_info()), b=FakeClient(make_info()))
    lines = metrics.render()[0].decode().splitlines()
    described = [line for line in lines if line.startswith("# HELP")]
    assert len(described) == len(set(described)) == len(NAMES)
    assert all(len(line.split(maxsplit=3)) == 4 for line in described)
    assert metrics.render()[1].startswith("text/plain; version=")


def test_kv_gauges_are_geometry_times_blocks() -> None:
    client = FakeClient(make_info(SMOLLM2, num_blocks=100))
    metrics = Metrics()
    register(metrics, tiny=client)
    client.send(EngineStats(num_used_blocks=3, num_cached_blocks=2, num_free_blocks=95, num_filled_slots=40))
    block_bytes = 16 * 23_040
    assert value(metrics, "kv_bytes_per_token", attention_type="gqa", num_kv_heads="3") == 23_040
    assert value(metrics, "kv_cache_total_bytes") == 100 * block_bytes
    assert value(metrics, "kv_cache_used_bytes") == 3 * block_bytes
    assert value(metrics, "kv_cache_cached_bytes") == 2 * block_bytes
    assert value(metrics, "kv_cache_filled_bytes") == 40 * 23_040
    assert [value(metrics, "kv_cache_blocks", state=state) for state in ("free", "used", "cached")] == [95, 3, 2]


def test_before_the_first_snapshot_all_blocks_are_free() -> None:
    metrics = Metrics()
    register(metrics, tiny=FakeClient(make_info(num_blocks=7)))
    assert value(metrics, "kv_cache_blocks", state="free") == 7
    assert value(metrics, "prefix_cache_hit_ratio") == 0


def test_layers_that_differ_show_all_their_head_counts() -> None:
    geometry = KVGeometry(layers=(GQA, MQA), dtype_bytes=2, block_size=16)
    metrics = Metrics()
    register(metrics, tiny=FakeClient(make_info(geometry)))
    assert value(metrics, "kv_bytes_per_token", attention_type="mixed", num_kv_heads="1,3") == 4 * 128 * 2


def test_ledger_and_startup() -> None:
    metrics = Metrics()
    register(metrics, tiny=FakeClient(info := make_info()))
    assert value(metrics, "weights_bytes") == 1000
    assert value(metrics, "workspace_bytes") == 200
    assert value(metrics, "device_total_bytes") == info.ledger.total_bytes
    assert value(metrics, "device_unaccounted_bytes") == 40
    assert value(metrics, "startup_seconds", phase="import") == 1.5
    assert value(metrics, "startup_seconds", phase="weights") == 0.5


def test_a_model_that_is_not_loaded_has_a_state_and_no_geometry() -> None:
    client = FakeClient()
    metrics = Metrics()
    register(metrics, tiny=client, other=FakeClient(make_info()))
    assert value(metrics, "engine_up", model_name="tiny") == 0
    assert value(metrics, "engine_up", model_name="other") == 1
    assert value(metrics, "kv_cache_total_bytes") == value(metrics, "kv_cache_total_bytes", model_name="other")
    client.info, client.state = make_info(), EngineState.READY
    assert value(metrics, "engine_up", model_name="tiny") == 1
    assert value(metrics, "kv_bytes_per_token", model_name="tiny") == 23_040


def test_counters_go_on_where_a_dead_engine_left_them() -> None:
    client = FakeClient(make_info())
    metrics = Metrics()
    register(metrics, tiny=client)
    client.send(EngineStats(prompt_tokens=100, generation_tokens=10, cached_prompt_tokens=25, kv_read_bytes=1000))
    assert value(metrics, "prefix_cache_hit_ratio") == 0.25
    client.restart()
    assert value(metrics, "prompt_tokens_total") == 100
    assert value(metrics, "engine_restarts_total") == 1
    client.send(EngineStats(prompt_tokens=1, preemptions=2, kv_read_bytes=5))
    client.send(EngineStats(prompt_tokens=7, preemptions=3, kv_read_bytes=9))
    assert value(metrics, "prompt_tokens_total") == 107
    assert value(metrics, "generation_tokens_total") == 10
    assert value(metrics, "preemptions_total") == 3
    assert value(metrics, "kv_read_bytes_total") == 1009
    client.restart()
    client.restart()
    client.send(EngineStats(prompt_tokens=3))
    assert value(metrics, "prompt_tokens_total") == 110


def test_gauges_follow_the_newest_snapshot() -> None:
    client = FakeClient(make_info())
    metrics = Metrics()
    register(metrics, tiny=client)
    client.send(EngineStats(num_running=3, num_waiting=2))
    assert (value(metrics, "requests_running"), value(metrics, "requests_waiting")) == (3, 2)
    client.restart()
    assert value(metrics, "requests_running") == 0


def test_the_observations_of_the_engine_reach_the_histograms() -> None:
    client = FakeClient(make_info())
    metrics = Metrics()
    register(metrics, tiny=client)
    seen = Observations(step_seconds=[0.002, 0.2], step_tokens=[1, 300], queue_seconds=[1.5])
    client.send(EngineStats(observations=seen))
    assert value(metrics, "step_seconds_count") == 2
    assert value(metrics, "step_tokens_sum") == 301
    assert value(metrics, "step_tokens_bucket", le="256.0") == 1
    assert value(metrics, "step_tokens_bucket", le="512.0") == 2
    assert value(metrics, "queue_seconds_sum") == 1.5


def test_what_the_server_observes() -> None:
    metrics = Metrics()
    register(metrics, tiny=FakeClient(make_info()))
    metrics.observe_first_token("tiny", 0.02)
    for seconds in (0.003, 0.004):
        metrics.observe_inter_token("tiny", seconds)
    metrics.observe_finished(
        "tiny", finish_reason="length", duration_s=70.0, num_prompt_tokens=5, num_generation_tokens=9
    )
    assert value(metrics, "time_to_first_token_seconds_count") == 1
    assert value(metrics, "inter_token_latency_seconds_bucket", le="0.005") == 2
    assert value(metrics, "request_duration_seconds_bucket", le="120.0") == 1
    assert value(metrics, "request_duration_seconds_bucket", le="60.0") == 0
    assert value(metrics, "prompt_tokens_sum") == 5
    assert value(metrics, "generation_tokens_sum") == 9
    assert value(metrics, "requests_total", finish_reason="length") == 1
    assert value(metrics, "requests_total", finish_reason="stop") == 0


def test_clients_cannot_make_up_series() -> None:
    metrics = Metrics()
    register(metrics, tiny=FakeClient(make_info()))
    metrics.count_rejected("tiny", "queue_full")
    for number in range(100):
        metrics.count_rejected(f"made-up-{number}", "model_not_found")
    assert value(metrics, "rejected_requests_total", model_name="tiny", reason="queue_full") == 1
    assert value(metrics, "rejected_requests_total", model_name="", reason="model_not_found") == 100


def test_two_servers_in_one_process_do_not_meet() -> None:
    first, second = Metrics(), Metrics()
    register(first, tiny=FakeClient(make_info()))
    register(second, tiny=FakeClient(make_info()))
    first.observe_first_token("tiny", 1.0)
    assert value(first, "time_to_first_token_seconds_count") == 1
    assert value(second, "time_to_first_token_seconds_count") == 0
