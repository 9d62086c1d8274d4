"""Architecture name -> family: every page under families/ is found by itself. No torch."""

import difflib
import importlib
import pkgutil
from typing import NamedTuple

from engine.errors import ModelLoadError
from engine.models import families
from engine.models.config_fields import Config, only
from engine.models.family import Family
from engine.models.layer_fields import build_by_layer
from engine.models.spec import DecoderSpec


class Page(NamedTuple):
    """A page under families/.

    Attributes:
        summary: the first sentence of its docstring.
        family: what it says.
    """

    summary: str
    family: Family


def _find_pages() -> tuple[Page, ...]:
    names = [f"{families.__name__}.{page.name}" for page in pkgutil.iter_modules(families.__path__)]
    modules = [importlib.import_module(name) for name in names]
    return tuple(Page((module.__doc__ or "").split("\n\n")[0].replace("\n", " "), module.FAMILY) for module in modules)


PAGES = _find_pages()
"""By name."""

FAMILIES: dict[str, Family] = {name: page.family for page in PAGES for name in page.family.architectures}

OLDER_NAMES: dict[str, Family] = {name: family for _, family in PAGES for name in family.older_names}


def find_family(config: Config) -> Family:
    """The family of a checkpoint.

    Raises:
        ModelLoadError: its architecture is not supported; the message names what comes close.
    """
    architectures = config.get("architectures") or []
    for name in (*architectures, config.get("model_type")):
        if family := FAMILIES.get(name) or OLDER_NAMES.get(name):
            return family
    given = ", ".join(map(str, architectures)) or f"none (model_type {config.get('model_type')!r})"
    close = difflib.get_close_matches(str(next(iter(architectures), "")), FAMILIES)
    hint = f"; close to it: {', '.join(close)}" if close else ""
    raise ModelLoadError(
        f"architecture not supported: {given}{hint}; `headcount plan --list` shows the {len(PAGES)} families that are"
    )


def load_spec(config: Config) -> DecoderSpec:
    """config.json -> DecoderSpec.

    Raises:
        ModelLoadError: unsupported architecture, a field that is missing or out of range, or one that asks for something
            that no spec can say.
    """
    family = find_family(config)
    only(config, "quantization_config", None)
    for name in ("is_encoder_decoder", "add_cross_attention"):
        only(config, name, False)
    return build_by_layer(family.build_spec, config)
