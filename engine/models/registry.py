"""Architecture name -> family. No torch."""

from engine.errors import ModelLoadError
from engine.models.config_fields import Config
from engine.models.families import gpt2, llama
from engine.models.family import Family
from engine.models.spec import DecoderSpec

FAMILIES: dict[str, Family] = {
    "GPT2LMHeadModel": gpt2.FAMILY,
    "LlamaForCausalLM": llama.FAMILY,
    "MistralForCausalLM": llama.FAMILY,
}


def find_family(config: Config) -> Family:
    """The family of a checkpoint.

    Raises:
        ModelLoadError: its architecture is not supported; the message lists those that are.
    """
    architectures = config.get("architectures") or []
    for name in architectures:
        if name in FAMILIES:
            return FAMILIES[name]
    given = ", ".join(map(str, architectures)) or f"none (model_type {config.get('model_type')!r})"
    raise ModelLoadError(f"architecture not supported: {given}; supported: {', '.join(sorted(FAMILIES))}")


def load_spec(config: Config) -> DecoderSpec:
    """config.json -> DecoderSpec.

    Raises:
        ModelLoadError: unsupported architecture, or a field that is missing or out of range.
    """
    return find_family(config).build_spec(config)
