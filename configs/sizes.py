"""Amounts of memory as people write them."""

import re
from typing import Annotated

from pydantic import BeforeValidator

_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{prefix}{end}": 1000**power for power, prefix in enumerate("kmgt", 1) for end in ("", "b")}
_UNITS |= {f"{prefix}i{end}": 1024**power for power, prefix in enumerate("kmgt", 1) for end in ("", "b")}

_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(amount: object) -> int:
    """Bytes in `512MiB` (536,870,912), `8GB` (8,000,000,000), `1.5g`, or a plain number.

    Raises:
        ValueError: not an amount of memory.
    """
    if isinstance(amount, int) and not isinstance(amount, bool):
        return amount
    match = _AMOUNT.fullmatch(str(amount))
    unit = match and _UNITS.get(match[2].lower())
    if match is None or unit is None:
        raise ValueError(f"must be an amount of memory such as 512MiB, 8GB or a number of bytes, got {amount}")
    return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def format_bytes(num_bytes: int) -> str:
    """`num_bytes` for a reader's eye, in binary units: 23040 is `22.5 KiB`."""
    size, unit = float(num_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024:
            break
        size, unit = size / 1024, larger
    return f"{num_bytes} B" if unit == "B" else f"{size:,.1f} {unit}"


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
"""A settings field that takes `512MiB` as well as a number."""
