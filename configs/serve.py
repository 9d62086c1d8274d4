"""All that `headcount serve` is told."""

from pathlib import PurePath
from typing import Annotated, NamedTuple, Self

from cyclopts import Parameter
from pydantic import Field, model_validator

from configs.base import Settings
from configs.engine import EngineSettings
from configs.fields import with_overrides
from configs.groups import MODEL
from configs.http import HTTPSettings
from configs.tracing import TracingSettings

DEFAULT_MODEL = "demo"


class ModelEntry(NamedTuple):
    """One model to serve.

    Attributes:
        name: what clients call it.
        source: a folder, `demo`, or a repository id.
        settings: what its engine is told.
    """

    name: str
    source: str
    settings: EngineSettings


@Parameter(name="*")
class ServeSettings(Settings):
    """The models, their engines and the HTTP front of one server."""

    model: Annotated[tuple[str, ...], Parameter(group=MODEL, negative="", show_default=False)] = ()
    """Model to serve: a folder, `demo`, a repository id, or NAME=one of these. Repeat it for several. Unset: `demo`."""

    models: Annotated[dict[str, dict[str, str]], Parameter(show=False, negative="")] = Field(default={})
    """Tables `[models.NAME]` of a TOML file: `path`, and any engine setting for that model alone."""

    engine: EngineSettings = Field(default=EngineSettings())
    """What every engine is told where its own table does not say otherwise."""

    http: HTTPSettings = Field(default=HTTPSettings())
    """The HTTP front."""

    tracing: TracingSettings = Field(default=TracingSettings())
    """Where traces go."""

    @model_validator(mode="after")
    def _entries_are_valid(self) -> Self:
        self.entries()
        return self

    def entries(self) -> list[ModelEntry]:
        """Every model to serve: those of `model` in order, then the tables that `model` does not name.

        Raises:
            SettingsError: two models have one name, or a table is not valid.
        """
        named = [split_model(text) for text in self.model]
        named += [(name, name) for name in self.models if name not in dict(named)]
        entries = [self._entry(name, source) for name, source in named or [(DEFAULT_MODEL, DEFAULT_MODEL)]]
        names = [entry.name for entry in entries]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"two models are served as {', '.join(twice)}: give one another name with --model NAME=PATH"
            )
        return entries

    def _entry(self, name: str, source: str) -> ModelEntry:
        overrides = dict(self.models.get(name, {}))
        source = overrides.pop("path", source)
        return ModelEntry(name, source, with_overrides(self.engine, overrides, f"[models.{name}]"))


def split_model(text: str) -> tuple[str, str]:
    """`NAME=SOURCE`, or a source alone, which names itself: a path by its last folder.

    `small=/data/smol` is ("small", "/data/smol"), `./smol/` ("smol", "./smol/"), `org/smol` ("org/smol", "org/smol").
    """
    name, equals, source = text.partition("=")
    if equals and "/" not in name:
        return name, source
    is_path = text.startswith(("/", ".", "~")) or text.endswith("/")
    return (PurePath(text).name or text) if is_path else text, text
