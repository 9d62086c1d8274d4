"""Small models, most of them of transformers, with weights that hide nothing."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch

from tests.engine.parity.rows.row import Row


def build_oracle(row: Row) -> Any:
    """The row's model in float32, its weights random from a fixed seed."""
    fields = {
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        **copy.deepcopy(row.fields),
    }  # transformers writes into it
    model = (row.oracle(fields) if row.oracle else _of_transformers(row, fields)).float().eval()
    shake(model)
    return model


def _of_transformers(row: Row, fields: dict[str, Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        config = getattr(transformers, row.config)(**fields)
        config._attn_implementation = row.attention
        return getattr(transformers, row.model)(config)


@torch.no_grad()
def shake(model: torch.nn.Module) -> None:
    """Fresh random parameters: biases and norms start at 0 and 1, where a lost one would not show."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        if parameter.dim() > 1:
            parameter.copy_(0.2 * noise)
        else:
            parameter.add_(0.2 * noise)


def save(model: Any, folder: Path) -> Path:
    """Write `model` as transformers does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder
