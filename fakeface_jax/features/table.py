"""Cached features together with the facts about each row, ready to be fitted and scored.

Example:
    >>> table = FeatureTable.load("runs/features/1f0c2a9d5b7e4c33")
    >>> table.select(table.views == "web").features.shape
    (4206, 7, 3, 768)
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
from jaxtyping import Bool, Float16, Int8, Shaped

from fakeface_jax.features.cache import FeatureCache
from fakeface_jax.labels import Label, parse_label


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FeatureTable:
    """Rows of a cache; each is one view of one face.

    Attributes:
        features: features of the backbone, [n, taps, statistics, width].
        detail: features of the small network: the result of its last pooling.
        labels: 0 for real, 1 for fake.
        sources: name of the data set.
        methods: how a fake was made; empty for real faces.
        groups: rows of one group must stay in the same split.
        views: names of `fakeface_jax.features.views`.
        aligned: kind of alteration if the row is an aligned fake; otherwise empty.
        pictures: SHA-256 of the picture.
        ids: source and name of the picture; those of one clip end in _NUMBER.png.
    """

    features: Float16[np.ndarray, "n taps stats width"]
    detail: Float16[np.ndarray, "n d"]
    labels: Int8[np.ndarray, " n"]
    sources: Shaped[np.ndarray, " n"]
    methods: Shaped[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"]
    views: Shaped[np.ndarray, " n"]
    aligned: Shaped[np.ndarray, " n"]
    pictures: Shaped[np.ndarray, " n"]
    ids: Shaped[np.ndarray, " n"]

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> FeatureTable:
        """Loads a cache. Raises `DataError` if it is empty."""
        columns, arrays = FeatureCache(directory).load(("features", "detail"))
        return cls(
            features=arrays["features"],
            detail=arrays["detail"],
            labels=np.array([parse_label(one) for one in columns["label"]], np.int8),
            sources=columns["source"],
            methods=columns["method"],
            groups=columns["group"],
            views=columns["view"],
            aligned=columns["aligned"],
            pictures=columns["sha256"],
            ids=columns["id"],
        )

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Bool[np.ndarray, " n"]) -> FeatureTable:
        """Returns the rows where the mask is true."""
        parts = {field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)}
        return dataclasses.replace(self, **parts)

    @property
    def fakes(self) -> Bool[np.ndarray, " n"]:
        """Returns the mask of the fakes."""
        return self.labels == Label.FAKE
