"""Writes the Grafana board and the Prometheus configuration from the metrics that the server publishes.

    python -m deploy.monitoring

What is written lies in deploy/ beside this file and is kept in the repository; a test fails where it is stale. A metric
that no panel below names gets one of its own, so none is forgotten.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.metrics_core import Metric

from server.metrics import PREFIX, Metrics

FOLDER = Path(__file__).parent
BOARD = Path("grafana/dashboards/headcount.json")
CONFIG = Path("prometheus.yml")

JOB, TARGET, SCRAPE_INTERVAL = "headcount", "headcount:8000", "5s"
MODEL = 'model_name=~"$model"'
QUANTILES = (0.5, 0.95, 0.99)
WIDTH, HEIGHT, COLUMNS = 8, 8, 24
SOURCE = {"type": "prometheus", "uid": "${source}"}
UNITS = {"bytes": "bytes", "seconds": "s", "ratio": "percentunit"}


class Panel(NamedTuple):
    """One panel of the board.

    Attributes:
        title: what it shows.
        metrics: names without prefix, as Prometheus stores them.
        is_stacked: its series add up to something.
    """

    title: str
    metrics: tuple[str, ...]
    is_stacked: bool = False


ROWS: dict[str, tuple[Panel, ...]] = {
    "Traffic": (
        Panel("Tokens a second", ("generation_tokens_total", "prompt_tokens_total", "cached_prompt_tokens_total")),
        Panel("Requests", ("requests_running", "requests_waiting")),
        Panel("Requests that ended, a second", ("requests_total",)),
        Panel("Time to first token", ("time_to_first_token_seconds",)),
        Panel("Between tokens", ("inter_token_latency_seconds",)),
        Panel("Requests refused, a second", ("rejected_requests_total",)),
    ),
    "KV cache": (
        Panel(
            "Bytes in use, filled, cached", ("kv_cache_used_bytes", "kv_cache_filled_bytes", "kv_cache_cached_bytes")
        ),
        Panel("Blocks", ("kv_cache_blocks",), is_stacked=True),
        Panel("A token takes", ("kv_bytes_per_token",)),
        Panel("Read by attention, a second", ("kv_read_bytes_total",)),
        Panel("Prompt tokens from the prefix cache", ("prefix_cache_hit_ratio",)),
        Panel("Preemptions a second", ("preemptions_total",)),
    ),
    "Memory": (
        Panel(
            "Weights, KV cache, workspace",
            ("weights_bytes", "kv_cache_total_bytes", "workspace_bytes"),
            is_stacked=True,
        ),
        Panel("Device", ("device_total_bytes",)),
        Panel("Unaccounted for", ("device_unaccounted_bytes",)),
    ),
}


def main() -> None:
    """Write both files."""
    for path, text in files().items():
        (FOLDER / path).write_text(text, encoding="utf-8")


def files() -> dict[Path, str]:
    """What belongs in each file."""
    return {BOARD: json.dumps(build_board(), indent=2) + "\n", CONFIG: CONFIGURATION}


def build_board() -> dict[str, Any]:
    """The board: a row of panels for each group, then a panel for every metric that none of them shows."""
    families = {_stored_name(family): family for family in Metrics().families()}
    shown = {name for row in ROWS.values() for panel in row for name in panel.metrics}
    more = tuple(Panel(family.documentation, (name,)) for name, family in sorted(families.items()) if name not in shown)
    return {
        "title": "headcount",
        "uid": "headcount",
        "schemaVersion": 39,
        "editable": True,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "templating": {"list": [_source_variable(), _model_variable()]},
        "panels": list(_place({**ROWS, "More": more}, families)),
    }


def queries(family: Metric) -> list[tuple[str, str]]:
    """PromQL for a metric and the legend of what comes out: gauges as they are, counters a second, quantiles."""
    name = PREFIX + _stored_name(family)
    if family.type == "histogram":
        rate = f"sum by (le, model_name) (rate({name}_bucket{{{MODEL}}}[$__rate_interval]))"
        return [(f"histogram_quantile({q}, {rate})", f"{{{{model_name}}}} {100 * q:g} %") for q in QUANTILES]
    extra = _extra_label(name)
    legend = f"{{{{model_name}}}} {{{{{extra}}}}}" if extra else f"{{{{model_name}}}} {_words(name)}"
    if family.type == "counter":
        return [
            (f"sum by (model_name{', ' + extra if extra else ''}) (rate({name}{{{MODEL}}}[$__rate_interval]))", legend)
        ]
    return [(f"{name}{{{MODEL}}}", legend)]


LABELS = {
    "requests_total": "finish_reason",
    "rejected_requests_total": "reason",
    "kv_cache_blocks": "state",
    "startup_seconds": "phase",
}
"""Metrics that a label beside the model's tells apart."""


def _extra_label(name: str) -> str | None:
    return LABELS.get(name.removeprefix(PREFIX))


def _stored_name(family: Metric) -> str:
    """As Prometheus stores it, without the prefix: counters end in _total."""
    name = family.name.removeprefix(PREFIX)
    return f"{name}_total" if family.type == "counter" else name


def _words(name: str) -> str:
    """`generation tokens` of headcount_generation_tokens_total."""
    return name.removeprefix(PREFIX).removesuffix("_total").removesuffix("_bytes").replace("_", " ")


def _place(rows: dict[str, tuple[Panel, ...]], families: dict[str, Metric]) -> Iterator[dict[str, Any]]:
    """Panels from left to right, rows from top to bottom."""
    number, y = 1, 0
    for title, panels in rows.items():
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": _box(0, y, COLUMNS, 1),
        }
        number, y = number + 1, y + 1
        for place, panel in enumerate(panels):
            line, column = divmod(place, COLUMNS // WIDTH)
            box = _box(column * WIDTH, y + line * HEIGHT, WIDTH, HEIGHT)
            yield {"id": number, "gridPos": box, **_draw(panel, [families[name] for name in panel.metrics])}
            number += 1
        y += -(-len(panels) // (COLUMNS // WIDTH)) * HEIGHT


def _draw(panel: Panel, families: list[Metric]) -> dict[str, Any]:
    asked = [query for family in families for query in queries(family)]
    custom = {"lineWidth": 2, "fillOpacity": 25 if panel.is_stacked else 6, "showPoints": "never", "axisSoftMin": 0}
    stacking = {"stacking": {"mode": "normal"}} if panel.is_stacked else {}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": " ".join(family.documentation for family in families),
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": _unit(families[0]), "custom": custom | stacking}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + place), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(asked)
        ],
    }


def _unit(family: Metric) -> str:
    """Grafana's name of the unit that the metric's own name holds."""
    unit = next((unit for word, unit in UNITS.items() if word in family.name.split("_")), "short")
    return "Bps" if family.type == "counter" and unit == "bytes" else unit


def _box(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _source_variable() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _model_variable() -> dict[str, Any]:
    return {
        "name": "model",
        "label": "Model",
        "type": "query",
        "datasource": SOURCE,
        "query": f"label_values({PREFIX}engine_up, model_name)",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


CONFIGURATION = f"""# Written by `python -m deploy.monitoring`.
global:
  scrape_interval: {SCRAPE_INTERVAL}

scrape_configs:
  - job_name: {JOB}
    # A server that others can reach asks for its key here too.
    authorization:
      credentials_file: /run/secrets/headcount_api_key
    static_configs:
      - targets: ["{TARGET}"]
"""


if __name__ == "__main__":
    main()
