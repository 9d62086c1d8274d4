"""A server whose engine says what a test tells it to say, token by token, with everything above the engine real."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
from fastapi import FastAPI

from configs.http import HTTPSettings
from engine.admission import check_request
from engine.errors import QueueFullError
from engine.request import FinishReason, Request, TokenDelta, TokenLogprobs
from engine.streams import DeltaStream
from server.app import create_app
from server.chat import ChatTemplates
from server.chat_template import ChatTemplate, TemplateSource
from server.confined.jobs import Answer, Job
from server.confined.process import Worker
from server.grammar_service import GrammarService
from server.served_model import GenerationDefaults, ServedModel
from server.tokenizer import Tokenizer
from tests.server import tiny_tokenizers as tiny
from tests.server.stand_ins import FakeClient, make_info

TEMPLATE = """{% for m in messages %}{{ '<' + m.role + '>' + m.content + '\\n' }}{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""
OUTPUT = "hello é hello"
VOCABULARY = tiny.byte_level().get_vocab()
EOS_ID = VOCABULARY[tiny.EOS]


class FakeEngine(FakeClient):
    """Answers every request with `says(request)`, at once, or when a test calls `step`.

    Attributes:
        requests: all that came, in order.
        aborted: ids of those that were closed before their end.
        is_manual: tokens come only with `step`.
        max_num_requests: more at once are refused.
    """

    def __init__(self, says: Callable[[Request], list[TokenDelta]], *, is_manual: bool = False) -> None:
        super().__init__(msgspec.structs.replace(make_info(max_model_len=200), vocab_size=len(VOCABULARY)))
        self.requests: list[Request] = []
        self.aborted: list[str] = []
        self.is_manual = is_manual
        self.max_num_requests = 50
        self._says = says
        self._open: dict[str, tuple[DeltaStream, list[TokenDelta]]] = {}

    @property
    def num_open(self) -> int:
        return len(self._open)

    def generate(self, request: Request) -> DeltaStream:
        assert self.info is not None
        check_request(request, self.info)
        if self.num_open >= self.max_num_requests:
            raise QueueFullError("too many wait", retry_after_s=1.5)
        self.requests.append(request)
        stream = DeltaStream(request.request_id, self._close)
        self._open[request.request_id] = stream, self._says(request)
        while not self.is_manual and request.request_id in self._open:
            self.step(request.request_id)
        return stream

    def step(self, request_id: str | None = None) -> None:
        """The next delta of one request, or of each."""
        for key in [request_id] if request_id else list(self._open):
            stream, deltas = self._open[key]
            delta = deltas.pop(0)
            stream.put(delta)
            if delta.finish_reason is not None:
                del self._open[key]

    def send_all(self, **fields: Any) -> None:
        """A delta of the test's own for each open request."""
        for key, (stream, _) in list(self._open.items()):
            stream.put(TokenDelta(key, **fields))
            if "finish_reason" in fields:
                del self._open[key]

    def _close(self, request_id: str) -> None:
        if self._open.pop(request_id, None) is not None:
            self.aborted.append(request_id)

    async def start(self) -> None: ...

    async def shutdown(self) -> None:
        self.send_all(finish_reason=FinishReason.ABORT, error="the server is shutting down", is_engine_lost=True)

    async def wait_ready(self) -> Any:
        return self.info


def deltas_of(request: Request, token_ids: list[int], *, cached: int = 0) -> list[TokenDelta]:
    """What the engine sends for `token_ids`, which end with EOS or go on to max_tokens."""
    params = request.sampling_params
    token_ids = token_ids[: params.max_tokens]
    deltas = [
        TokenDelta(
            request.request_id,
            [token_id],
            logprobs=[] if params.logprobs is None else [entry(token_id, params.logprobs)],
            num_cached_tokens=cached,
        )
        for token_id in token_ids
    ] or [TokenDelta(request.request_id, num_cached_tokens=cached)]
    if params.prompt_logprobs is not None:
        # As from a prompt that is computed in two chunks: some before the first token, the rest with it.
        entries = [entry(i, params.prompt_logprobs) for i in request.prompt_token_ids[1:]]
        deltas[0].prompt_logprobs = entries[len(entries) // 2 :]
        first = TokenDelta(request.request_id, prompt_logprobs=entries[: len(entries) // 2], num_cached_tokens=cached)
        deltas.insert(0, first)
    is_stop = bool(token_ids) and token_ids[-1] == EOS_ID
    deltas[-1].finish_reason = FinishReason.STOP if is_stop else FinishReason.LENGTH
    deltas[-1].stop_token_id = EOS_ID if is_stop else None
    return deltas


def entry(token_id: int, num_top: int) -> TokenLogprobs:
    """Log-probabilities that tell whose they are."""
    tops = [(token_id + i) % len(VOCABULARY) for i in range(num_top)]
    return TokenLogprobs(token_id, -float(token_id), tops, [-float(top) for top in tops])


def encode(text: str) -> list[int]:
    ids: list[int] = tiny.byte_level().encode(text, add_special_tokens=False).ids
    return ids


def say(text: str = OUTPUT) -> Callable[[Request], list[TokenDelta]]:
    """`text`, then the end."""
    return lambda request: deltas_of(request, [*encode(text), EOS_ID])


class FakeProcess:
    """Does the jobs of a confined process in this one."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self._worker = Worker()

    async def run(self, job: Job) -> Answer:
        self.jobs.append(job)
        return self._worker.work(job)

    async def close(self) -> None: ...


class FakeServer:
    """The whole application on one fake engine.

    Attributes:
        engine: its engine.
        app: the application.
    """

    def __init__(
        self,
        folder: Path,
        says: Callable[[Request], list[TokenDelta]] | None = None,
        *,
        is_manual: bool = False,
        template: str | None = TEMPLATE,
        **http: Any,
    ) -> None:
        self.engine = FakeEngine(says or say(), is_manual=is_manual)
        self.tokenizer = Tokenizer(tiny.save(tiny.byte_level(), folder))
        compiled = ChatTemplate(TemplateSource(template)) if template is not None else None
        templates = ChatTemplates(compiled, compiled) if compiled else None
        model = ServedModel("tiny", cast(Any, self.engine), self.tokenizer, templates, GenerationDefaults({}))
        self.app: FastAPI = create_app(HTTPSettings(**http), {"tiny": model})
        self.state = self.app.state.server
        self.state.template_process = self.state.grammar_process = FakeProcess()
        self.state.grammars = GrammarService(self.state.grammar_process, self.state.http.max_grammar_bytes)
        self.state.metrics.register(model)

    def metric(self, line: str) -> float:
        """The number that follows `line` on the metrics page."""
        page = self.state.metrics.render()[0].decode()
        return float(next(row for row in page.splitlines() if row.startswith(line)).rpartition(" ")[2])


def events(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream that is framed and ended as it must be; comments are left out."""
    frames = text.split("\n\n")
    assert frames.pop() == ""
    data = [frame for frame in frames if not frame.startswith(":")]
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in data)
    assert data.pop() == "data: [DONE]"
    return [json.loads(frame.removeprefix("data: ")) for frame in data]
