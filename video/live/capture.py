"""What a live stream is read from: a camera, an address, or a file; opened with timeouts, one picture at a time.

A picture that cannot be decoded is an error of its own, told apart from a connection that is lost. Motion JPEG from an
address is decoded here and not by OpenCV, which stretches every picture to the size of the first one and does not tell
damage from the end.

Example:
    >>> source = StreamSource.parse("rtsp://user:secret@camera.local/live")
    >>> str(source)
    'rtsp://***@camera.local/live'
    >>> capture = open_capture(source, open_timeout=10.0, read_timeout=10.0)
    >>> picture = capture.read()
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NoReturn, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import ConfigError, MediaError
from fakeface_jax.images import decode_image
from fakeface_jax.video.live.redaction import display_address, is_host
from fakeface_jax.video.reading.opencv import Frame, open_video
from fakeface_jax.video.reading.sampling import Sampling

SCHEMES = ("rtsp", "rtsps", "http", "https")
"""Of FFmpeg's protocols, those that reach cameras. The others (`file:`, `concat:`, `subfile:`, ...) reach files."""

_BAD_READS = 25
"""Pictures in succession that cannot be decoded, after which the connection is taken for lost."""

_AT_ONCE = 0.1
"""Seconds. So many reads that fail in less are no damaged pictures, which would come one by one: it is the end."""

_THREADS = 2
"""Of the decoder. Each one more delays every picture by one."""


class ConnectionLost(Exception):
    """No more pictures come from this capture; a new one may get some. Caught by the reader, never by users."""


