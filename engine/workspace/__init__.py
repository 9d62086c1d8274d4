"""How much memory a step needs beside weights and KV cache: a formula, from the spec alone. No torch.

It follows the code that runs (engine/models, layers, attention, kernels, sampler) tensor by tensor, and adds up what is
alive at the same time. engine/rehearsal.py measures the same step on real tensors; a test holds the two together.
"""

from engine.workspace.formula import largest_layers, workspace_bytes
from engine.workspace.method import Method
from engine.workspace.step_size import StepSize

__all__ = ["Method", "StepSize", "largest_layers", "workspace_bytes"]
