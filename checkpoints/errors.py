"""What can be wrong with a checkpoint.

CheckpointError
├── ModelNotFoundError        the name is no folder, no known hub id, not "demo"
├── HubUnreachableError       the hub does not answer, or not to us
├── DownloadError             the demo model could not be fetched, or is not the file it should be
├── FolderUnreadableError     the operating system refuses to read (or write) a path
├── NotACheckpointError       a folder without config.json, or without weights
├── ConfigFileError           a JSON file that does not hold what it should
├── WeightsFileError          a safetensors file that is truncated or corrupt
│   └── ShardError            index and shards disagree
├── TokenizerFileError        a tokenizer's file that is corrupt, too large, or of a kind that cannot be read
├── GGUFError                 a GGUF file that is truncated, corrupt or incomplete
├── UnsupportedModelError     a sound file of a kind that cannot be imported
└── DestinationError          the place to write to is taken, or has no room
"""


class CheckpointError(Exception):
    """The root of all that this package raises on purpose.

    The message reads "WHAT: expected EXPECTED, got GIVEN. REMEDY", without the parts that are empty.

    Attributes:
        what: what is wrong, in one clause.
        expected: what should be there, or the limit.
        given: what is there.
        remedy: what to do about it, a sentence without its full stop.
    """

    def __init__(self, what: str, *, expected: str = "", given: str = "", remedy: str = "") -> None:
        self.what, self.expected, self.given, self.remedy = what, expected, given, remedy
        details = [f"expected {expected}" if expected else "", f"got {given}" if given else ""]
        sentence = ": ".join(part for part in (what, ", ".join(filter(None, details))) if part)
        super().__init__(f"{sentence}. {remedy}" if remedy else sentence)


class ModelNotFoundError(CheckpointError):
    """No model goes by this name."""


class HubUnreachableError(CheckpointError):
    """The model hub does not answer, or refuses."""


class DownloadError(CheckpointError):
    """The demo model could not be fetched, or what came is not what it should be."""


class FolderUnreadableError(CheckpointError):
    """The operating system refuses access to a path."""


class NotACheckpointError(CheckpointError):
    """A folder that lacks what every checkpoint has."""


class ConfigFileError(CheckpointError):
    """A JSON file of a checkpoint is malformed."""


class WeightsFileError(CheckpointError):
    """A safetensors file is truncated or corrupt."""


class ShardError(WeightsFileError):
    """The index and the shards of a checkpoint disagree."""


class TokenizerFileError(CheckpointError):
    """A tokenizer's file is corrupt, too large, or of a kind that cannot be read."""


class GGUFError(CheckpointError):
    """A GGUF file is truncated, corrupt or incomplete."""


class UnsupportedModelError(CheckpointError):
    """A GGUF file is sound, but of a kind that cannot be imported."""


class DestinationError(CheckpointError):
    """The folder to write exists already, or its disk has no room for it."""
