"""What a page under families/ provides. No torch."""

from collections.abc import Callable
from typing import Any, NamedTuple

from engine.models.config_fields import Config
from engine.models.kv_head_fields import kv_heads_field
from engine.models.spec import DecoderSpec
from engine.models.tensor_names import TensorNames


class Published(NamedTuple):
    """A well-known checkpoint: its name and as much of its config.json as its spec needs."""

    name: str
    config: dict[str, Any]


class Family(NamedTuple):
    """A model family: how its config reads, what its tensors are called, and what people know of it.

    Attributes:
        architectures: names in config.json's `architectures`.
        build_spec: config.json to a spec.
        tensor_names: of its checkpoints; a function where they depend on config.json.
        published: the best-known checkpoint.
        older_names: of its architectures, in checkpoints that were published before transformers had the family, and the
            model_type of those that name no architecture.
        limits: what is not supported, and why; for docs/models.md.
        with_kv_heads: config.json and a number -> the same config with that many key/value heads in every layer, as
            transformers reads it; raises ModelLoadError where it cannot say so.
    """

    architectures: tuple[str, ...]
    build_spec: Callable[[Config], DecoderSpec]
    tensor_names: TensorNames | Callable[[Config], TensorNames]
    published: Published
    older_names: tuple[str, ...] = ()
    limits: str = ""
    with_kv_heads: Callable[[Config, int], dict[str, Any]] = kv_heads_field("num_key_value_heads")

    def names(self, config: Config) -> TensorNames:
        """What the tensors of the checkpoint with this config are called."""
        return self.tensor_names if isinstance(self.tensor_names, TensorNames) else self.tensor_names(config)
