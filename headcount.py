"""headcount's public face: `from headcount import LLM, SamplingParams`; `python -m headcount` is the command line.

PyTorch takes seconds to import, so it is imported when a model is loaded and not before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from configs.engine import EngineSettings
from configs.fields import with_overrides
from configs.scheduler import SchedulerSettings
from engine.errors import RequestRefusedError
from engine.request import FinishReason, Request, SamplingParams, TokenDelta, TokenLogprobs
from heads.results import Ablation, Conversion, Inspection, Pruning
from server.cli.app import main

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from heads.pooling import Method
    from server.tokenizer import Tokenizer

__all__ = [
    "LLM",
    "EngineSettings",
    "FinishReason",
    "Generation",
    "SamplingParams",
    "ablate_heads",
    "convert_heads",
    "inspect_heads",
    "main",
    "prune_heads",
]

Prompt = str | list[int]


class Generation(NamedTuple):
    """What a prompt gave.

    Attributes:
        prompt_token_ids: the prompt as token ids.
        text: the output, without the stop string or end token that ended it.
        token_ids: the output's token ids.
        finish_reason: why it ended.
        logprobs: of the output tokens, where asked for.
        prompt_logprobs: of the prompt tokens after the first, where asked for.
        num_cached_tokens: prompt tokens found in the prefix cache.
    """

    prompt_token_ids: list[int]
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    logprobs: list[TokenLogprobs]
    prompt_logprobs: list[TokenLogprobs]
    num_cached_tokens: int


UNPACED = EngineSettings(scheduler=SchedulerSettings(max_decode_slowdown=1000.0))


class LLM:
    """A model in this process, for scripts and notebooks.

        llm = LLM("demo", dtype="float32")
        for generation in llm.generate(["The capital of France is"], SamplingParams(max_tokens=8)):
            print(generation.text)

    Args:
        model: a folder, `demo`, or a repository id.
        settings: of the engine; None: the defaults, but prompts wait for no stream, as nobody reads along.
        overrides: any engine setting by its flat name, as on the command line: dtype, max_model_len, block_size, ...

    Attributes:
        core: the engine itself, for those who want to take its steps one by one.
        info: the fixed facts of it.
        tokenizer: text to token ids and back.

    Raises:
        SettingsError: an unknown setting, or a value out of range.
        CheckpointError, EngineError: the model cannot be loaded.
    """

    def __init__(self, model: str, settings: EngineSettings | None = None, **overrides: Any) -> None:
        from checkpoints.resolve import resolve_model
        from engine.loading import load_engine
        from server.chat import load_chat_templates
        from server.tokenizer import Tokenizer

        folder = resolve_model(model)
        self.core = load_engine(folder, with_overrides(settings or UNPACED, overrides, "LLM(...)"))
        self.tokenizer = Tokenizer(folder)
        self.info = self.core.info
        self._chat_templates = load_chat_templates(folder, self.tokenizer)
        self._num_requests = 0
        self._has_grammars = False

    def generate(
        self,
        prompts: Prompt | list[str] | list[list[int]],
        sampling_params: SamplingParams | list[SamplingParams] | None = None,
        *,
        show_progress: bool = True,
    ) -> list[Generation]:
        """Go on with every prompt; all of them run as one continuous batch.

        Args:
            prompts: one or several, as text or token ids.
            sampling_params: for all prompts, or one for each; None: SamplingParams().
            show_progress: a progress bar on standard error, where that is a terminal.

        Returns:
            One Generation for each prompt, in order.

        Raises:
            RequestRefusedError: a prompt does not fit the context, or a token id is out of range; nothing has run then. Or
                a grammar is wrong, which shows when it is compiled.
            ValueError: the numbers of prompts and of sampling_params differ.
        """
        token_ids = [self._encode(prompt) for prompt in _as_list(prompts)]
        params = sampling_params or SamplingParams()
        each = params if isinstance(params, list) else [params] * len(token_ids)
        jobs = [self._job(ids, one) for ids, one in zip(token_ids, each, strict=True)]
        with _progress(sum(job.request.sampling_params.max_tokens for job in jobs), show_progress) as advance:
            self._run({job.request.request_id: job for job in jobs}, advance)
        return [job.result() for job in jobs]

    def chat(
        self,
        messages: list[dict[str, str]],
        sampling_params: SamplingParams | None = None,
        *,
        show_progress: bool = False,
    ) -> Generation:
        """Answer a conversation of `{"role": ..., "content": ...}` messages through the model's chat template.

        Raises:
            ValueError: the model has no chat template.
        """
        prompt = self.tokenizer.encode(self.render(messages), add_special_tokens=False)
        [generation] = self.generate([prompt], sampling_params, show_progress=show_progress)
        return generation

    def render(self, messages: list[dict[str, str]]) -> str:
        """The prompt that the model's chat template makes of a conversation.

        Raises:
            ValueError: the model has no chat template.
        """
        from server.chat_template import Conversation

        if self._chat_templates is None:
            raise ValueError("the model has no chat template; use generate")
        return self._chat_templates.plain.render(Conversation(messages=list(messages)))

    def _encode(self, prompt: Prompt) -> list[int]:
        return self.tokenizer.encode(prompt, add_special_tokens=True) if isinstance(prompt, str) else prompt

    def _job(self, prompt_token_ids: list[int], params: SamplingParams) -> "_Job":
        from engine.admission import check_request

        self._num_requests += 1
        request = Request(
            request_id=f"llm-{self._num_requests}", prompt_token_ids=prompt_token_ids, sampling_params=params
        )
        check_request(request, self.info)
        if params.grammar and not self._has_grammars:
            self.core.learn(self.tokenizer.all_token_bytes)
            self._has_grammars = True
        return _Job(request, self.tokenizer)

    def _run(self, jobs: dict[str, "_Job"], advance: Callable[[int], None]) -> None:
        """Step until all jobs have ended; an interrupt or an error leaves no request behind."""
        try:
            for job in jobs.values():
                self.core.add(job.request)
            while self.core.has_requests:
                for delta in self.core.step():
                    job = jobs[delta.request_id]
                    advance(job.feed(delta))
                    if job.finish_reason is not None:
                        self.core.abort(delta.request_id)
        finally:
            for request_id in jobs:
                self.core.abort(request_id)


class _Job:
    """One request of LLM.generate and what has come of it so far."""

    def __init__(self, request: Request, tokenizer: "Tokenizer") -> None:
        from server.text_assembler import TextAssembler

        self.request = request
        self.finish_reason: FinishReason | None = None
        self._assembler = TextAssembler(
            tokenizer, request.prompt_token_ids, request.sampling_params, skip_special_tokens=True, include_stop=False
        )
        self._text: list[str] = []
        self._logprobs: list[TokenLogprobs] = []
        self._prompt_logprobs: list[TokenLogprobs] = []

    def feed(self, delta: TokenDelta) -> int:
        """Take a delta; how far the progress bar moves: to the end of max_tokens where the request has ended.

        Raises:
            RequestRefusedError: the request's grammar is wrong, or cannot go on.
        """
        if delta.is_grammar_error:
            raise RequestRefusedError(delta.error or "", code="invalid_grammar", param="grammar")
        piece = self._assembler.feed(delta)
        self._text.append(piece.text)
        self._logprobs += [placed.entry for placed in piece.logprobs if placed.entry]
        self._prompt_logprobs += delta.prompt_logprobs
        self.finish_reason = piece.finish_reason
        if self.finish_reason is None:
            return len(delta.token_ids)
        num_left = self.request.sampling_params.max_tokens - len(self.request.output_token_ids)
        return len(delta.token_ids) + num_left

    def result(self) -> Generation:
        return Generation(
            prompt_token_ids=self.request.prompt_token_ids,
            text="".join(self._text),
            token_ids=self.request.output_token_ids,
            finish_reason=self.finish_reason or FinishReason.ABORT,
            logprobs=self._logprobs,
            prompt_logprobs=self._prompt_logprobs,
            num_cached_tokens=self.request.num_cached_tokens,
        )


def convert_heads(
    model: str, destination: "Path", num_kv_heads: int, method: "Method" = "mean", *, text: str = ""
) -> Conversion:
    """Write a model with another number of key/value heads; see heads.convert."""
    from checkpoints.resolve import resolve_model
    from heads import convert

    return convert.convert_heads(resolve_model(model), destination, num_kv_heads, method, text=text)


def inspect_heads(model: str, text: str, window_tokens: int) -> Inspection:
    """Look at every head of a model while it reads a text; see heads.inspection."""
    from checkpoints.resolve import resolve_model
    from heads import inspection

    return inspection.inspect_heads(resolve_model(model), text, window_tokens, model=model)


def ablate_heads(model: str, text: str, num_heads: int, window_tokens: int) -> Ablation:
    """Leave out the heads of most and of least importance, one at a time; see heads.ablation."""
    from checkpoints.resolve import resolve_model
    from heads import ablation

    return ablation.ablate_heads(resolve_model(model), text, num_heads, window_tokens, model=model)


def prune_heads(
    model: str,
    destination: "Path",
    *,
    fraction: float | None = None,
    heads: "Sequence[tuple[int, int]]" = (),
    text: str = "",
) -> Pruning:
    """Write a model with fewer heads, and measure it; see heads.prune."""
    from checkpoints.resolve import resolve_model
    from heads import prune

    return prune.prune_heads(resolve_model(model), destination, fraction=fraction, heads=heads, text=text)


def _as_list(prompts: Prompt | list[str] | list[list[int]]) -> list[Prompt]:
    if isinstance(prompts, str) or (prompts and isinstance(prompts[0], int)):
        return [prompts]
    return list(prompts)  # type: ignore[arg-type]


@contextmanager
def _progress(num_tokens: int, is_shown: bool) -> Iterator[Callable[[int], None]]:
    """A bar of output tokens; gives the function that advances it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("Generating"), BarColumn(), MofNCompleteColumn(), TextColumn("tokens"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not (is_shown and console.is_terminal)) as progress:
        task = progress.add_task("", total=num_tokens)
        yield lambda num_new: progress.advance(task, num_new)


if __name__ == "__main__":
    raise SystemExit(main())
