"""A model's logits on a labelled set, one row per face: the only input of calibration and evaluation.

They are kept in a file, so that metrics, thresholds and plots can be computed again without the model or the pictures.

Example:
    >>> predictions = Predictions.load("runs/report/predictions-test.parquet")
    >>> predictions.select("ciplab").labels.mean()
    0.47
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Integer, Shaped

from fakeface_jax.atomic_files import make_directory, whole_file
from fakeface_jax.errors import DataError

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("group", pa.string()),
        ("label", pa.int8()),
        ("logit", pa.float32()),
        ("method", pa.string()),
        ("size", pa.float32()),
    ]
)
_LEFT_OUT = np.zeros(0)
"""Placeholder for a column that was not given, until the number of faces is known."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Labelled faces and a model's logits for them; arrays of one length, one row per face.

    Attributes:
        ids: names of the faces, str.
        sources: name of each face's data set in the merge, str.
        groups: group of each face, str; faces that depend on each other (same original video, near-duplicates) share
            one.
        labels: 0 for real, 1 for fake; kept as int8.
        logits: finite logits before calibration, larger means more likely fake; kept as float32, as models give them.
        methods: how each fake was made, str; empty for reals and if unknown, and by default for all.
        sizes: longer side of the face's box in pixels of the original picture; kept as float32. NaN if unknown, and by
            default for all.

    Raises:
        DataError: lengths differ, a label is neither 0 nor 1, a logit is not finite, or a size is not positive.
    """

    ids: Shaped[np.ndarray, " n"]
    sources: Shaped[np.ndarray, " n"]
    groups: Shaped[np.ndarray, " n"]
    labels: Integer[np.ndarray, " n"]
    logits: Float[np.ndarray, " n"]
    methods: Shaped[np.ndarray, " n"] = dataclasses.field(default_factory=lambda: _LEFT_OUT)
    sizes: Float[np.ndarray, " n"] = dataclasses.field(default_factory=lambda: _LEFT_OUT)

    def __post_init__(self) -> None:
        for name, unknown in (("methods", ""), ("sizes", np.nan)):
            if getattr(self, name) is _LEFT_OUT:
                object.__setattr__(self, name, np.full(len(np.atleast_1d(self.labels)), unknown))
        for name in ("ids", "sources", "groups", "methods"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.str_))
        labels = np.asarray(self.labels)
        with np.errstate(over="ignore"):  # an overflow is reported below
            logits = np.asarray(self.logits, dtype=np.float32)
            sizes = np.asarray(self.sizes, dtype=np.float32)
        arrays = {"ids": self.ids, "sources": self.sources, "groups": self.groups, "labels": labels, "logits": logits}
        arrays |= {"methods": self.methods, "sizes": sizes}
        shapes = {name: array.shape for name, array in arrays.items()}
        if len(set(shapes.values())) != 1 or labels.ndim != 1:
            raise DataError(f"predictions need arrays of the same length; got {shapes}")
        wrong = ~np.isin(labels, (0, 1))
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise DataError(f"{self.ids[first]}: label {labels[first]!s} is neither 0 (real) nor 1 (fake); correct it")
        wrong = ~np.isfinite(logits)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"{self.ids[first]}: logit is {logits[first]!s} ({int(wrong.sum())} of {len(logits)} are not finite); "
                "the model diverged; train it again with a lower learning rate"
            )
        wrong = ~(np.isnan(sizes) | (sizes > 0))
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise DataError(f"{self.ids[first]}: the face size {sizes[first]:g} must be positive, or NaN if unknown")
        object.__setattr__(self, "labels", labels.astype(np.int8))
        object.__setattr__(self, "logits", logits)
        object.__setattr__(self, "sizes", sizes)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, which: str | Bool[np.ndarray, " n"]) -> Predictions:
        """Returns the rows of one source (an empty result if it has none), or those where a mask is true.

        Raises:
            DataError: the mask has another length or type.
        """
        if isinstance(which, str):
            mask = self.sources == which
        else:
            mask = np.asarray(which)
            if mask.dtype != np.bool_ or mask.shape != self.labels.shape:
                raise DataError(f"a mask needs {len(self)} booleans; got {mask.dtype} {mask.shape}")
        columns = {field.name: getattr(self, field.name)[mask] for field in dataclasses.fields(self)}
        return Predictions(**columns)

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Joins the rows of several predictions, one after the other; at least one part."""
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a Parquet file with columns id, source, group, label, logit, method, size, completely or not at all.

        Raises:
            OpenError: the file cannot be written.
        """
        columns = [self.ids.tolist(), self.sources.tolist(), self.groups.tolist(), self.labels, self.logits]
        columns += [self.methods.tolist(), self.sizes]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        make_directory(Path(path).parent)
        with whole_file(path) as temporary:
            pq.write_table(pa.Table.from_arrays(arrays, schema=_SCHEMA), temporary)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Predictions:
        """Reads what `save` wrote.

        Raises:
            DataError: the file is missing, is not a Parquet file, or has other columns.
        """
        try:
            # A file object, so that pyarrow does not read a directory of that name as a data set.
            with Path(path).open("rb") as file:
                table = pq.read_table(file)
        except OSError as error:
            raise DataError(f"{path}: cannot read predictions: {error.strerror or error}; check the path") from error
        except pa.ArrowInvalid as error:
            raise DataError(f"{path}: no Parquet file, or a damaged one; make the predictions again") from error
        missing = [name for name in _SCHEMA.names if name not in table.column_names]
        if missing or any(table[name].null_count for name in _SCHEMA.names):
            lacks = f"columns {', '.join(missing)}" if missing else "values"
            raise DataError(f"{path}: predictions lack {lacks}; make them again")
        columns = {f"{name}s": np.asarray(table[name].to_pylist()) for name in ("id", "source", "group", "method")}
        columns |= {f"{name}s": table[name].to_numpy() for name in ("label", "logit", "size")}
        return cls(**columns)
