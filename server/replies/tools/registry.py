"""Which format a model's calls of tools have."""

from server.replies.tools.hermes import HermesParser
from server.replies.tools.llama3 import Llama3Parser
from server.replies.tools.mistral import MistralParser
from server.replies.tools.parser import ToolParser

FORMATS: tuple[type[ToolParser], ...] = (HermesParser, MistralParser, Llama3Parser)


def find_format(template: str) -> type[ToolParser] | None:
    """The format of the model with this chat template; None where it is none of ours."""
    return next((kind for kind in FORMATS if kind.is_used_by(template)), None)
