"""The common result of all readers of sources: where a picture is, and what its source says about it.

Example:
    >>> Sample(root="archives/140k", name="test/fake/0001.jpg", label=Label.FAKE, source="140k")
"""

from __future__ import annotations

import dataclasses

from fakeface_jax.labels import Label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """One labelled picture of a source.

    Attributes:
        root: the directory or zip archive, or `tfds:NAME`.
        name: the picture's name inside it, with forward slashes.
        label: real or fake.
        source: the data set that the picture belongs to.
        method: how a fake was made; empty for reals and if unknown.
        hint: an original video or a person that the source relates the picture to; empty if it does not say.
        official_split: `train`, `validation`, `test`, or empty.
        difficulty: ciplab's `easy`, `mid`, `hard`, or empty.
        parts: ciplab's replaced parts of the face, joined by `+`, or empty.
    """

    root: str
    name: str
    label: Label
    source: str
    method: str = ""
    hint: str = ""
    official_split: str = ""
    difficulty: str = ""
    parts: str = ""
