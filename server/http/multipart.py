"""What a client sends, received within limits: bytes are counted as they come, and nobody is waited for without end.

A file comes as a part of a form (multipart/form-data) or as the body itself. It goes to memory or straight to a file,
hashed on the way; it is never in memory as a whole unless it is small.

Example:
    >>> upload = await receive(request, most=32 * 2**20, idle=30, total=3600)
    >>> upload.name, upload.sha256, len(upload.data)
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import io
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from fastapi import Request
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from fakeface_jax.server.http.problems import Problem
from fakeface_jax.server.storage.job_records import shown_name

_FIELD_BYTES = 1024
"""Of one small field; all of them are numbers and names."""

_FORM_BYTES = 64 * 1024
"""Of a form, besides its file."""

_FIELDS = 32
_HEADER_BYTES = 4096
_LAST_BYTES = 256
_LONGEST_HEADER = 2**20
"""Bytes of a part's header that are read; of its value, `_HEADER_BYTES` are kept."""


async def _not_counted(size: int) -> None:
    """Of a body that nobody has to know the length of."""


@dataclasses.dataclass(kw_only=True)
class Upload:
    """A file that was received.

    Attributes:
        name: as the client called it, without folders; it is shown and never opened.
        size: bytes.
        sha256: of them.
        data: the bytes; empty where they went to a file.
        fields: the other fields of the form.
    """

    name: str
    size: int
    sha256: str
    data: bytes
    fields: dict[str, str]


async def receive(
    request: Request,
    *,
    most: int,
    idle: float,
    total: float,
    rate: float = 0.0,
    target: Path | None = None,
    name: str | None = None,
    on_bytes: Callable[[int], Awaitable[None]] = _not_counted,
) -> Upload:
    """Receives one file.

    Args:
        request: its body is read.
        most: bytes; more are refused while they come.
        idle: seconds without a byte.
        total: seconds for all of it.
        rate: bytes a second that have to come; who is slower for `idle` seconds is given up. 0 for any rate.
        target: write it there.
        name: of a file that is the body itself.
        on_bytes: called with the length of each piece of the body; what it raises ends the upload.

    Raises:
        Problem: 400 malformed, 408 too slow, 413 too long, 507 no space.
    """
    refuse_longer(request, most)
    left = most + _FORM_BYTES
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    with contextlib.ExitStack() as stack:
        # Unbuffered, so that what the disk cannot take is known when it is written, and closing never fails.
        file: BinaryIO = stack.enter_context(target.open("wb", buffering=0)) if target is not None else io.BytesIO()
        sink = _Sink(file, most)
        try:
            async with asyncio.timeout(total):
                if kind == b"multipart/form-data":
                    form = _Form(options.get(b"boundary", b""), sink)
                    async for chunk in _chunks(request, idle, rate):
                        await on_bytes(len(chunk))
                        left -= len(chunk)
                        if left < 0:  # also of what is around the file
                            raise _too_long(most)
                        form.feed(chunk)
                    shown, fields = form.finish()
                else:
                    async for chunk in _chunks(request, idle, rate):
                        await on_bytes(len(chunk))
                        sink.write(chunk)
                    shown, fields = name or "upload", {}
        except TimeoutError:
            raise Problem(408, "the upload took too long; send it again", {"Connection": "close"}) from None
        except ClientDisconnect:
            raise Problem(400, "the client left before the file was complete") from None
        data = b"" if target is not None else file.getvalue()  # type: ignore[attr-defined]
    if not sink.size:
        raise Problem(422, f"{_base_name(shown)}: the file is empty; send its bytes as the field `file` or as the body")
    return Upload(name=_base_name(shown), size=sink.size, sha256=sink.hash.hexdigest(), data=data, fields=fields)


def refuse_longer(request: Request, most: int) -> None:
    """Raises a `Problem`, 413, where a client says that it will send more than a file of so many bytes."""
    # A form has some more than its file.
    if stated_length(request) > most + _FORM_BYTES:
        raise _too_long(most)


def stated_length(request: Request) -> int:
    """What the client says that it will send, in bytes; 0 where it says nothing. Raises a `Problem`."""
    if "transfer-encoding" in request.headers:
        return 0  # the server goes by the chunks, and takes no notice of another length
    stated = request.headers.get("content-length", "0")
    if not stated.isascii() or not stated.isdigit() or len(stated) > 18:
        raise Problem(400, "the header Content-Length is no number")
    return int(stated)


