"""Attention that is looked at: the weights are transformers', and the model computes what it computes when it serves."""

from pathlib import Path

import pytest
import torch

from engine.attention.observed import ObservedAttention
from engine.checkpoint import read_checkpoint
from engine.kernels.select import select_kernels
from engine.models.decoder import Decoder
from engine.models.tensor_names import build_weight_map
from engine.observing import _one_sequence, attention_weights, observe
from engine.weights import load_parameters, pack_weights
from tests.engine.parity.harness import CPU, assert_parity
from tests.engine.parity.oracles import build_oracle, save
from tests.engine.parity.rows import ROWS
from tests.engine.parity.rows.row import VOCAB_SIZE

IDS = torch.randint(3, VOCAB_SIZE, (20,), generator=torch.Generator().manual_seed(1)).tolist()
NAMES = [
    *(
        "Llama-gqa",
        "GPT2-tied",
        "Bloom-six-heads",
        "Gemma2-gqa",
        "GptOss-gqa",
        "Qwen3-gqa",
        "Mistral-window",
        "Olmo2-gqa",
    ),
    *("Nemotron-gqa", "PicoLLM-gqa", "Mixtral-gqa"),
]
"""Rope, learned positions, ALiBi, soft-caps, sinks, qk-norms, windows, relu^2, value embeddings, experts."""


def load(folder: Path, kernels_name: str = "reference", dtype: torch.dtype = torch.float32) -> Decoder:
    checkpoint = read_checkpoint(folder)
    weight_map = build_weight_map(checkpoint.spec, checkpoint.tensor_names)
    parameters = load_parameters(checkpoint.spec, weight_map, checkpoint.headers, dtype, CPU)
    kernels = select_kernels(CPU, dtype, kernels_name)
    pack_weights(checkpoint.spec, parameters, kernels)
    return Decoder(checkpoint.spec, parameters, 64, kernels)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kernels", ["reference", "auto"])
def test_weights_and_logits_equal_transformers(name: str, kernels: str, tmp_path: Path) -> None:
    row = ROWS[name]
    model = build_oracle(row)
    decoder = load(save(model, tmp_path), kernels)
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0]
    with torch.inference_mode():
        assert_parity(decoder.logits(observe(decoder, IDS)), expected, 1e-4)
    if row.oracle is None:
        model.set_attn_implementation("eager")
        with torch.no_grad():
            attentions = model(torch.tensor([IDS]), output_attentions=True).attentions
        for seen, wanted in zip(attention_weights(decoder, IDS), attentions, strict=True):
            torch.testing.assert_close(seen, wanted[0][..., : len(IDS)], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["Llama-gqa", "Nemotron-gqa", "GPT2-tied", "Mixtral-gqa", "PicoLLM-gqa", "OPT-125m"])
def test_the_gradient_of_a_head_is_the_slope_of_the_loss(name: str, tmp_path: Path) -> None:
    decoder = load(save(build_oracle(ROWS[name]), tmp_path), dtype=torch.float64)
    factors = [torch.ones(layer.num_q_heads, dtype=torch.float64, requires_grad=True) for layer in decoder.spec.layers]

    def loss(of: list[torch.Tensor]) -> torch.Tensor:
        logits = decoder.logits(observe(decoder, IDS, head_factors=of))
        return torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(IDS[1:]))

    gradient = torch.autograd.grad(loss(factors), factors)[0][1]
    step = torch.zeros_like(factors[0])
    step[1] = 1e-5
    with torch.no_grad():
        rise = loss([factors[0] + step, *factors[1:]]) - loss([factors[0] - step, *factors[1:]])
    torch.testing.assert_close(gradient, rise / 2e-5, atol=1e-7, rtol=1e-5)


def test_a_step_that_is_no_whole_sequence_is_refused(tmp_path: Path) -> None:
    decoder = load(save(build_oracle(ROWS["Llama-gqa"]), tmp_path))
    batch = _one_sequence(IDS, CPU)._replace(seq_lens_list=[30])
    with pytest.raises(ValueError, match="one sequence from its first token on"):
        ObservedAttention(decoder.spec, decoder.dtype).plan(batch)
