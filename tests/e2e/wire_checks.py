"""What must hold of every answer of a server, whatever it was asked."""

import json
from typing import Any

ERROR_FIELDS = {"message", "type", "param", "code"}


def check_answer(status: int, content_type: str, text: str) -> None:
    """No server error, every error in the one shape, every stream ended in order."""
    assert status < 500, (status, text)
    if status >= 400:
        assert content_type == "application/json", content_type
        check_error(json.loads(text))
    elif content_type.startswith("text/event-stream"):
        check_stream(text)


def check_error(body: dict[str, Any]) -> None:
    """The envelope, with a message that a terminal can show."""
    assert set(body) == {"error"}, body
    error = body["error"]
    assert set(error) == ERROR_FIELDS, error
    assert all(isinstance(error[name], str) and error[name] for name in ERROR_FIELDS - {"param"}), error
    assert error["message"].isprintable(), error
    assert "Traceback" not in error["message"], error
    assert ".py" not in error["message"], error


def check_stream(text: str) -> None:
    """Each event is a chunk without an error; the last one is [DONE], and every choice has ended before it."""
    frames = [frame for frame in text.split("\n\n") if not frame.startswith(":")]
    assert frames[-2:] == ["data: [DONE]", ""], text[-200:]
    chunks = [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]
    assert not any("error" in chunk for chunk in chunks), chunks[-1]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    ended = [choice["index"] for choice in choices if choice["finish_reason"]]
    assert sorted(ended) == sorted({choice["index"] for choice in choices}), "each choice ends once"
