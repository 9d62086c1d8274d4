"""docs/operating.md says of every limit what the settings say."""

import re
from pathlib import Path

from configs.fields import flat_fields
from configs.http import HTTPSettings
from configs.serve import ServeSettings

PAGE = (Path(__file__).parents[2] / "docs/operating.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| (\S+) \|", re.MULTILINE)
NO_LIMITS = {
    *("host", "port", "insecure", "keep_alive_interval_s", "cors_origins", "dashboard"),
    *("api_key", "api_key_file", "admin_key", "admin_key_file", "tls_certificate", "tls_key"),
}


def defaults() -> dict[str, str]:
    """Flat name -> default, as the page writes it."""
    settings = ServeSettings().model_dump()
    found = {}
    for name, path in flat_fields(ServeSettings).items():
        value = settings
        for part in path:
            value = value[part]
        found[name] = str(value)
    return found


def test_the_table_has_the_defaults() -> None:
    rows = dict(ROW.findall(PAGE))
    assert len(rows) > 10
    assert rows == {name: value for name, value in defaults().items() if name in rows}


def test_every_limit_of_the_http_front_is_in_the_table() -> None:
    assert set(HTTPSettings.model_fields) - NO_LIMITS <= set(dict(ROW.findall(PAGE)))


def test_every_flag_of_the_page_is_a_setting() -> None:
    flags = {name.replace("-", "_") for name in re.findall(r'(?<=[ `"])--([a-z][a-z-]+)', PAGE)}
    assert flags - set(flat_fields(ServeSettings)) == {"soak_minutes", "overload_seconds", "patience", "help"}
