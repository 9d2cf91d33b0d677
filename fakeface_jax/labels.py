"""The meaning of label numbers: this module is the only place that defines it.

Fake is the positive class, 1. Directory names are mapped by meaning and never by alphabetical order, because
`flow_from_directory` on `fake/` and `real/` silently makes real the positive class.

Example:
    >>> parse_label("training_fake")
    <Label.FAKE: 1>
"""

from __future__ import annotations

import enum

from fakeface_jax.errors import DataError


class Label(enum.IntEnum):
    """The two classes. `str(label)` is the word used in files and tables."""

    REAL = 0
    FAKE = 1

    def __str__(self) -> str:
        return self.name.lower()


class Verdict(enum.StrEnum):
    """The possible verdicts on an input that could be read."""

    REAL = "real"
    FAKE = "fake"
    INCONCLUSIVE = "inconclusive"
    NO_FACE = "no_face"


_WORDS = {
    "real": Label.REAL,
    "training_real": Label.REAL,
    "original": Label.REAL,
    "0": Label.REAL,
    "fake": Label.FAKE,
    "training_fake": Label.FAKE,
    "1": Label.FAKE,
}


def parse_label(word: str | int) -> Label:
    """Returns the label that a folder name or a table cell stands for.

    Args:
        word: `real`, `fake`, ciplab's `training_real` and `training_fake`, or 0 and 1 with fake = 1; in any case.

    Raises:
        DataError: any other word; it is not guessed.
    """
    label = _WORDS.get(str(word).strip().lower())
    if label is None:
        raise DataError(f"{word!r} is not a label; use one of {', '.join(sorted(_WORDS))}")
    return label
