"""A process that does one job at a time within limits: `python -m server.confined.process`, started by the client.

Nothing can interrupt a template that loops, or a regular expression that grows, in a thread. Here the kernel does: a job
arms a timer whose signal ends the process, and memory has a limit. The process ends with its standard input.
"""

import resource
import signal
import sys
from typing import TYPE_CHECKING, BinaryIO

from server.chat_template import ChatTemplate, TemplateRefusedError, TemplateSource
from server.confined.jobs import (
    HEADER,
    Answer,
    Compile,
    Done,
    Job,
    Refused,
    Render,
    Teach,
    UnknownVocabulary,
    decode_task,
    frame,
)

if TYPE_CHECKING:
    import llguidance

MAX_MEMORY_BYTES = 2 * 1024**3
MAX_PROMPT_CHARS = 10_000_000
MAX_TEMPLATES = 32


class Worker:
    """Does the jobs, and keeps what makes the next one of its kind fast."""

    def __init__(self) -> None:
        self._templates: dict[TemplateSource, ChatTemplate] = {}
        self._tokenizers: dict[str, llguidance.LLTokenizer] = {}

    def work(self, job: Job) -> Answer:
        """The answer to a job."""
        try:
            match job:
                case Render():
                    return self._render(job)
                case Compile():
                    return self._compile(job)
                case Teach():
                    return self._teach(job)
        except MemoryError:
            return Refused(f"it takes more than {MAX_MEMORY_BYTES} bytes of memory")

    def _render(self, job: Render) -> Answer:
        template = self._templates.get(job.template)
        if template is None:
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            template = self._templates[job.template] = ChatTemplate(job.template)
        try:
            text = template.render(job.conversation)
        except TemplateRefusedError as error:
            return Refused(str(error), error.param)
        if len(text) > MAX_PROMPT_CHARS:
            return Refused(f"its output is longer than {MAX_PROMPT_CHARS} characters", "messages")
        return Done(text)

    def _compile(self, job: Compile) -> Answer:
        from server.confined.check_grammar import check_grammar  # noqa: PLC0415 - slow, and templates need none of it

        tokenizer = self._tokenizers.get(job.vocabulary)
        return UnknownVocabulary() if tokenizer is None else check_grammar(tokenizer, job.grammar)

    def _teach(self, job: Teach) -> Answer:
        from engine.grammar import build_tokenizer  # noqa: PLC0415 - the same

        self._tokenizers[job.vocabulary] = build_tokenizer(job.token_bytes, job.vocab_size, job.eos_token_ids)
        return Done()


def main() -> None:
    """Answer frames until there are no more."""
    for name in (signal.SIGINT, signal.SIGTERM):  # the server decides when this ends
        signal.signal(name, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    worker = Worker()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while (data := _read_frame(source)) is not None:
        task = decode_task(data)
        signal.setitimer(signal.ITIMER_PROF, task.limit_s)  # SIGPROF ends the process
        answer = worker.work(task.job)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sink.write(frame(answer))
        sink.flush()


def _read_frame(source: BinaryIO) -> bytes | None:
    header = source.read(HEADER.size)
    return source.read(HEADER.unpack(header)[0]) if len(header) == HEADER.size else None


if __name__ == "__main__":
    main()
