"""What the server and a confined process say to each other: a job, then its answer, each a frame of msgpack."""

import struct

import msgspec

from engine.token_bytes import TokenBytes
from server.chat_template import Conversation, TemplateSource

HEADER = struct.Struct(">I")
"""In front of each frame: its length in bytes."""


class Render(msgspec.Struct, frozen=True, tag=True):
    """Make the prompt of a conversation."""

    template: TemplateSource
    conversation: Conversation


class Compile(msgspec.Struct, frozen=True, tag=True):
    """Compile a grammar, and try it for one token."""

    vocabulary: str
    """The name of one that was taught."""
    grammar: str


class Teach(msgspec.Struct, frozen=True, tag=True):
    """Remember a vocabulary."""

    vocabulary: str
    token_bytes: TokenBytes
    vocab_size: int
    eos_token_ids: list[int]


class Done(msgspec.Struct, frozen=True, tag=True):
    """It went well."""

    text: str = ""
    """Of Render: the prompt."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """What was given is at fault."""

    message: str
    place: str = ""
    """Of Compile: the part and where in it, such as `answer.properties.age`; of Render: the request's field."""


class UnknownVocabulary(msgspec.Struct, frozen=True, tag=True):
    """The process began after the vocabulary was taught: teach it again."""


Job = Render | Compile | Teach
Answer = Done | Refused | UnknownVocabulary


class Task(msgspec.Struct, frozen=True):
    """A job and how long it may take."""

    job: Job
    limit_s: float
    """Of processor time."""


_encode = msgspec.msgpack.Encoder().encode
decode_task = msgspec.msgpack.Decoder(Task).decode
"""Bytes of a frame -> Task."""
decode_answer = msgspec.msgpack.Decoder(Answer).decode
"""Bytes of a frame -> Answer."""


def frame(message: Task | Answer) -> bytes:
    """The message with its header."""
    data = _encode(message)
    return HEADER.pack(len(data)) + data
