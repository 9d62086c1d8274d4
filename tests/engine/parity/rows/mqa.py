"""Families whose query heads all share one key/value head."""

from tests.engine.parity.rows.row import Row

ROWS: dict[str, Row] = {}