async def _chunks(request: Request, idle: float, rate: float) -> AsyncIterator[bytes]:
    """The pieces of a body, for as long as they come fast enough.

    Time that is spent waiting for the client is paid for by bytes: each is worth 1 / rate seconds, and `idle` seconds
    are the most that can be saved up. So nobody holds a place by sending a byte now and then, and what the service
    itself takes to store a piece counts for nothing.
    """
    stream = request.stream()
    left = idle
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(left):
                chunk = await anext(stream, None)
        except TimeoutError:
            told = f"nothing came for {left:.3g} s; send it again"
            if left < idle / 2:
                told = f"slower than {rate:g} bytes a second for {idle:g} s; send it again over a faster connection"
            raise Problem(408, told, {"Connection": "close"}) from None
        if chunk is None:
            return
        if rate:
            left = min(idle, left - (time.monotonic() - began) + len(chunk) / rate)
        yield chunk


class _Sink:
    """Counts and hashes what goes to a file."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self.size, self.hash = 0, hashlib.sha256()
        self._file, self._most = file, most

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self._most:
            raise _too_long(self._most)
        self.hash.update(data)
        try:
            view = memoryview(data)
            while view:  # what is unbuffered may write a part
                view = view[self._file.write(view) :]
        except OSError as error:
            raise Problem(507, "the disk of the service is full; try later", {"Retry-After": "300"}) from error


class _Form:
    """multipart/form-data with one file, the field `file`, and some small fields."""

    def __init__(self, boundary: bytes, sink: _Sink) -> None:
        if not boundary:
            raise Problem(400, "the form states no boundary")
        self._sink = sink
        self._fields: dict[str, str] = {}
        self._name: str | None = None
        self._header, self._value = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._part, self._is_file, self._body = "", False, bytearray()
        self._ended = False
        callbacks: Any = {
            "on_part_begin": self._begin,
            "on_header_field": self._grow_field,
            "on_header_value": self._grow_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }
        try:
            self._parser = MultipartParser(boundary, callbacks, max_header_size=_LONGEST_HEADER)
        except Exception as error:  # a boundary that is too long
            raise Problem(400, "the form is malformed") from error

    def feed(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except Problem:
            raise
        except Exception as error:  # MultipartParseError and what its states stumble over
            raise Problem(400, "the form is malformed") from error

    def finish(self) -> tuple[str, dict[str, str]]:
        if not self._ended:
            raise Problem(400, "the form is cut off")
        if self._name is None:
            raise Problem(422, "the form has no file; send it as the field `file`")
        return self._name, self._fields

    def _grow_field(self, data: bytes, start: int, end: int) -> None:
        if len(self._header) + end - start > _HEADER_BYTES:
            raise Problem(400, "the form is malformed: a header is too long")
        self._header += data[start:end]

    def _grow_value(self, data: bytes, start: int, end: int) -> None:
        """The name of the file may be long: the middle is left out, so that its ending and what follows it stay."""
        self._value += data[start:end]
        if len(self._value) > _HEADER_BYTES:
            del self._value[_HEADER_BYTES - _LAST_BYTES : -_LAST_BYTES]

    def _begin(self) -> None:
        self._headers, self._body = {}, bytearray()

    def _end_header(self) -> None:
        if len(self._headers) >= _FIELDS:
            raise Problem(400, "the form is malformed: a part has too many headers")
        self._headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._part = options.get(b"name", b"").decode("utf-8", "replace")
        self._is_file = self._part == "file"
        if self._is_file:
            if self._name is not None:
                raise Problem(422, "the form has several files; send one per request")
            self._name = options.get(b"filename", b"").decode("utf-8", "replace") or "upload"

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._sink.write(data[start:end])
        elif len(self._body) + end - start > _FIELD_BYTES:
            raise Problem(422, f"the field {self._part[:64]!r} is too long")
        else:
            self._body += data[start:end]

    def _end(self) -> None:
        if self._is_file:
            return
        if self._part in self._fields or len(self._fields) >= _FIELDS:
            raise Problem(422, f"the field {self._part[:64]!r} is given twice, or there are too many fields")
        self._fields[self._part] = self._body.decode("utf-8", "replace")

    def _finish(self) -> None:
        self._ended = True


def _base_name(name: str) -> str:
    """What is shown of a client's name for a file: its last part; see `shown_name`."""
    # Browsers percent-encode quotes and line breaks in names.
    return shown_name(re.split(r"[/\\]", unquote(name, errors="replace"))[-1]) or "upload"


def _too_long(most: int) -> Problem:
    size = f"{most / 2**20:g} MiB" if most >= 2**20 else f"{most / 2**10:g} KiB"
    return Problem(413, f"more than {size}; send less", {"Connection": "close"})
