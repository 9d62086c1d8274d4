"""Lists of CPUs as Linux writes them: "0-3,8"."""

import re

MAX_CPU = 65_535

_PART = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def parse_cpu_list(text: str) -> frozenset[int]:
    """The CPUs of a list: "0-3,8" has 0, 1, 2, 3 and 8.

    Raises:
        ValueError: it is no such list.
    """
    cpus: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= MAX_CPU:
            raise ValueError(f'must be a list of CPUs like "0-3,8", each at most {MAX_CPU}, got {text!r}')
        cpus.update(range(first, last + 1))
    return frozenset(cpus)


def format_cpu_list(cpus: frozenset[int]) -> str:
    """The way back: {0, 1, 2, 8} is "0-2,8"."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
