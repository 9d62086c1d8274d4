"""The table in the log at the start: every owner of the device's memory, and every phase."""

import io

from rich.console import Console

from server.start_report import ledger_entries, print_start
from tests.server.stand_ins import make_info


def test_the_table_has_every_entry_and_both_sums() -> None:
    info = make_info()
    print_start(info, Console(file=(out := io.StringIO()), width=100))
    lines = [line.split() for line in out.getvalue().splitlines() if line.strip()]
    words = {word for line in lines for word in line}
    assert sum(ledger_entries(info.ledger).values()) == info.ledger.total_bytes
    assert {f"{number:,}" for number in (*ledger_entries(info.ledger).values(), info.ledger.total_bytes)} <= words
    assert {"import", "1.50", "weights", "0.50", "2.00"} <= words


def test_a_log_file_gets_plain_text() -> None:
    print_start(make_info(), Console(file=(out := io.StringIO())))
    assert "\x1b" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80
