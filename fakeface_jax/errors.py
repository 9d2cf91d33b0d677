"""The errors that this project raises on purpose.

A message says what happened, to which input, and what to do about it, in one line. Commands print it and continue with
the other inputs; any exception that is not a `FakeFaceError` is a bug and keeps its traceback.

Example:
    >>> try:
    ...     raise OpenError("clip.mp4", "no such file", "check the path")
    ... except MediaError as error:
    ...     print(error)
    clip.mp4: no such file (check the path)
"""

import re

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0, DEL and C1 control characters, line separators, and characters that change the direction of writing."""


def printable(text: str) -> str:
    """Returns a text as one line that a terminal shows unchanged: control characters are escaped as in `repr`.

    File names are chosen by strangers; raw control characters could move the cursor, hide lines or forge them.
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class FakeFaceError(Exception):
    """The base class of all errors of this project."""


class ConfigError(FakeFaceError):
    """Raised for a setting that cannot be used: unknown, out of range, or contradictory."""


class DataError(FakeFaceError):
    """Raised for training data that cannot be used: wrong layout, empty split, corrupt manifest."""


class BundleError(FakeFaceError):
    """Raised for a trained model on disk that is missing, damaged, or of another version."""


class MediaError(FakeFaceError):
    """Raised for an image, video or stream that cannot be used.

    Args:
        source: the input as the user named it.
        problem: what is wrong with it.
        remedy: what the user can do; empty if nothing helps.
    """

    def __init__(self, source: object, problem: str, remedy: str = "") -> None:
        # All arguments go to the base class, so that pickling (between worker processes) keeps them.
        super().__init__(source, problem, remedy)
        self.source = str(source)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.source}: {self.problem}" + (f" ({self.remedy})" if self.remedy else "")
        return printable(text)


class OpenError(MediaError):
    """Raised if the input does not exist, may not be read, or is of an unsupported kind."""


class DecodeError(MediaError):
    """Raised if the input could be opened, but its content is damaged."""


class LimitExceeded(MediaError):
    """Raised if the input exceeds a limit that protects the machine."""


class Cancelled(FakeFaceError):
    """Raised when work is stopped at the request of its owner; the input is not at fault."""
