"""A video file that is read within limits, with a sign of life for every packet and frame.

Headers are not believed: frames and packets are counted as they come, and pixels are those of the decoded frame.

Example:
    >>> video = open_guarded("/proc/self/fd/5", name="clip.mp4", limits=DecodeLimits(), alive=lambda: None)
    >>> video.name
    'clip.mp4'
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import LimitExceeded
from service.sandbox.decoding import DecodeLimits
from video.frames import InterlacedVideo, VideoFile
from video.pyav import PyAVFile
from video.walk import FileSource

Place = Callable[[tuple[int, ...]], UInt8[np.ndarray, "h w 3"] | None]


def open_guarded(
    path: str, *, name: str, limits: DecodeLimits, alive: Callable[[], None], place: Place = lambda shape: None
) -> GuardedVideo:
    """A video within limits, read by OpenCV, or by PyAV where OpenCV cannot.

    Args:
        path: what is opened.
        name: what errors and reports call it.
        limits: of pixels, frames and seconds.
        alive: called for each packet that is read and each frame that is decoded.
        place: called with the shape of each frame that is handed out: where it is to be written, or None.

    Raises:
        OpenError, DecodeError: see `VideoFile`.
        LimitExceeded: also of these limits.
    """
    try:
        return _ByOpenCV(path, name=name, limits=limits, alive=alive, place=place)
    except InterlacedVideo:
        return _ByPyAV(path, name=name, limits=limits, alive=alive, place=place)


class GuardedVideo(FileSource):
    """What the limits are held by, whoever decodes; mixed into a reader of files."""

    def __init__(self, path: str, *, name: str, limits: DecodeLimits, alive: Callable[[], None], place: Place) -> None:
        self._limits, self._alive, self._place = limits, alive, place
        super().__init__(path)  # type: ignore[call-arg]
        self.name = name
        if self.duration is not None and self.duration > limits.max_seconds:
            self.close()
            raise LimitExceeded(
                name,
                f"{self.duration:.0f} s long, more than {limits.max_seconds:g} s",
                "cut it, or score a part of it",
            )

    def _saw_packet(self, count: int) -> None:
        self._alive()
        if count > self._limits.max_frames:
            raise LimitExceeded(self.name, f"more than {self._limits.max_frames} frames", "cut it")

    def _grab(self) -> bool:
        self._alive()
        return super()._grab()  # type: ignore[safe-super]

    def _room(self, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"] | None:
        self._check_pixels(shape[1], shape[0])
        return self._place(shape)

    def _check_size(self) -> None:
        super()._check_size()
        self._check_pixels(self.width, self.height)

    def _check_pixels(self, width: int, height: int) -> None:
        most = self._limits.max_pixels
        if width * height > most:
            raise LimitExceeded(
                self.name, f"{width} x {height} pixels, more than {most / 1e6:g} megapixels", "make it smaller"
            )


class _ByOpenCV(GuardedVideo, VideoFile):
    pass


class _ByPyAV(GuardedVideo, PyAVFile):
    pass
