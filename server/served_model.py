"""What the server holds for each model, and for all of them."""

from pathlib import Path
from typing import Any

from checkpoints.cache import cache_folder
from checkpoints.errors import CheckpointError
from checkpoints.headers import read_generation_config
from configs.engine import EngineSettings
from configs.http import HTTPSettings
from engine.child import EngineChild
from engine.client import EngineClient
from engine.request import SamplingParams
from server.chat import ChatTemplates, load_chat_templates
from server.compare.runs import COMPARISONS_FOLDER, Comparisons
from server.confined.client import ConfinedProcess
from server.errors import model_not_found
from server.grammar_service import GrammarService
from server.keys import Keys
from server.metrics import Metrics
from server.tokenizer import Tokenizer
from server.tracing import Tracing


class GenerationDefaults:
    """What a request gets that does not say: generation_config.json's values, else OpenAI's.

    Args:
        generation_config: the file's content.

    Raises:
        CheckpointError: a value is none that sampling could use.
    """

    def __init__(self, generation_config: dict[str, Any]) -> None:
        found = {name: value for name, value in generation_config.items() if value is not None}
        try:
            # An explicit do_sample: false is how a checkpoint says "greedy"; transformers then ignores the other fields.
            self.temperature = 0.0 if found.get("do_sample") is False else float(found.get("temperature", 1.0))
            self.top_p = float(found.get("top_p", 1.0))
            self.top_k = int(found.get("top_k", 0))
            SamplingParams(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k)
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"generation_config.json cannot be used: {error}") from None


class ServedModel:
    """One model under its name: the engine that runs it, and how its text is read and written.

    Args:
        name: what clients call it.
        client: its engine.
        tokenizer: its tokenizer.
        chat_templates: its templates; None where it has none.
        defaults: for sampling fields that a request leaves out.
    """

    def __init__(
        self,
        name: str,
        client: EngineClient,
        tokenizer: Tokenizer,
        chat_templates: ChatTemplates | None,
        defaults: GenerationDefaults,
    ) -> None:
        self.name = name
        self.client = client
        self.tokenizer = tokenizer
        self.chat_templates = chat_templates
        self.defaults = defaults


def load_served_model(
    name: str, folder: Path, settings: EngineSettings, child: EngineChild | None = None
) -> ServedModel:
    """Everything of a checkpoint that the server itself needs; its engine loads nothing yet.

    Args:
        name: what clients call it.
        folder: the checkpoint.
        settings: of its engine.
        child: see EngineClient.

    Raises:
        checkpoints.errors.CheckpointError: the tokenizer or a config file is missing or corrupt.
    """
    tokenizer = Tokenizer(folder)
    return ServedModel(
        name,
        EngineClient(name, folder, settings, lambda: tokenizer.all_token_bytes, child),
        tokenizer,
        load_chat_templates(folder, tokenizer),
        GenerationDefaults(read_generation_config(folder)),
    )


class ServerState:
    """What every route can reach, as `request.app.state.server`.

    Args:
        http: limits and addresses.
        models: by name.
        created_s: Unix time of the start.
        tracing: makes the spans; None for none.

    Raises:
        SettingsError: a key file cannot be used.
    """

    def __init__(
        self, http: HTTPSettings, models: dict[str, ServedModel], created_s: int, tracing: Tracing | None = None
    ) -> None:
        self.http = http
        self.models = models
        self.created_s = created_s
        self.keys = Keys(http)
        self.tracing = tracing
        self.metrics = Metrics()
        self.template_process = ConfinedProcess(http.chat_template_timeout_s)
        self.grammar_process = ConfinedProcess(http.grammar_timeout_s)
        self.grammars = GrammarService(self.grammar_process, http.max_grammar_bytes)
        self.comparisons = Comparisons(cache_folder() / COMPARISONS_FOLDER, http.max_compare_s)
        self.is_draining = False
        self.num_open_requests = 0

    async def close(self) -> None:
        """End what the server has started beside its engines."""
        await self.template_process.close()
        await self.grammar_process.close()

    def find(self, name: str) -> ServedModel:
        """The model of that name.

        Raises:
            APIError: there is none (404).
        """
        if name not in self.models:
            raise model_not_found(name, list(self.models))
        return self.models[name]
