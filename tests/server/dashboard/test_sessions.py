"""Sessions: signed by this process, for a time."""

import pytest

from server.dashboard import sessions
from server.dashboard.sessions import LIFETIME_S, Sessions


def test_a_token_is_known_where_it_was_issued() -> None:
    ours, theirs = Sessions(), Sessions()
    token = ours.issue()
    assert ours.is_valid(token)
    assert not theirs.is_valid(token)


@pytest.mark.parametrize("token", ["", ".", "x", "1.", "99999999999", "inf.", "nan.00", "9e9.é"])
def test_nothing_else_is(token: str) -> None:
    assert not Sessions().is_valid(token)


def test_nobody_can_make_it_last() -> None:
    known = Sessions()
    expiry, _, signature = known.issue().partition(".")
    assert not known.is_valid(f"{int(expiry) + 1}.{signature}")


def test_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Sessions()
    token, now_s = known.issue(), sessions.time.time()
    monkeypatch.setattr(sessions.time, "time", lambda: now_s + LIFETIME_S + 2)
    assert not known.is_valid(token)
