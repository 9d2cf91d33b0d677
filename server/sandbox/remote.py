"""Videos and live sources that another process decodes, in the shapes that the pipeline knows.

Example:
    >>> with decoders.open_video("upload.bin", name="clip.mp4") as video:
    ...     report = score_video(classifier, detector, video, sha256=sha256)
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from fakeface_jax.errors import DecodeError, FakeFaceError, MediaError, OpenError
from fakeface_jax.server.sandbox.child import Child, Stop, whole
from fakeface_jax.server.sandbox.protocol import DecodeLimits, DecoderKilled
from fakeface_jax.video.live.capture import ConnectionLost, DamagedPicture, Picture, StreamSource
from fakeface_jax.video.reading.prefetch import frames_ahead
from fakeface_jax.video.reading.sampling import Sampling, chooser_of
from fakeface_jax.video.reading.source import Frame, FrameCounters

_LIVE_BYTES = 3 * 1920 * 1080
"""A larger picture of a live source comes over the socket."""

_GRACE = 2.0
"""Seconds that a child, which has the timeouts of its source, is given beyond them."""

_Read = TypeVar("_Read")


class IsolatedVideo:
    """A `FrameSource` whose frames a child decodes; the same frames, times and counters as `PyAVFile` gives.

    Used by one thread; any other may `kill` it. Only one walk at a time: a new one ends the one before.

    Args:
        child: of its own, ready.
        file: descriptor of the open media; the child gets a copy.
        name: what errors and reports call it.
        limits: of the child.
        stop: asked while nothing comes; when it answers True, the work ends with `Cancelled`.

    Attributes: those of `fakeface_jax.video.reading.opencv.VideoFile`.

    Raises:
        OpenError, DecodeError, LimitExceeded: as `VideoFile` does, and for limits and ends of the child.
        DecoderKilled: somebody else ended the child, in all that asks it.
    """

    package = "av"

    def __init__(self, child: Child, file: int, name: str, limits: DecodeLimits, stop: Stop | None = None) -> None:
        self.name = name
        self._child, self._limits, self._stop = child, limits, stop
        self._counters = FrameCounters()
        self._walk = 0
        self._walking = False
        header = self._ask({"do": "video", "name": name}, files=[file])
        try:
            self.width, self.height = whole(header["width"]), whole(header["height"])
            self.frame_count = whole(header["frame_count"])
            stated = header["frame_count_stated"]
            self.frame_count_stated = None if stated is None else whole(stated)
            self.fps, self.duration = _number(header["fps"]), _number(header["duration"])
            self.times_from = "container" if header["times_from"] == "container" else "frame rate"
            if not 0 < self.width * self.height <= limits.max_pixels:
                raise ValueError("size")
        except (KeyError, TypeError, ValueError):
            raise child.broken(name) from None
        size = self.width * self.height * 3
        self._slots = frames_ahead(size)  # decoding and scoring go on at the same time
        child.share(size, self._slots)

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._child.pid

    @property
    def counters(self) -> FrameCounters:
        """Of the latest call of `frames` or `frames_at`."""
        return self._counters

    def expected_samples(self, sampling: Sampling) -> int:
        """How many frames `frames` will hand out, about: for progress bars."""
        header = self._ask({"do": "samples", "sampling": dataclasses.asdict(sampling)})
        return self._checked(_samples, header)

    def window(self, sampling: Sampling) -> range:
        """The indices of the frames between the sampling's start and end."""
        header = self._ask({"do": "window", "sampling": dataclasses.asdict(sampling)})
        return self._checked(_window, header)

    def passes(self, sampling: Sampling) -> tuple[tuple[int, ...], ...]:
        """The indices for `frames_at`, pass after pass, until enough frames have a face; see `Sampling.passes`."""
        return sampling.passes(self.window(sampling))

    def frames(self, sampling: Sampling) -> Iterator[Frame]:
        """The sampled frames, in order; see `FileSource.frames`.

        Raises:
            DecodeError: no frame could be decoded, or none lies in the window; or the child ended.
            LimitExceeded: a frame, or all the work, is beyond a limit.
            Cancelled: `stop` answered True.
        """
        yield from self._frames({"do": "frames", "sampling": dataclasses.asdict(sampling)})

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        """The frames with these numbers, which ascend; see `FileSource.frames_at`.

        Raises:
            ConfigError: they do not ascend, or begin below 0.
            DecodeError, LimitExceeded, Cancelled: as `frames`.
        """
        numbers = [int(index) for index in indices]
        chooser_of(numbers)  # checks them here, at once
        return self._frames({"do": "frames_at", "indices": numbers})

    def kill(self) -> None:
        """Ends the child at once; whoever waits for a frame gets an error. For other threads."""
        self._child.kill()

    def close(self) -> None:
        """Ends the child; twice is no error."""
        self._child.close()

    def __enter__(self) -> IsolatedVideo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _frames(self, message: dict[str, Any]) -> Iterator[Frame]:
        self._end_walk()
        self._walk += 1
        walk, self._walking, self._counters = self._walk, True, FrameCounters()
        self._child.send({**message, "slots": self._slots})
        try:
            while True:
                header, payload = self._receive()
                if header.get("end"):
                    self._walking = False
                    self._counters = self._checked(_counters, header)
                    return
                image = self._child.picture(header, payload, self.name)
                self._child.send({"do": "free", "slot": header["slot"]})
                index, time = self._checked(_place, header)
                self._counters = self._checked(_counters, header)
                yield Frame(image=image, index=index, time=time)
                if walk != self._walk:
                    raise OpenError(self.name, "another walk through it was begun", "finish one after the other")
        finally:
            if walk == self._walk:
                self._end_walk()

    def _end_walk(self) -> None:
        """Makes the child listen again."""
        if not self._walking or not self._child.alive:
            return
        self._child.send({"do": "stop"})
        with contextlib.suppress(MediaError, DecoderKilled):  # of a walk that nobody wants any more
            while self._walking:
                self._walking = not self._receive()[0].get("end")

    def _ask(self, message: dict[str, Any], *, files: Sequence[int] = ()) -> dict[str, Any]:
        self._end_walk()
        self._child.send(message, files=files)
        return self._receive()[0]

    def _receive(self) -> tuple[dict[str, Any], bytearray]:
        try:
            return self._child.receive(
                self.name, seconds=self._limits.wall_seconds, max_bytes=3 * self._limits.max_pixels, stop=self._stop
            )
        except FakeFaceError:
            self._walking = False  # on the other side too
            raise

    def _checked(self, read: Callable[[dict[str, Any]], _Read], header: dict[str, Any]) -> _Read:
        try:
            return read(header)
        except (KeyError, TypeError, ValueError):
            raise self._child.broken(self.name) from None


