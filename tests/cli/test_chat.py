"""`headcount chat`, piped and as a conversation."""

import io

import pytest

from headcount import main
from server.cli.conversation import Conversation
from server.cli.options import ServerOptions
from server.cli.sse import ServerError
from tests.cli.conftest import FakeServer


def pipe(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


class Terminal(io.StringIO):
    """Standard input that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_piped_input_gets_one_plain_answer(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, "hi\n")
    arguments = ["--url", fake_server.url, "--system", "be kind", "--temperature", "0", "--api-key", "k"]
    assert main(["chat", *arguments]) == 0
    assert capsys.readouterr().out == "Hello 🌍\n"
    assert fake_server.received == [
        {
            "model": "fake-model",
            "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi"}],
            "stream": True,
            "temperature": 0.0,
        }
    ]
    assert fake_server.keys == ["Bearer k"]


def test_url_and_key_come_from_the_environment_too(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, "hi")
    monkeypatch.setenv("HEADCOUNT_URL", fake_server.url)
    monkeypatch.setenv("HEADCOUNT_API_KEY", "secret")
    assert main(["chat"]) == 0
    assert fake_server.keys == ["Bearer secret"]
    assert "Hello" in capsys.readouterr().out


@pytest.mark.parametrize(("fail", "message"), [("refuse", "too long [HTTP 400]"), ("break", "the engine died")])
def test_errors_are_said_in_one_line(
    fake_server: FakeServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fail: str,
    message: str,
) -> None:
    fake_server.fail = fail
    pipe(monkeypatch, "hi")
    assert main(["chat", "--url", fake_server.url]) == 1
    assert capsys.readouterr().err == f"headcount: {message}\n"


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1", "http://[1"])
def test_without_a_server_it_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    pipe(monkeypatch, "hi")
    assert main(["chat", "--url", url]) == 1
    error = capsys.readouterr().err
    assert f"no server answers at {url}" in error
    assert "headcount serve" in error


def test_empty_input_is_refused(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe(monkeypatch, " \n")
    assert main(["chat", "--url", fake_server.url]) == 1
    assert "nothing on standard input" in capsys.readouterr().err


def test_at_a_terminal_it_is_a_conversation(
    fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = iter(["one", "two", "/help", "/reset", "three"])

    def say(_prompt: str) -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", say)
    assert main(["chat", "--url", fake_server.url]) == 0
    said = [[message["content"] for message in body["messages"]] for body in fake_server.received]
    assert said == [["one"], ["one", "Hello 🌍", "two"], ["three"]]
    assert "forgotten" in capsys.readouterr().out


def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(fake_server: FakeServer) -> None:
    with Conversation(ServerOptions(url=fake_server.url), {}, None) as conversation:
        answer = conversation.ask("one")
        assert next(answer) == "Hel"
        answer.close()
        assert list(conversation.ask("two")) == ["Hel", "lo", " 🌍"]
    assert [message["content"] for message in fake_server.received[-1]["messages"]] == ["one", "Hel", "two"]


def test_a_question_without_an_answer_is_forgotten(fake_server: FakeServer) -> None:
    with Conversation(ServerOptions(url=fake_server.url), {}, None) as conversation:
        fake_server.fail = "refuse"
        with pytest.raises(ServerError):
            list(conversation.ask("one"))
        fake_server.fail = ""
        list(conversation.ask("two"))
    assert [message["content"] for message in fake_server.received[-1]["messages"]] == ["two"]
