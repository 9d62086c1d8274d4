"""The Grafana board, the Prometheus configuration and the compose file: up to date, complete, and of one mind."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring import BOARD, CONFIG, FOLDER, TARGET, build_board, files, queries
from server.metrics import Metrics
from tests.architecture.sources import ROOT

PANELS = [panel for panel in build_board()["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("path", [BOARD, CONFIG], ids=str)
def test_what_was_written_is_not_stale(path: Path) -> None:
    assert (FOLDER / path).read_text(encoding="utf-8") == files()[path], "run python -m deploy.monitoring"


def test_every_metric_has_a_panel() -> None:
    asked = {target["expr"] for panel in PANELS for target in panel["targets"]}
    for family in Metrics().families():
        assert {expression for expression, _ in queries(family)} <= asked, family.name


def test_panels_do_not_overlap() -> None:
    boxes = [panel["gridPos"] for panel in build_board()["panels"]]
    assert not [(a, b) for a, b in combinations(boxes, 2) if _overlap(a, b)]
    assert all(box["x"] >= 0 and box["x"] + box["w"] <= 24 for box in boxes)
    numbers = [panel["id"] for panel in build_board()["panels"]]
    assert len(set(numbers)) == len(numbers)


def _overlap(a: dict[str, int], b: dict[str, int]) -> bool:
    across = a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"]
    return across and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


@pytest.mark.parametrize(
    ("name", "unit"),
    [("Time to first token", "s"), ("A token takes", "bytes"), ("Read by attention, a second", "Bps")],
)
def test_a_panel_has_the_unit_of_its_metric(name: str, unit: str) -> None:
    panel = next(panel for panel in PANELS if panel["title"] == name)
    assert panel["fieldConfig"]["defaults"]["unit"] == unit


def test_the_compose_file_mounts_what_is_there() -> None:
    compose = _compose()
    mounts = [mount for service in compose["services"].values() for mount in service.get("volumes", [])]
    sources = [mount.split(":")[0] for mount in mounts]
    assert all((FOLDER / source).exists() for source in sources if source.startswith("."))
    assert {source for source in sources if not source.startswith(".")} == set(compose["volumes"])


def test_the_compose_file_and_prometheus_agree() -> None:
    compose = _compose()
    name, port = TARGET.split(":")
    assert f"EXPOSE {port}" in (ROOT / "Dockerfile").read_text()
    assert name in compose["services"]
    config = yaml.safe_load((FOLDER / CONFIG).read_text())
    [secret] = compose["services"]["prometheus"]["secrets"]
    [job] = config["scrape_configs"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"


def _compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / "docker-compose.yaml").read_text())
    return content