class IsolatedCapture:
    """A `fakeface_jax.video.live.capture.Capture` that a child reads; a read that hangs is ended.

    Args:
        child: of its own, ready, with a network.
        source: what is read.
        open_timeout: seconds.
        read_timeout: seconds.
        limits: of the child.

    Raises:
        ConnectionLost: another try may succeed.
        MediaError: none will.
    """

    def __init__(
        self, child: Child, source: StreamSource, open_timeout: float, read_timeout: float, limits: DecodeLimits
    ) -> None:
        self._child, self._limits, self._name = child, limits, str(source)
        self._seconds = read_timeout + _GRACE
        self._of_file = source.kind == "file"
        child.share(_LIVE_BYTES, 1)
        place = os.path.abspath(source.place) if source.kind == "file" else source.place  # noqa: PTH100
        message = {"kind": source.kind, "place": place}
        header, _ = self._ask(
            {"do": "live", **message, "open_timeout": open_timeout, "read_timeout": read_timeout},
            open_timeout + _GRACE,
        )
        self.finite = header.get("finite") is True

    def read(self) -> Picture | None:
        """The next picture; see `fakeface_jax.video.live.capture.Capture.read`."""
        header, payload = self._ask({"do": "read"}, self._seconds)
        if header.get("end"):
            return None
        if header.get("damaged"):
            raise DamagedPicture
        image = self._child.picture(header, payload, self._name)
        try:
            return Picture(image=image, time=_number(header["time"]))
        except (KeyError, ValueError):
            raise self._child.broken(self._name) from None

    def release(self) -> None:
        """Ends the child; twice is no error."""
        self._child.close()

    def _ask(self, message: dict[str, Any], seconds: float) -> tuple[dict[str, Any], bytearray]:
        self._child.send(message)
        try:
            header, payload = self._child.receive(self._name, seconds=seconds, max_bytes=3 * self._limits.max_pixels)
        except Exception as error:
            self._failed(error)
        if "lost" in header:
            raise ConnectionLost(str(header["lost"])[:200])
        return header, payload

    def _failed(self, error: Exception) -> NoReturn:
        """A camera whose decoder ended is connected again, with a fresh one; a file would end it again."""
        if isinstance(error, DecoderKilled):
            if self._of_file:
                raise DecodeError(self._name, "the decoder was killed from outside", "try it again") from error
            raise ConnectionLost(str(error)) from None
        if not self._of_file and isinstance(error, MediaError) and not self._child.alive:
            raise ConnectionLost(error.problem) from None
        raise error


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _place(header: dict[str, Any]) -> tuple[int, float]:
    time = _number(header["time"])
    if time is None:
        raise ValueError("time")
    return whole(header["index"]), time


def _counters(header: dict[str, Any]) -> FrameCounters:
    read, sampled, dropped, skipped = (whole(value) for value in header["counters"])
    return FrameCounters(read=read, sampled=sampled, dropped=dropped, skipped=skipped)


def _samples(header: dict[str, Any]) -> int:
    return whole(header["samples"])


def _window(header: dict[str, Any]) -> range:
    return range(whole(header["start"]), whole(header["stop"]))