class DamagedPicture(Exception):
    """One picture could not be decoded; the next may be. Caught by the reader, never by users."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSource:
    """Where pictures come from. `str()` of it is what may be shown.

    Attributes:
        kind: `camera`, `address` or `file`.
        place: the index of the camera, the address with its secrets, the path.
    """

    kind: Literal["camera", "address", "file"]
    place: str = dataclasses.field(repr=False)

    @classmethod
    def parse(cls, text: str) -> StreamSource:
        """A camera's number, an address with one of `SCHEMES`, or the path of an existing file.

        Raises:
            ConfigError: anything else.
        """
        known = f"name a camera's number, a file, or an address with {', '.join(f'{name}://' for name in SCHEMES)}"
        if re.fullmatch(r"[0-9]{1,3}", text):
            return cls(kind="camera", place=text)
        found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
        if found is None:
            try:
                exists = Path(text).is_file()
            except (OSError, ValueError):
                exists = False
            if not exists:
                raise ConfigError(f"{display_address(text)!r}: no such file, and no camera or address; {known}")
            return cls(kind="file", place=text)
        if found[1].lower() not in SCHEMES:
            raise ConfigError(f"{display_address(text)}: {found[1]}:// is not read; {known}")
        host = re.split(r"[/?#]", text[found.end() :])[0].rpartition("@")[2]
        if not re.fullmatch(r"[!-~]+", text) or not is_host(host):
            raise ConfigError(
                f"{display_address(text)!r}: no valid address; write {found[1]}://host/path, % for others"
            )
        return cls(kind="address", place=found[1].lower() + text[len(found[1]) :])

    def __str__(self) -> str:
        if self.kind == "camera":
            return f"camera {self.place}"
        return self.place if self.kind == "file" else display_address(self.place)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """One picture, as it came.

    Attributes:
        image: RGB, 0 to 255.
        time: seconds from the first picture by the container's clock; None where it comes live.
    """

    image: UInt8[np.ndarray, "h w 3"]
    time: float | None = None


@runtime_checkable
class Capture(Protocol):
    """An open source, used by one thread."""

    finite: bool
    """Whether it has an end, and a clock of its own: it is played at its own speed."""

    def read(self) -> Picture | None:
        """The next picture; None at the end of a finite source.

        Raises:
            DamagedPicture: this one could not be decoded; the next may be.
            ConnectionLost: there is nothing more to be had from this capture.
            MediaError: nor from any other.
        """
        ...

    def release(self) -> None:
        """Frees it; twice is no error."""
        ...


OpenCapture = Callable[[StreamSource, float, float], Capture]
"""Called with the source, and with the timeouts of opening and reading in seconds. Raises `ConnectionLost` where
another try may succeed, a `MediaError` where none will."""


def open_capture(source: StreamSource, open_timeout: float, read_timeout: float) -> Capture:
    """Opens a source; see `OpenCapture`.

    Raises:
        ConnectionLost: camera or address cannot be opened now.
        MediaError: the file is no video.
    """
    if source.kind == "file":
        return _File(source)
    return _Live(source, open_timeout, read_timeout)


class _File:
    """A video file; its damaged pictures are counted by the reader of files."""

    finite = True

    def __init__(self, source: StreamSource) -> None:
        self._source = source
        self._video = open_video(source.place)
        self._frames: Iterator[Frame] = self._video.frames(Sampling(every=1))
        self._dropped = 0
        self._next: Picture | None = None

    def read(self) -> Picture | None:
        picture, self._next = self._next, None
        if picture is not None:
            return picture
        frame = next(self._frames, None)
        picture = Picture(image=frame.image, time=frame.time) if frame is not None else None
        if self._video.counters.dropped > self._dropped:
            self._dropped += 1
            self._next = picture
            raise DamagedPicture
        return picture

    def release(self) -> None:
        self._video.close()


class _Live:
    """A camera or an address, through OpenCV. A file behind HTTP is finite."""

    def __init__(self, source: StreamSource, open_timeout: float, read_timeout: float) -> None:
        self._source, self._read_timeout = source, read_timeout
        if source.kind == "camera":
            self._capture = cv2.VideoCapture(int(source.place))
        else:
            timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(open_timeout * 1000)]
            timeouts += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(read_timeout * 1000)]
            # The backend is named: others would take the address for a pattern of picture names, and tell it.
            self._capture = cv2.VideoCapture(
                source.place, cv2.CAP_FFMPEG, [*timeouts, cv2.CAP_PROP_N_THREADS, _THREADS]
            )
        if not self._capture.isOpened():
            self._capture.release()
            raise ConnectionLost("could not be opened")
        is_http = source.place.startswith("http")
        self.finite = source.kind == "address" and is_http and self._capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0
        self._packets = source.kind == "address" and not self.finite and self._gives_jpegs()
        self._failed = 0
        # Damaged pictures that are still to be told, and whether one that can be decoded was read after them.
        self._damaged, self._grabbed = 0, False
        self._first: float | None = None

    def read(self) -> Picture | None:
        try:
            return self._read()
        except cv2.error:
            raise ConnectionLost("OpenCV failed") from None  # its message may hold the address

    def _read(self) -> Picture | None:
        if not self._grabbed and not self._damaged:
            self._grabbed = self._grab()
            if not self._grabbed and self.finite:
                return None
        if self._damaged:
            self._damaged -= 1
            self._fail()
        self._grabbed = False
        image = self._decode()
        self._failed = 0
        if not self.finite:
            return Picture(image=image)
        stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
        self._first = stamp if self._first is None else self._first
        return Picture(image=image, time=stamp - self._first)

    def _grab(self) -> bool:
        """Whether a picture was read; those before it that could not be are counted in `_damaged`.

        OpenCV's grab() says no more than False, for damage and for the end alike. And when nothing came in time it
        answers True as long as its decoder still holds pictures, one for each of its threads: old ones, by now.
        """
        began = time.monotonic()
        for failed in range(_BAD_READS):
            asked = time.monotonic()
            got = self._capture.grab()
            now = time.monotonic()
            if self.finite:
                return got
            if now - asked >= (1.0 if got else 0.9) * self._read_timeout:
                raise ConnectionLost(f"nothing came for {self._read_timeout:g} s")
            if got:
                self._damaged = failed
                return True
            if self._packets:
                break
            if now - began >= _AT_ONCE:
                self._damaged = failed + 1
                return False
        raise ConnectionLost("the connection ended")

    def release(self) -> None:
        self._capture.release()

    def _gives_jpegs(self) -> bool:
        """Whether the packets themselves will be handed out."""
        code = int(self._capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
        return code.to_bytes(4, "little") == b"MJPG" and self._capture.set(cv2.CAP_PROP_FORMAT, -1)

    def _decode(self) -> UInt8[np.ndarray, "h w 3"]:
        got, image = self._capture.retrieve()
        if not got or image is None or not image.size:
            self._fail()
        if self._packets:
            try:
                return decode_image(image.tobytes(), source=str(self._source))
            except MediaError:
                self._fail()
        # cv2.CAP_PROP_CONVERT_RGB is on: backends give BGR, whatever the camera sends.
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _fail(self) -> NoReturn:
        """One more picture that could not be decoded."""
        self._failed += 1
        if self._failed >= _BAD_READS:
            raise ConnectionLost(f"{_BAD_READS} reads in succession failed")
        raise DamagedPicture
