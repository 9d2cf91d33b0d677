"""Results as text, JSON, JSON lines or CSV, to standard output or a file that appears when it is complete.

Example:
    >>> with Records("jsonl", output=None, columns=SUMMARY_COLUMNS) as records:
    ...     records.add(report)
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Literal, Protocol

from fakeface_jax.errors import OpenError

Format = Literal["text", "json", "jsonl", "csv"]


class Record(Protocol):
    """A report or an error record."""

    def to_dict(self) -> dict[str, object]: ...  # noqa: D102
    def summary_row(self) -> dict[str, object]: ...  # noqa: D102


class Records:
    """Writes records in one format, each as soon as it is known (JSON: one array at the end).

    Args:
        kind: the format.
        output: a file, written under a temporary name and renamed at the end; None for standard output.
        columns: of the CSV.

    Raises:
        OpenError: the file cannot be written.
    """

    def __init__(self, kind: Format, *, output: Path | None, columns: Sequence[str]) -> None:
        self._kind = kind
        self._output = output
        self._temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp") if output else None
        self._columns = columns
        self._first = True

    def __enter__(self) -> Records:
        self._file: IO[str] = sys.stdout
        if self._temporary is not None:
            try:
                self._file = self._temporary.open("w", encoding="utf-8", newline="")
            except OSError as error:
                raise OpenError(self._output, f"cannot be written: {error.strerror}", "name another file") from error
        if self._kind == "csv":
            self._csv = csv.DictWriter(self._file, self._columns)
            self._csv.writeheader()
        return self

    def add(self, record: Record, text: str) -> None:
        """One record; `text` is what the text format shows of it."""
        if self._kind == "text":
            print(text, file=self._file)
        elif self._kind == "csv":
            self._csv.writerow(record.summary_row())
        elif self._kind == "jsonl":
            self._file.write(json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")
        else:
            body = json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False, indent=2)
            self._file.write(("[\n" if self._first else ",\n") + body)
        self._first = False
        self._file.flush()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._kind == "json":
            self._file.write("[]\n" if self._first else "\n]\n")
        if self._temporary is None or self._output is None:
            self._file.flush()
            return
        self._file.close()
        if kind is None:
            self._temporary.replace(self._output)
        else:
            self._temporary.unlink(missing_ok=True)
