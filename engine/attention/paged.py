"""What the backends over the engine's paged cache share: the model, the cache, and the step they have planned."""

from torch import Tensor

from engine.attention.base import AttentionBackend
from engine.batch import BatchTensors
from engine.kernels.base import KVTarget, PagedStep
from engine.models.spec import DecoderSpec
from kvcache.storage import KVStorage


class PagedBackend(AttentionBackend):
    """A backend without its arithmetic.

    Args:
        spec: the model.
        storage: the cache of all its layers.
    """

    def __init__(self, spec: DecoderSpec, storage: KVStorage) -> None:
        self._spec = spec
        self._caches = [storage.layer(layer_idx) for layer_idx in range(spec.num_layers)]
        self._groups = storage.geometry.group_indices
        self._device = self._caches[0].k.device
        self._batch: BatchTensors | None = None

    def plan(self, batch: BatchTensors) -> None:
        """Keep the step's tables."""
        self._batch = batch

    @property
    def paged_step(self) -> PagedStep | None:
        """None: layer by layer."""
        return None

    def kv_target(self, layer_idx: int) -> KVTarget:
        """See AttentionBackend.kv_target.

        Raises:
            RuntimeError: no step is planned.
        """
        return KVTarget(self._caches[layer_idx], self._planned().slot_mapping[self._groups[layer_idx]])

    def _planned(self) -> BatchTensors:
        if self._batch is None:
            raise RuntimeError("the backend was asked to run before it planned a step")
        return self._batch

    def _block_table(self, layer_idx: int) -> Tensor:
        """[num_seqs, max_blocks] int64 of the layer's group."""
        return self._planned().block_tables[self._groups[layer_idx]]
