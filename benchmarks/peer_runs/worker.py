"""How a peer's process is asked: one JSON line a job on its standard input, one JSON line a result on its output.

Standard library only: a peer may live in a virtual environment of its own.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import NamedTuple


class Job(NamedTuple):
    """Go on with all prompts as one batch, greedily.

    Attributes:
        prompts: token ids, all of one length.
        num_output_tokens: for each, whatever they are.
    """

    prompts: list[list[int]]
    num_output_tokens: int


class Result(NamedTuple):
    """What a job gave.

    Attributes:
        prefill_s: until every prompt has its first token.
        decode_s: from there to the end.
        num_decode_tokens: that came in that time.
        output_token_ids: for each prompt.
    """

    prefill_s: float
    decode_s: float
    num_decode_tokens: int
    output_token_ids: list[list[int]]


def serve(versions: dict[str, str], run: Callable[[Job], Result]) -> None:
    """Say that the model is loaded, then do one job after the other until the input ends.

    Args:
        versions: package -> version, for the report.
        run: does a job.
    """
    # What libraries print must not come between the answers.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        print(json.dumps(versions), file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(run(Job(**json.loads(line)))._asdict()), file=answers, flush=True)
