"""Families with experts."""

from tests.engine.parity.rows.row import Row

ROWS: dict[str, Row] = {}
