"""What the two sides of the sandbox have in common: the limits, and messages over a socket.

A message is a JSON object and some raw bytes, each with its length before it. Nothing that comes from a decoder is ever
unpickled, and no length is believed that is beyond a limit.

Example:
    >>> ours, theirs = socket.socketpair()
    >>> Channel(ours).send({"do": "picture", "name": "a.jpg"}, data)
    >>> Channel(theirs).receive(max_bytes=2**20)
    ({'do': 'picture', 'name': 'a.jpg'}, bytearray(...))
"""

from __future__ import annotations

import array
import dataclasses
import json
import math
import os
import select
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fakeface_jax.errors import ConfigError, DecodeError, FakeFaceError
from fakeface_jax.images import MAX_BYTES, MAX_PIXELS

MAX_HEADER = 64 * 2**10
"""Bytes of a message's JSON that the parent takes from a decoder."""

_LENGTHS = struct.Struct("!IQ")
_CHUNK = 2**20


class BrokenChannel(Exception):
    """The other side is gone, or what it sends is no message. Handled inside the sandbox."""


class Silence(Exception):
    """Nothing came in time. Handled inside the sandbox."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What decoding may cost. Checked by what is decoded, not by what a header says.

    Attributes:
        memory_bytes: address space of a decoder; of that, its program takes about half a GiB, most of it never used.
        image_cpu_seconds: processor time for one picture.
        image_seconds: wall-clock time for one picture.
        cpu_seconds: processor time for one video, all threads, all walks through it.
        wall_seconds: longest time without progress: no frame decoded, no packet read.
        open_files: descriptors of a decoder.
        max_pixels: of a picture, and of each frame.
        max_frames: of a video, counted.
        max_seconds: of a video, by its timestamps.
        image_bytes: of a picture's file.
        output_bytes: of an annotated video.
        image_uses: pictures after which a decoder is replaced by a fresh one.
    """

    memory_bytes: int = 2 * 2**30
    image_cpu_seconds: int = 30
    image_seconds: float = 30.0
    cpu_seconds: int = 2 * 3600
    wall_seconds: float = 60.0
    open_files: int = 64
    max_pixels: int = MAX_PIXELS
    max_frames: int = 1_000_000
    max_seconds: float = 4 * 3600.0
    image_bytes: int = MAX_BYTES
    output_bytes: int = 4 * 2**30
    image_uses: int = 500

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"limit {field.name} {value} is not above 0")
        if self.memory_bytes < 2**30:
            raise ConfigError(f"limit memory_bytes {self.memory_bytes} is below 1 GiB, which the decoder itself needs")
        if self.open_files < 32:
            raise ConfigError(f"limit open_files {self.open_files} is below 32, which the decoder itself needs")


class DecoderUnavailable(FakeFaceError):
    """No decoder can be had now, which says nothing about the media: the next try may find one.

    Attributes:
        retry_after: seconds.
    """

    retry_after = 10


class DecoderKilled(DecoderUnavailable):
    """The decoder was killed by somebody else: mostly by the machine, which had no memory left.

    It is no fault that is known to be the media's: another decoder may have taken the memory.
    """


class DecoderCrashed(DecodeError):
    """The decoder itself failed: it ended by a signal that a fault raises, or by an error in its own program."""


