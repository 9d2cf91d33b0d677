"""Writes the per-frame table of videos as CSV or Parquet, chosen by the file's ending.

Example:
    >>> with FrameTable(Path("faces.parquet")) as table:
    ...     table.add(report.frame_rows())
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fakeface_jax.atomic_files import whole_file
from fakeface_jax.cli.output import Records
from fakeface_jax.errors import ConfigError, OpenError

_TYPES = {
    "input": "string",
    "index": "int64",
    "time": "float64",
    "face": "int32",
    "person": "int32",
    "x0": "float64",
    "y0": "float64",
    "x1": "float64",
    "y1": "float64",
    "confidence": "float64",
    "carried": "bool_",
    "sharpness": "float64",
    "logit": "float64",
    "p_fake": "float64",
    "verdict": "string",
}


class FrameTable:
    """A table of the rows of all videos in one file. Rows are written as they come; the file appears when complete.

    Args:
        path: ends in .parquet, in .csv, or has no ending (/dev/stdout); None writes no table.

    Raises:
        ConfigError: the ending is another, the file cannot be written, or pyarrow is missing for Parquet.
    """

    def __init__(self, path: Path | None) -> None:
        if path is not None and path.suffix.lower() not in ("", ".csv", ".parquet"):
            raise ConfigError(f"--frame-table {path}: the file's name must end in .csv or .parquet; rename it")
        self._path = path
        self._parquet = path is not None and path.suffix.lower() == ".parquet"
        self._records: Records | None = None
        self._writer: Any = None

    def __enter__(self) -> FrameTable:
        from fakeface_jax.video.report.video_report import FRAME_COLUMNS

        with contextlib.ExitStack() as stack:
            if self._path is not None and self._parquet:
                self._writer = stack.enter_context(self._open())
            elif self._path is not None:
                self._records = stack.enter_context(Records("csv", output=self._path, columns=FRAME_COLUMNS))
            self._opened = stack.pop_all()
        return self

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes the rows of one video."""
        if self._records is not None:
            self._records.add_rows(rows)
        if self._writer is not None and rows:
            import pyarrow as pa

            self._writer.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=self._writer.schema))

    def __exit__(self, *error: Any) -> None:
        try:
            self._opened.__exit__(*error)
        except OpenError as problem:
            if error[0] is None:
                raise ConfigError(str(problem)) from problem

    @contextlib.contextmanager
    def _open(self) -> Any:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError as error:
            raise ConfigError(
                "--frame-table needs pyarrow to write .parquet: pip install '.[train]', or name a .csv file"
            ) from error
        schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in _TYPES.items()])
        try:
            with whole_file(self._path or Path()) as temporary, pq.ParquetWriter(temporary, schema) as writer:
                yield writer
        except OpenError as error:
            raise ConfigError(str(error)) from error
