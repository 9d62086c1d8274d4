"""Every family as a small model: the table that the parity tests run and that the architecture tests hold complete."""

from tests.engine.parity.rows import gqa, mha, moe, mqa, written
from tests.engine.parity.rows.row import Row

ROWS: dict[str, Row] = {**mha.ROWS, **mqa.ROWS, **gqa.ROWS, **moe.ROWS, **written.ROWS}
