"""`headcount serve`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from configs.serve import ServeSettings

DEFAULTS = ServeSettings()


def serve(
    *sources: Annotated[str, Parameter(show_default=False)],
    settings: ServeSettings = DEFAULTS,
    config: Annotated[Path | None, Parameter(show_default=False)] = None,
    preset: str | None = None,
) -> int:
    """Serve models over the OpenAI API.

    Each setting can be given as a flag, as the variable HEADCOUNT_NAME or as a key of a TOML file, with underscores;
    flags come before variables, variables before --config, --config before --preset.

    Args:
        sources: models to serve, as --model: `headcount serve demo small=/models/small`.
        settings: the models, their engines and the HTTP front.
        config: TOML file of settings, with a table `[models.NAME]` for a model that has settings of its own.
        preset: a settings file that comes with headcount: cpu, demo or h200.
    """
    from checkpoints.resolve import resolve_model
    from configs.fields import with_overrides
    from engine.child import EngineChild

    if sources:
        settings = with_overrides(settings, {"model": (*sources, *settings.model)}, "the command line")
    folders = [(entry, resolve_model(entry.source)) for entry in settings.entries()]
    children = [EngineChild() for _ in folders]  # before the imports that follow: they take seconds, as theirs do

    from server.run import serve as run_server
    from server.served_model import load_served_model

    models = {
        entry.name: load_served_model(entry.name, folder, entry.settings, child)
        for (entry, folder), child in zip(folders, children, strict=True)
    }
    return run_server(settings.http, models, settings.tracing)
