"""A model to look at: the engine's own decoder on the reference kernels, which can be differentiated."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from checkpoints.tokenizer_folder import load_tokenizer
from configs.model import ModelSettings
from engine.attention.observed import OnWeights
from engine.checkpoint import read_checkpoint
from engine.kernels import reference
from engine.loading import choose_device
from engine.models.decoder import Decoder
from engine.models.tensor_names import build_weight_map
from engine.observing import observe
from engine.weights import load_parameters
from heads.errors import HeadsError
from heads.texts import cut_windows, read_text

Factors = Sequence[Tensor]
"""A layer each [num_q_heads]: multiplies what the layer's heads give."""


class Subject(NamedTuple):
    """A loaded model.

    Attributes:
        decoder: float32, on the GPU where there is one.
        tokenizer: of its folder.
    """

    decoder: Decoder
    tokenizer: Tokenizer

    def windows(self, text: str, window_tokens: int) -> list[list[int]]:
        """The text, or the file of that name, as token ids in pieces; see texts.cut_windows."""
        longest = self.decoder.spec.max_position_embeddings
        if window_tokens > longest:
            raise HeadsError(f"the window may be at most the model's context of {longest} tokens, got {window_tokens}")
        token_ids: list[int] = self.tokenizer.encode(read_text(text), add_special_tokens=True).ids
        return cut_windows(token_ids, window_tokens)

    def all_heads(self) -> list[Tensor]:
        """Factors that change nothing."""
        return [torch.ones(layer.num_q_heads, device=self.decoder.device) for layer in self.decoder.spec.layers]

    def loss(self, token_ids: list[int], factors: Factors | None = None, on_weights: OnWeights | None = None) -> Tensor:
        """Mean negative log-likelihood of the tokens after the first, in nats."""
        hidden = observe(self.decoder, token_ids, on_weights, factors)
        targets = torch.tensor(token_ids[1:], device=hidden.device)
        return F.cross_entropy(self.decoder.logits(hidden[:-1]), targets)


def load_subject(folder: Path) -> Subject:
    """Load a model for looking at it.

    Raises:
        EngineError: it is not supported, or its files do not fit its config.
        CheckpointError: a file is missing, unreadable or corrupt.
    """
    checkpoint, device = read_checkpoint(folder), choose_device(ModelSettings())
    weight_map = build_weight_map(checkpoint.spec, checkpoint.tensor_names)
    parameters = load_parameters(checkpoint.spec, weight_map, checkpoint.headers, torch.float32, device)
    decoder = Decoder(checkpoint.spec, parameters, checkpoint.spec.max_position_embeddings, reference)
    return Subject(decoder, load_tokenizer(folder)[0])


@torch.inference_mode()
def mean_loss(subject: Subject, windows: list[list[int]], factors: Factors | None = None) -> float:
    """Mean negative log-likelihood over all windows, in nats a token."""
    losses = [float(subject.loss(window, factors)) * (len(window) - 1) for window in windows]
    return sum(losses) / sum(len(window) - 1 for window in windows)
