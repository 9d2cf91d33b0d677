"""A cache on disk for features of many views of many faces: shards of safetensors with a Parquet table each.

A row is one view of one face. Its key is the picture's SHA-256, the view, and the kind of aligned fake if the face was
altered first. Cached rows are never computed again, however often the extraction is interrupted.

Example:
    >>> cache = FeatureCache("runs/features/f11bbe26e025912b")
    >>> columns, arrays = cache.load()
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fakeface_jax.errors import DataError

COLUMNS = (
    "sha256",
    "view",
    "aligned",
    "label",
    "source",
    "method",
    "group",
    "split",
    "id",
    "face_side",
    "picture_width",
    "picture_height",
    "picture_bytes",
    "jpeg_tables",
    "side",
    "bytes_per_pixel",
    "sharpness",
)
"""Columns of the table; `side` to `sharpness` describe the view, see `fakeface_jax.features.views`."""


class FeatureCache:
    """A directory of shards.

    Args:
        directory: directory of one backbone's features; created if it is missing.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)

    def keys(self) -> set[tuple[str, str, str]]:
        """Returns the SHA-256, view and kind of aligned fake of every cached row."""
        found: set[tuple[str, str, str]] = set()
        for path in self._shards():
            table = _read_table(path, ["sha256", "view", "aligned"])
            found.update(zip(*(table[name] for name in ("sha256", "view", "aligned")), strict=True))
        return found

    def append(self, rows: list[dict[str, Any]], arrays: dict[str, np.ndarray]) -> None:
        """Adds one shard, completely or not at all.

        Args:
            rows: rows of the table, with `COLUMNS`.
            arrays: name to array with one entry per row, such as `features` [n, taps, 3, width].

        Raises:
            DataError: the shard cannot be written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq
        from safetensors.numpy import save_file

        number = len(self._shards())
        stem = self.directory / f"part-{number:05d}"
        try:
            temporary = stem.with_suffix(".tmp")
            save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, temporary)
            temporary.replace(stem.with_suffix(".safetensors"))
            # The table is written last: a shard counts once its table exists.
            pq.write_table(pa.Table.from_pylist(rows), temporary)
            temporary.replace(stem.with_suffix(".parquet"))
        except OSError as error:
            raise DataError(
                f"{stem}: cannot be written: {error.strerror or error}; check permissions and free space"
            ) from error

    def load(self, names: tuple[str, ...] = ("features",)) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Loads all rows: the columns as arrays, and the named arrays.

        Raises:
            DataError: the cache is empty.
        """
        from safetensors.numpy import load_file

        shards = self._shards()
        if not shards:
            raise DataError(f"{self.directory}: contains no features; run fakeface features first")
        tables = [_read_table(path, None) for path in shards]
        loaded = [load_file(path.with_suffix(".safetensors")) for path in shards]
        columns = {name: np.concatenate([np.asarray(table[name]) for table in tables]) for name in tables[0]}
        return columns, {name: np.concatenate([part[name] for part in loaded]) for name in names}

    def _shards(self) -> list[Path]:
        return sorted(self.directory.glob("part-*.parquet"))


def _read_table(path: Path, columns: list[str] | None) -> dict[str, list[Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=columns).to_pydict()
