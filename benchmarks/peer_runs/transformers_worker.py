"""transformers' generate as a worker: MODEL_FOLDER DTYPE NUM_THREADS."""

import sys
import time
from typing import Any

import torch
import transformers

from benchmarks.peer_runs.worker import Job, Result, serve


def main() -> None:
    folder, dtype, num_threads = sys.argv[1:]
    torch.set_num_threads(int(num_threads))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    versions = {"transformers": transformers.__version__, "torch": torch.__version__}
    serve(versions, lambda job: run(model, job))


def run(model: Any, job: Job) -> Result:
    """The first token alone is timed in a call of its own: generate does not say when it came."""
    prompts = torch.tensor(job.prompts)
    prefill_s, _ = _generate(model, prompts, 1)
    total_s, outputs = _generate(model, prompts, job.num_output_tokens)
    num_decode_tokens = len(job.prompts) * (job.num_output_tokens - 1)
    return Result(prefill_s, total_s - prefill_s, num_decode_tokens, outputs)


def _generate(model: Any, prompts: torch.Tensor, num_tokens: int) -> tuple[float, list[list[int]]]:
    started_s = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return time.perf_counter() - started_s, output[:, prompts.shape[1] :].tolist()


if __name__ == "__main__":
    main()
