"""Which number means what: the only place that says so.

Fake is the positive class, 1. Directory names are mapped by meaning, never by alphabetical order, because
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
    """What is said about an input that could be read."""

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
    """The label a folder name or a table cell stands for.

    Args:
        word: `real`, `fake`, ciplab's `training_real` and `training_fake`, or 0 and 1 with fake = 1; any case.

    Raises:
        DataError: any other word; nothing is guessed.
    """
    label = _WORDS.get(str(word).strip().lower())
    if label is None:
        raise DataError(f"{word!r} names neither real nor fake; known: {', '.join(sorted(_WORDS))}")
    return label
