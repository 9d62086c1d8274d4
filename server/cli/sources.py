"""Joins flags with the settings of environment, TOML file and preset, so that one parser sees them all."""

import os
from pathlib import Path

from cyclopts import App, ArgumentCollection, CycloptsError, Token
from cyclopts.config import Dict

from configs.compare import CompareSettings
from configs.errors import SettingsError
from configs.load import ENV_PREFIX, Layer, read_layers, read_preset, read_toml

POSITIONAL_MODELS = "SOURCES"
"""The models that `headcount serve` is given without a flag: they stand for `--model`, so no other source adds to them."""


def apply_sources(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill every setting that no flag gives from the next source that does.

    Raises:
        CycloptsError: a source cannot be read, or holds a name that is unknown.
    """
    config, preset = _given(arguments, "config"), _given(arguments, "preset")
    try:
        layers = read_layers(Path(config) if config else None, preset, os.environ)
    except SettingsError as error:
        raise CycloptsError(msg=str(error), command_chain=commands) from None
    are_named = any(argument.name == POSITIONAL_MODELS and argument.tokens for argument in arguments)
    for layer in layers:
        values = {name: value for name, value in layer.values.items() if not (are_named and name == "model")}
        Dict(values, source=layer.source, use_commands_as_keys=False)(app, commands, arguments)
        _apply_tables(layer, arguments)


def apply_comparison_sources(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """The same for `headcount compare`, whose settings come from flags, TOML file and preset only.

    Raises:
        CycloptsError: as in `apply_sources`.
    """
    config, preset = _flag(arguments, "config"), _flag(arguments, "preset")
    try:
        layers = [read_toml(Path(config), kind=CompareSettings)] if config else []
        layers += [read_preset(preset, CompareSettings)] if preset else []
    except SettingsError as error:
        raise CycloptsError(msg=str(error), command_chain=commands) from None
    for layer in layers:
        Dict(layer.values, source=layer.source, use_commands_as_keys=False)(app, commands, arguments)


def _apply_tables(layer: Layer, arguments: ArgumentCollection) -> None:
    """The tables `[models.NAME]`, token by token: a name may hold dots, at which `Dict` would cut it."""
    argument = next(argument for argument in arguments if argument.name == "--models")
    given = {token.keys for token in argument.tokens}
    for name, table in layer.models.items():
        for key, value in table.items():
            if (name, key) not in given:
                argument.append(Token(keyword=key, value=str(value), source=layer.source, keys=(name, key)))


def _given(arguments: ArgumentCollection, name: str) -> str | None:
    """The flag's text, else the variable's; these two say where the other settings come from."""
    return _flag(arguments, name) or os.environ.get(f"{ENV_PREFIX}{name.upper()}")


def _flag(arguments: ArgumentCollection, name: str) -> str | None:
    tokens = next((argument.tokens for argument in arguments if argument.name == f"--{name}"), [])
    return tokens[0].value if tokens else None
