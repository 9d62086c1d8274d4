"""GET /v1/kv/blocks and GET /v1/requests/{id}: what they are asked and what they answer."""

from typing import Annotated

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from engine.request import RequestStatus
from server.protocol.responses import KVReceiptOut


class BlocksQuery(BaseModel):
    """Which blocks."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    model: str | None = None
    """Name of a served model. Not needed where there is only one."""
    offset: int = Field(default=0, ge=0, lt=2**31)
    """First block."""
    limit: int | None = Field(default=None, ge=1, lt=2**31)
    """Blocks at most. Unset: all."""


Flat = msgspec.Meta(description="Those of the first block, then those of the second, and so on: `ref_counts` each.")


class BlockMapOut(msgspec.Struct):
    """Blocks `offset`, `offset` + 1, … of a model's KV pool between two steps, in parallel arrays."""

    model: str
    num_blocks: int
    """Of the pool."""
    block_size: int
    bytes_per_block: int
    offset: int
    states: Annotated[
        str,
        msgspec.Meta(
            description="A letter per block: f free, o owned by one request, s shared by several, c cached: only the"
            " prefix cache holds it, until its room is needed."
        ),
    ]
    filled_slots: Annotated[list[int], msgspec.Meta(description="Per block: slots that hold a token.")]
    ref_counts: Annotated[list[int], msgspec.Meta(description="Per block: requests that hold it.")]
    owners: Annotated[list[int], Flat]
    """Indices into `request_ids`."""
    request_ids: Annotated[
        list[str], msgspec.Meta(description="Requests that hold blocks of the pool; for admins only, as `owners` is.")
    ]


class RequestStateOut(msgspec.Struct):
    """A choice of a response that has not ended."""

    request_id: str
    model: str
    status: RequestStatus
    prompt_tokens: int
    completion_tokens: int
    preemptions: int
    kv_receipt: KVReceiptOut


class RequestStatesOut(msgspec.Struct):
    """What runs under one name: all choices of a response that have not ended, or one of them."""

    id: str
    requests: list[RequestStateOut]
