"""Where settings come from: flags > environment > TOML file > preset > defaults.

Flags are the command line's; this module reads the other sources, each as a layer of flat names.
"""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from configs.base import Settings
from configs.compare import CompareSettings
from configs.errors import SettingsError, suggest
from configs.fields import check_names, flat_fields
from configs.serve import ServeSettings

ENV_PREFIX = "HEADCOUNT_"
PRESETS = Path(__file__).parent / "presets"
PRESET_KINDS: dict[str, type[Settings]] = {"compare": CompareSettings}
"""Whose settings a preset holds, where they are not those of `headcount serve`."""
OTHER_ENV = frozenset({"cache_dir", "config", "cpu_level", "preset", "url"})
"""Variables that are read elsewhere: where models are kept, the two sources themselves, the server to talk to, and which
instructions native kernels may use."""

LISTS = frozenset({"model", "cors_origins"})


class Layer(NamedTuple):
    """The settings that one source gives.

    Attributes:
        source: what an error calls it.
        values: flat name -> value.
        models: the tables `[models.NAME]`.
    """

    source: str
    values: dict[str, Any]
    models: dict[str, dict[str, Any]]


def read_env(environ: Mapping[str, str]) -> Layer:
    """The `HEADCOUNT_*` variables. Several models, or origins, are separated by commas.

    Raises:
        SettingsError: a variable that names no setting.
    """
    given = {key.removeprefix(ENV_PREFIX).lower(): text for key, text in environ.items() if key.startswith(ENV_PREFIX)}
    known = [name for name in flat_fields(ServeSettings) if name != "models"]
    values: dict[str, Any] = {name: text for name, text in given.items() if name not in OTHER_ENV}
    problems = [
        f"unknown variable {ENV_PREFIX}{name.upper()}{_suggest_variable(name, known)}"
        for name in values
        if name not in known
    ]
    if problems:
        raise SettingsError(*problems)
    for name in LISTS & values.keys():
        values[name] = [part.strip() for part in values[name].split(",") if part.strip()]
    return Layer("the environment", values, {})


def _suggest_variable(name: str, known: list[str]) -> str:
    return suggest(ENV_PREFIX + name.upper(), [ENV_PREFIX + other.upper() for other in known])


def read_toml(path: Path, source: str | None = None, kind: type[Settings] = ServeSettings) -> Layer:
    """A TOML file of flat names, with a table `[models.NAME]` for each model that has settings of its own.

    Args:
        path: of the file.
        source: what an error calls it; its path where that is not said.
        kind: whose settings it holds.

    Raises:
        SettingsError: the file cannot be read, is no TOML, or holds a key that names no setting.
    """
    source = source or str(path)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None
    check_names(values, flat_fields(kind), source)
    models = values.pop("models", {})
    if not isinstance(models, dict) or not all(isinstance(table, dict) for table in models.values()):
        raise SettingsError(f"models in {source} must be tables, one for each model: [models.NAME]")
    return Layer(source, values, models)


def read_preset(name: str, kind: type[Settings] = ServeSettings) -> Layer:
    """One of the presets that come with headcount.

    Raises:
        SettingsError: there is no such preset of that kind; the message lists those that are.
    """
    names = preset_names(kind)
    if name not in names:
        raise SettingsError(f"unknown preset {name}{suggest(name, names)}; there are: {', '.join(names)}")
    return read_toml(PRESETS / f"{name}.toml", f"preset {name}", kind)


def preset_names(kind: type[Settings] = ServeSettings) -> list[str]:
    """The presets that come with headcount and hold settings of that kind."""
    names = sorted(path.stem for path in PRESETS.glob("*.toml"))
    return [name for name in names if PRESET_KINDS.get(name, ServeSettings) is kind]


def read_layers(config: Path | None, preset: str | None, environ: Mapping[str, str]) -> list[Layer]:
    """All sources below the flags, the strongest first.

    Raises:
        SettingsError: see the readers above.
    """
    layers = [read_env(environ)]
    if config is not None:
        layers.append(read_toml(config))
    if preset is not None:
        layers.append(read_preset(preset))
    return layers
