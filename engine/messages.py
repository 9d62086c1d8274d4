"""What the server and an engine process say to each other, as msgpack. No torch.

server -> engine   Start, then Add | Abort | AskBlocks | AskRequests | AskAttention, at last Stop; Learn before the first
                   request with a grammar
engine -> server   Ready or Failed once, then StepResult after every step and now and then while idle, and an answer to
                   every question before the next step
"""

import msgspec

from configs.engine import EngineSettings
from engine.info import EngineInfo, EngineStats, RequestState
from engine.request import Request, TokenDelta
from engine.token_bytes import TokenBytes
from kvcache.block_map import BlockSnapshot


class Add(msgspec.Struct, frozen=True, tag=True):
    """Run this request."""

    request: Request


class Abort(msgspec.Struct, frozen=True, tag=True):
    """End this request: nobody waits for it any more."""

    request_id: str


class Learn(msgspec.Struct, frozen=True, tag=True):
    """What token ids stand for."""

    token_bytes: TokenBytes


class AskBlocks(msgspec.Struct, frozen=True, tag=True):
    """Who holds which blocks?"""


class AskRequests(msgspec.Struct, frozen=True, tag=True):
    """How are these requests?"""

    request_ids: tuple[str, ...]


class AskAttention(msgspec.Struct, frozen=True, tag=True):
    """How much does each of these tokens look at each other one, in these layers? It is computed for this question."""

    token_ids: tuple[int, ...]
    layers: tuple[int, ...]


class Stop(msgspec.Struct, frozen=True, tag=True):
    """End the process."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded."""

    info: EngineInfo


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The model cannot be loaded, and trying again will not help."""

    message: str


class StepResult(msgspec.Struct, frozen=True, tag=True):
    """What a step gave; `stats` comes only every so often."""

    deltas: list[TokenDelta] = []
    stats: EngineStats | None = None


class BlocksAnswer(msgspec.Struct, frozen=True, tag=True):
    """The answer to AskBlocks."""

    question: AskBlocks
    answer: BlockSnapshot


class RequestsAnswer(msgspec.Struct, frozen=True, tag=True):
    """The answer to AskRequests: those that have not ended."""

    question: AskRequests
    answer: list[RequestState]


class AttentionAnswer(msgspec.Struct, frozen=True, tag=True):
    """The answer to AskAttention: a layer each, see engine.observing.packed_attention; or why there is none."""

    question: AskAttention
    answer: list[bytes] = []
    error: str | None = None


Question = AskBlocks | AskRequests | AskAttention
Answer = BlocksAnswer | RequestsAnswer | AttentionAnswer
ToEngine = Add | Abort | Learn | Question | Stop
FromEngine = Ready | Failed | StepResult | Answer

encode = msgspec.msgpack.Encoder().encode
"""Any message -> bytes."""

decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
"""Bytes -> a message for the engine."""

decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode
"""Bytes -> a message from the engine."""


class Launch(msgspec.Struct, frozen=True):
    """How to start an engine process: the one line of JSON on its standard input.

    The input then stays open: its end tells the engine that the server is gone.
    """

    address: str
    folder: str
    settings_json: str

    @classmethod
    def of(cls, address: str, folder: str, settings: EngineSettings) -> "Launch":
        """Launch the checkpoint in `folder` with `settings`, talking over the ZeroMQ `address`."""
        return cls(address, folder, settings.model_dump_json())

    def settings(self) -> EngineSettings:
        """The settings, validated again."""
        return EngineSettings.model_validate_json(self.settings_json)
