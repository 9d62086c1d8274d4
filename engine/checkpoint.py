"""What a checkpoint folder says about its model, read without touching a tensor. No torch."""

from pathlib import Path
from typing import Any, NamedTuple

from checkpoints.errors import ConfigFileError
from checkpoints.folders import CONFIG_FILE, GENERATION_CONFIG_FILE
from checkpoints.headers import TensorHeader, read_config, read_generation_config, read_headers
from configs.model import ModelSettings
from engine.dtypes import resolve_dtype
from engine.errors import ModelLoadError
from engine.models.registry import find_family, load_spec
from engine.models.spec import DecoderSpec
from engine.models.tensor_names import TensorNames


class Checkpoint(NamedTuple):
    """A folder's config, generation config and tensor headers, and the spec that follows.

    Attributes:
        eos_token_ids: all end-of-sequence tokens: of generation_config.json, else of config.json; none where neither
            says. Ids beyond the vocabulary, which nothing could generate, are left out.
    """

    config: dict[str, Any]
    generation_config: dict[str, Any]
    headers: dict[str, TensorHeader]
    spec: DecoderSpec
    tensor_names: TensorNames
    eos_token_ids: list[int]

    def dtype_name(self, settings: ModelSettings) -> str:
        """The number format to run in.

        Raises:
            ModelLoadError: the checkpoint's own format is not supported and none is set.
        """
        first = next(iter(self.headers.values()), None)
        return resolve_dtype(settings.dtype, self.config, first.dtype if first else "")

    def max_model_len(self, settings: ModelSettings) -> int:
        """The longest context to serve, as far as the model goes.

        Raises:
            ModelLoadError: longer than the model's positions go.
        """
        longest = self.spec.max_position_embeddings
        if settings.max_model_len is not None and settings.max_model_len > longest:
            raise ModelLoadError(
                f"max_model_len must be at most {longest}, the model's own limit, got {settings.max_model_len}"
            )
        return settings.max_model_len or longest


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read config.json, generation_config.json and all safetensors headers of `folder`.

    Raises:
        ModelLoadError: the architecture is not supported, or its config is off.
        checkpoints.errors.CheckpointError: a file is missing, unreadable or corrupt.
    """
    config = read_config(folder)
    spec = load_spec(config)
    names = find_family(config).names(config)
    generation_config = read_generation_config(folder)
    eos_token_ids = [i for i in _eos_token_ids(folder, config, generation_config) if 0 <= i < spec.vocab_size]
    return Checkpoint(config, generation_config, read_headers(folder), spec, names, eos_token_ids)


def _eos_token_ids(folder: Path, config: dict[str, Any], generation_config: dict[str, Any]) -> list[int]:
    for name, values in ((GENERATION_CONFIG_FILE, generation_config), (CONFIG_FILE, config)):
        found = values.get("eos_token_id")
        if found is None:
            continue
        ids = found if isinstance(found, list) else [found]
        if not all(type(token_id) is int for token_id in ids):
            what = f"eos_token_id in {folder / name} is malformed"
            raise ConfigFileError(what, expected="a token id, or a list of them", given=repr(found)[:200])
        return list(dict.fromkeys(ids))
    return []
