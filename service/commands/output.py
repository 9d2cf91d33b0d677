"""Results as text, JSON, JSON lines or CSV, to standard output or a file that appears when it is complete.

Example:
    >>> with Records("jsonl", output=None, columns=SUMMARY_COLUMNS) as records:
    ...     records.add(report, "portrait.jpg: real")
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal, Protocol

from fakeface_jax.errors import ConfigError

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
        ConfigError: the file cannot be written; found out before any work is done, as far as that can be.
    """

    def __init__(self, kind: Format, *, output: Path | None, columns: Sequence[str]) -> None:
        self._kind = kind
        self._output = output
        self._temporary: Path | None = None
        self._columns = columns
        self._first = True

    def __enter__(self) -> Records:
        self._file: IO[str] = sys.stdout
        if self._output is not None:
            if self._output.is_dir():
                raise ConfigError(f"{self._output}: cannot be written: it is a directory; name a file in it")
            self._temporary = self._output.with_name(f".{self._output.name}.{os.getpid()}.tmp")
            try:
                self._file = self._temporary.open("w", encoding="utf-8", newline="")
            except OSError as error:
                raise self._cannot_write(error) from error
        if self._kind == "csv":
            self._write_csv([dict(zip(self._columns, self._columns, strict=True))])
        return self

    def add(self, record: Record, text: str) -> None:
        """One record; `text` is what the text format shows of it."""
        if self._kind == "csv":
            self._write_csv([record.summary_row()])
        elif self._kind == "text":
            self._write(text + "\n")
        elif self._kind == "jsonl":
            self._write(json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")
        else:
            body = json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False, indent=2)
            self._write(("[\n" if self._first else ",\n") + body)
        self._first = False

    def add_rows(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Rows of a CSV table that is not one row per record."""
        self._write_csv(rows)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._kind == "json" and (kind is None or self._temporary is None):
                # Standard output has what was found so far, in any case as valid JSON.
                self._write("[]\n" if self._first else "\n]\n")
            if self._temporary is not None and self._output is not None:
                self._file.close()
                if kind is None:
                    self._temporary.replace(self._output)
        except OSError as error:
            raise self._cannot_write(error) from error
        finally:
            if self._temporary is not None:
                with contextlib.suppress(OSError):  # what is left to be flushed does not fit on the disk
                    self._file.close()
                self._temporary.unlink(missing_ok=True)

    def _write_csv(self, rows: Iterable[Mapping[str, object]]) -> None:
        buffer = io.StringIO(newline="")
        csv.DictWriter(buffer, self._columns).writerows(rows)
        self._write(buffer.getvalue())

    def _write(self, text: str) -> None:
        # A file name that is no valid text, or not in the terminal's alphabet, is written with escapes, which are also
        # JSON's: nothing is lost.
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> Exception:
        if isinstance(error, BrokenPipeError):
            return error  # the reader has enough, as `| head` has: no fault of the output
        remedy = "name another file" if self._output else "check the space on the disk"
        return ConfigError(f"{self._output or '<stdout>'}: cannot be written: {error.strerror or error}; {remedy}")
