"""`headcount chat`."""

import sys
from typing import TYPE_CHECKING

from cyclopts import Group, Parameter
from pydantic import Field
from rich.console import Console

from configs.base import Settings
from server.cli.errors import CommandError
from server.cli.options import ServerOptions

if TYPE_CHECKING:
    from server.cli.conversation import Conversation

PROMPT = "\nyou > "
HELP = "/reset forgets the conversation, Ctrl-C stops an answer, Ctrl-D ends"


@Parameter(name="*", group=Group.create_ordered("Sampling"))
class SamplingOptions(Settings):
    """How the answer is chosen; what is unset is left to the server."""

    temperature: float | None = Field(default=None, ge=0)
    """0 always takes the most probable token."""

    top_p: float | None = Field(default=None, gt=0, le=1)
    """Only the most probable tokens that together have this probability."""

    top_k: int | None = Field(default=None, ge=0)
    """Only this many most probable tokens."""

    min_p: float | None = Field(default=None, ge=0, le=1)
    """Only tokens at least this times as probable as the most probable one."""

    max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer in tokens."""

    seed: int | None = None
    """The same seed gives the same answer."""


DEFAULT_SERVER = ServerOptions()
DEFAULT_SAMPLING = SamplingOptions()


def chat(
    *, server: ServerOptions = DEFAULT_SERVER, sampling: SamplingOptions = DEFAULT_SAMPLING, system: str | None = None
) -> None:
    """Talk to a model on a running server.

    At a terminal it is a conversation; with piped input (`echo hi | headcount chat`) it prints one plain answer.

    Args:
        server: where the server is.
        sampling: how answers are chosen.
        system: instruction that comes before the conversation.
    """
    from server.cli.conversation import Conversation

    with Conversation(server, sampling.model_dump(exclude_none=True), system) as conversation:
        if sys.stdin.isatty():
            _converse(conversation, Console(highlight=False))
        else:
            _answer_pipe(conversation)


def _answer_pipe(conversation: "Conversation") -> None:
    question = sys.stdin.read().strip()
    if not question:
        raise CommandError("there is nothing on standard input to answer")
    for text in conversation.ask(question):
        sys.stdout.write(text)
        sys.stdout.flush()
    sys.stdout.write("\n")


def _converse(conversation: "Conversation", console: Console) -> None:
    import readline  # noqa: F401  gives the prompt line editing and a history

    console.print(f"[bold]{conversation.model}[/] at {conversation.url}\n[dim]{HELP}[/]")
    while True:
        try:
            question = input(PROMPT).strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            console.print("\n[dim]Ctrl-D ends[/]")
            continue
        if question == "/reset":
            conversation.reset()
            console.print("[dim]forgotten[/]")
        elif question.startswith("/"):
            console.print(f"[dim]{HELP}[/]")
        elif question:
            _print_answer(conversation, question, console)


def _print_answer(conversation: "Conversation", question: str, console: Console) -> None:
    console.print(f"[bold green]{conversation.model}[/] > ", end="")
    try:
        for text in conversation.ask(question):
            console.print(text, end="", markup=False, soft_wrap=True)
        console.print()
    except KeyboardInterrupt:
        console.print("[dim] … stopped[/]")
    except CommandError as error:
        console.print(f"\n{error}", style="red", markup=False)
