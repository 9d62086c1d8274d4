"""What can go wrong with a comparison.

ComparisonError
├── ComparisonRefusedError    what is asked for makes no sense, or is too much: known before anything is done
└── ComparisonFailedError     it began, and could not be ended
"""


class ComparisonError(Exception):
    """The root of all that a comparison raises on purpose."""


class ComparisonRefusedError(ComparisonError):
    """A comparison that cannot be made.

    Attributes:
        param: the setting to change.
    """

    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message)
        self.param = param


class ComparisonFailedError(ComparisonError):
    """A variant could not be built, loaded or measured; the message says which, and why."""
