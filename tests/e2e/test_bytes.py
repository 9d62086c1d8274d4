"""The same bytes wherever they are told: geometry, storage, /v1/kv, /metrics."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.server_process import ServerProcess

pytestmark = [pytest.mark.e2e, pytest.mark.demo]


def test_kv_bytes_agree_everywhere(demo_server: ServerProcess) -> None:
    entry = demo_server.kv()
    samples = {
        sample.name: sample
        for family in text_string_to_metric_families(demo_server.get("/metrics").text)
        for sample in family.samples
    }
    total = samples["headcount_kv_cache_total_bytes"]
    assert samples["headcount_kv_bytes_per_token"].value == entry["geometry"]["bytes_per_token"] == 23_040
    expected = entry["blocks"]["total"] * entry["geometry"]["bytes_per_block"]
    assert total.value == entry["bytes"]["total"] == expected
    assert entry["ledger"]["kv_cache_bytes"] == expected, "the tensors' own bytes"
    assert total.labels == {"model_name": "demo", "attention_type": "gqa", "num_kv_heads": "3"}


def test_what_if_rows_cover_every_head_count(demo_server: ServerProcess) -> None:
    rows = [(row["label"], row["num_kv_heads"], row["bytes_per_token"]) for row in demo_server.kv()["what_if"]]
    assert rows == [("what-if", 9, 69_120), ("actual", 3, 23_040), ("what-if", 1, 7_680)]


def test_the_ledger_adds_up(demo_server: ServerProcess) -> None:
    ledger = demo_server.kv()["ledger"]
    total = ledger.pop("total_bytes")
    assert sum(ledger.values()) == total
    assert ledger["weights_bytes"] == 2 * 134_515_008
