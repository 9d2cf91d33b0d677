"""Writes results as text, JSON, JSON lines or CSV, to standard output or to a file that appears once it is complete.

File names are chosen by strangers. In text and messages their control characters are escaped (`printable`), because raw
ones could move the cursor, hide lines or forge them. In a CSV file they cannot become a spreadsheet's formulas.

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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Literal, Protocol

from fakeface_jax.atomic_files import whole_file
from fakeface_jax.errors import ConfigError, OpenError

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Characters that start a formula in a spreadsheet (OWASP, CSV injection)."""

_FREE_TEXT = ("input", "reason", "error")
"""Columns with text of others, in which a formula is escaped; a number may begin with a sign."""

Format = Literal["text", "json", "jsonl", "csv"]


def tell(text: str) -> None:
    """Prints lines on stderr; if stderr cannot be written, the work goes on without them."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        # Python would try again at exit, and fail with a code of its own.
        discard(sys.stderr)


def discard(stream: IO[str]) -> None:
    """Redirects a standard stream, with what its buffer still holds, to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


class Record(Protocol):
    """A report or an error record."""

    def to_dict(self) -> dict[str, object]: ...  # noqa: D102
    def summary_row(self) -> dict[str, object]: ...  # noqa: D102


class Records:
    """A writer of records in one format; it writes each record as soon as it is known (JSON: as one array).

    Args:
        kind: the format.
        output: a file, which appears once it is complete (`whole_file`); None for standard output.
        columns: column names of the CSV.

    Raises:
        ConfigError: the file cannot be written; checked before any work is done, as far as possible.
    """

    def __init__(self, kind: Format, *, output: Path | None, columns: Sequence[str]) -> None:
        self._kind = kind
        self._output = output
        self._columns = columns
        self._first = True

    def __enter__(self) -> Records:
        with contextlib.ExitStack() as stack:
            if self._output is not None:
                self._file: IO[str] = stack.enter_context(_whole_text(self._output))
            else:
                self._file = sys.stdout
            if self._kind == "csv":
                self._write_csv([dict(zip(self._columns, self._columns, strict=True))])
            self._opened = stack.pop_all()
        return self

    def add(self, record: Record, text: str) -> None:
        """Writes one record; `text` is its representation in the text format."""
        if self._kind == "csv":
            self._write_csv([record.summary_row()])
        elif self._kind == "text":
            self._write(text + "\n")
        elif self._kind == "jsonl":
            # ASCII is valid in every encoding and on every terminal, and for file names that are not valid Unicode.
            self._write(json.dumps(record.to_dict(), allow_nan=False) + "\n")
        else:
            body = json.dumps(record.to_dict(), allow_nan=False, indent=2)
            self._write(("[\n" if self._first else ",\n") + body)
        self._first = False

    def add_text(self, text: str) -> None:
        """Writes text for people, in the text format only."""
        if self._kind == "text":
            self._write(text + "\n")

    def add_rows(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Writes rows of a CSV table in which a record may have several rows, or none."""
        self._write_csv(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # What was found so far is on standard output; the array is closed, so that it is valid JSON in any case.
            if self._kind == "json" and (error is None or self._output is None):
                self._write("[]\n" if self._first else "\n]\n")
        except Exception as closing:
            self._opened.__exit__(type(closing), closing, closing.__traceback__)
            raise
        try:
            self._opened.__exit__(kind, error, trace)
        except ConfigError:
            # The earlier error is the one that matters, and the output may not be at fault: it is passed on unchanged.
            if error is None:
                raise

    def _write_csv(self, rows: Iterable[Mapping[str, object]]) -> None:
        buffer = io.StringIO(newline="")
        csv.DictWriter(buffer, self._columns).writerows(map(_without_formulas, rows))
        self._write(buffer.getvalue())

    def _write(self, text: str) -> None:
        # A file name that is not valid Unicode, or that the terminal's encoding lacks, is written with escapes.
        encoding = getattr(self._file, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from error

    def _cannot_write(self, error: OSError) -> Exception:
        if isinstance(error, BrokenPipeError):
            return error  # the reader has closed the pipe, as `| head` does; the output is not at fault
        remedy = "name another file" if self._output else "check the space on the disk"
        return ConfigError(f"{self._output or '<stdout>'}: cannot be written: {error.strerror or error}; {remedy}")


@contextlib.contextmanager
def _whole_text(path: Path) -> Iterator[IO[str]]:
    try:
        with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OpenError as error:
        # The path is a setting and not one of the inputs, so the error is one of configuration.
        raise ConfigError(str(error)) from error


def _without_formulas(row: Mapping[str, object]) -> dict[str, object]:
    """Returns the row with a quote before free text that begins like a formula; a lone `-` means standard input."""
    return {
        column: f"'{cell}"
        if column in _FREE_TEXT and isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) and len(cell) > 1
        else cell
        for column, cell in row.items()
    }