class Channel:
    """One end of the way between a decoder and its parent. Not thread-safe.

    Args:
        end: of a socket pair of the kind `SOCK_STREAM`.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        end.setblocking(False)

    def close(self) -> None:
        """Closes this end; twice is no error."""
        self._socket.close()

    def send(
        self,
        header: Mapping[str, Any],
        payload: bytes | memoryview = b"",
        *,
        descriptors: Sequence[int] = (),
        timeout: float | None = None,
    ) -> None:
        """Sends one message.

        Args:
            header: for JSON.
            payload: raw bytes.
            descriptors: of open files, that the other side gets copies of.
            timeout: seconds for all of it; without end by default.

        Raises:
            BrokenChannel: the other side is gone.
            Silence: it did not take the message in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        text, raw = json.dumps(header).encode(), memoryview(payload).cast("B")
        start = _LENGTHS.pack(len(text), len(raw)) + text
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            sent = self._first(start, control, until)
            for part in (memoryview(start)[sent:], raw):
                self._all(part, until)
        except OSError as error:
            raise BrokenChannel(str(error)) from error

    def receive(
        self, *, max_bytes: int, max_header: int = MAX_HEADER, timeout: float | None = None
    ) -> tuple[dict[str, Any], bytearray]:
        """Waits for one message.

        Args:
            max_bytes: of its payload.
            max_header: bytes of its JSON.
            timeout: seconds until all of it must be there; without end by default.

        Raises:
            BrokenChannel: the other side is gone, or what came is no message or beyond a limit.
            Silence: it did not come in time.
        """
        header, payload, _ = self._receive(max_bytes, max_header, timeout, descriptors=0)
        return header, payload

    def receive_with_files(self, *, max_bytes: int, max_header: int) -> tuple[dict[str, Any], bytearray, list[int]]:
        """As `receive`, with the descriptors that came along; for the child, which trusts its parent."""
        return self._receive(max_bytes, max_header, None, descriptors=2)

    def ready(self, seconds: float = 0.0) -> bool:
        """Whether a message has begun to arrive, or the other side is gone; waits for so long at most."""
        return self._poll(select.POLLIN, seconds)

    def _receive(
        self, max_bytes: int, max_header: int, timeout: float | None, *, descriptors: int
    ) -> tuple[dict[str, Any], bytearray, list[int]]:
        until = None if timeout is None else time.monotonic() + timeout
        found: list[int] = []
        lengths = self._exactly(_LENGTHS.size, until, found if descriptors else None, descriptors)
        header_length, payload_length = _LENGTHS.unpack(lengths)
        if header_length > max_header or payload_length > max_bytes:
            raise BrokenChannel(f"a message of {header_length} + {payload_length} bytes")
        text = self._exactly(header_length, until)
        payload = self._exactly(payload_length, until)
        try:
            header = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BrokenChannel("a message that is not JSON") from error
        if not isinstance(header, dict):
            raise BrokenChannel("a message that is no object")
        return header, payload, found

    def _exactly(
        self, count: int, until: float | None, found: list[int] | None = None, descriptors: int = 0
    ) -> bytearray:
        data = bytearray()
        # Grows with what really comes: a length costs its sender nothing.
        while len(data) < count:
            self._wait(until, to_write=False)
            wanted = min(_CHUNK, count - len(data))
            try:
                if found is not None:
                    part, files, _, _ = socket.recv_fds(self._socket, wanted, descriptors)
                    found += files
                else:
                    part = self._socket.recv(wanted)
            except BlockingIOError:
                continue
            except OSError as error:
                raise BrokenChannel(str(error)) from error
            if not part:
                raise BrokenChannel("the other side is gone")
            data += part
        return data

    def _first(self, start: bytes, control: list[Any], until: float | None) -> int:
        while True:
            self._wait(until, to_write=True)
            try:
                return self._socket.sendmsg([start], control)
            except BlockingIOError:
                continue

    def _all(self, part: memoryview, until: float | None) -> None:
        while len(part):
            self._wait(until, to_write=True)
            try:
                part = part[self._socket.send(part[:_CHUNK]) :]
            except BlockingIOError:
                continue

    def _wait(self, until: float | None, *, to_write: bool) -> None:
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            raise Silence
        if not self._poll(select.POLLOUT if to_write else select.POLLIN, left):
            raise Silence

    def _poll(self, event: int, seconds: float | None) -> bool:
        poller = select.poll()  # a service has more descriptors than select() takes
        try:
            poller.register(self._socket, event)
        except ValueError as error:
            raise BrokenChannel("closed") from error
        return bool(poller.poll(None if seconds is None else max(0, math.ceil(seconds * 1000))))


def shared_memory(size: int) -> int | None:
    """A descriptor of memory that two processes can map, of a size that neither can change; None without such.

    Were it to shrink, whoever reads beyond its end would be killed.
    """
    if not hasattr(os, "memfd_create"):
        return None
    import fcntl

    memory = os.memfd_create("fakeface-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(memory, size)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    except OSError:
        os.close(memory)
        return None
    return memory
