"""Comparisons of a small model, and results of them that are made up."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from configs.compare import CompareSettings, Workload
from configs.engine import EngineSettings
from engine.info import EngineInfo
from server.compare.capacity import Wave
from server.compare.plan import Job, plan_comparison
from server.compare.report import Comparison, Measured, build_comparison, report_variant
from server.load.summary import sum_up
from server.load.times import LevelTimes, RequestTimes
from tests.server.stand_ins import make_info

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "num_hidden_layers": 30,
    "vocab_size": 128,
    "intermediate_size": 64,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "torch_dtype": "bfloat16",
}
"""Heads and layers of SmolLM2-135M: 23,040 KV bytes a token."""

WORKLOAD = Workload(prompt_tokens=192, max_tokens=64, num_requests=4, concurrency=2)


def write_model(folder: Path, **changes: Any) -> Path:
    """A checkpoint as far as planning reads it: a config, and weights that have a header."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file({"model.norm.weight": np.zeros(4, dtype=np.float16)}, folder / "model.safetensors")
    return folder


def make_job(folder: Path, **settings: Any) -> Job:
    """Planned with 64 MiB for each variant, unless `settings` says otherwise."""
    chosen = CompareSettings(**{"workload": WORKLOAD, **settings})
    return plan_comparison(chosen, write_model(folder), EngineSettings(), [3, 4, 5])


def make_measured(num_requests: int, outputs: list[list[int]], *, info: EngineInfo | None = None) -> Measured:
    """What a variant did that ran `num_requests` at once."""
    times = RequestTimes(ttft_s=0.5, itl_s=[0.05, 0.07], e2e_s=1.0, tpot_s=0.06, prompt_tokens=192, output_tokens=3)
    level = LevelTimes(concurrency=2, most_at_once=2, wall_s=2.0, completed=[times] * len(outputs))
    wave = Wave(num_requests, True, 16, 1000 * num_requests, 10 * num_requests, 1.0)
    return Measured(info or make_info(), wave, sum_up(level, {}), 1.5, 0, outputs)


def make_comparison(job: Job, *, num_other_requests: int | None = None) -> Comparison:
    """A result in which pooled heads give other tokens."""
    source = [[1, 2, 3]] * job.settings.workload.num_requests
    pooled = [[1, 9, 9]] * job.settings.workload.num_requests
    variants = [
        report_variant(variant, make_measured(variant.num_requests, source if variant.is_exact else pooled), source)
        for variant in job.variants
    ]
    return build_comparison(job, variants, make_info(), 12.5, num_other_requests)
