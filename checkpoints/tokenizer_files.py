"""The files of a tokenizer, read with limits, and with errors that name them."""

from pathlib import Path

from checkpoints.errors import FolderUnreadableError, TokenizerFileError

MAX_FILE_BYTES = 256 * 2**20
"""The largest tokenizers known take a tenth of this."""

SAVE_REMEDY = "Save it as tokenizer.json with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)"
"""What to do about a tokenizer of a kind that only transformers reads."""


def exists(path: Path) -> bool:
    """True where there is such a file.

    Raises:
        FolderUnreadableError: the operating system refuses to say.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from error
    return True


def read_file(path: Path) -> bytes:
    """The content of a file.

    Raises:
        FolderUnreadableError: the operating system refuses to read it.
        TokenizerFileError: it is larger than any tokenizer.
    """
    check_size(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def read_text(path: Path) -> str:
    """The same of a file that holds text.

    Raises:
        FolderUnreadableError: the operating system refuses to read it.
        TokenizerFileError: it is larger than any tokenizer, or no UTF-8.
    """
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        given = f"byte 0x{error.object[error.start]:02X} at position {error.start}"
        raise TokenizerFileError(f"{path} is malformed", expected="UTF-8 text", given=given) from error


def check_size(path: Path) -> None:
    """Refuse what is too large to read into memory.

    Raises:
        FolderUnreadableError: the operating system refuses to look at it.
        TokenizerFileError: it is larger than any tokenizer.
    """
    try:
        nbytes = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    if nbytes > MAX_FILE_BYTES:
        remedy = "Check that it is the file that belongs to the model"
        raise TokenizerFileError(
            f"{path} is too large", expected=f"at most {MAX_FILE_BYTES} bytes", given=str(nbytes), remedy=remedy
        )


def _unreadable(path: Path, error: OSError) -> FolderUnreadableError:
    return FolderUnreadableError(f"cannot read {path} ({error.strerror})")
