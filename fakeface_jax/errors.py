"""Every error this project raises on purpose.

A message says what happened, to which input, and what to do about it, in one line. Programs print it and go on with
the other inputs; anything that is not a `FakeFaceError` is a bug and keeps its traceback.

Example:
    >>> try:
    ...     raise OpenError("clip.mp4", "no such file", "check the path")
    ... except MediaError as error:
    ...     print(error)
    clip.mp4: no such file (check the path)
"""

import re

UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""C0, DEL and C1, line separators, and what turns the direction of writing."""


def printable(text: str) -> str:
    """One line that a terminal shows as it is: control characters are escaped as `repr` does, other letters stay.

    Names of files are chosen by others; raw they could move the cursor, hide or forge lines.
    """
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class FakeFaceError(Exception):
    """Base of all errors of this project."""


class ConfigError(FakeFaceError):
    """A setting that cannot be used: unknown name, out of range, contradictory."""


class DataError(FakeFaceError):
    """Training data that cannot be used: wrong layout, empty split, corrupt manifest."""


class BundleError(FakeFaceError):
    """A trained model on disk that is missing, damaged, or of another version."""


class MediaError(FakeFaceError):
    """An image, video or stream that cannot be used.

    Args:
        source: the input as the user named it.
        problem: what is wrong with it.
        remedy: what the user can do; empty when nothing helps.
    """

    def __init__(self, source: object, problem: str, remedy: str = "") -> None:
        # All arguments go to the base class, so that pickling (worker processes) keeps them.
        super().__init__(source, problem, remedy)
        self.source = str(source)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.source}: {self.problem}" + (f" ({self.remedy})" if self.remedy else "")
        return printable(text)


class OpenError(MediaError):
    """The input does not exist, may not be read, or is of a kind that is not supported."""


class DecodeError(MediaError):
    """The input was opened and its content is damaged."""


class LimitExceeded(MediaError):
    """The input is beyond a limit that protects the machine."""


class Cancelled(FakeFaceError):
    """The work was stopped by whoever asked for it; nothing is wrong with the input."""
