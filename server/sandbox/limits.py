"""A video file that is read within limits, with a sign of life for every packet.

Headers are not believed: frames and packets are counted as they come, and pixels are those of the decoded frame.

Example:
    >>> video = GuardedVideo("/proc/self/fd/5", name="clip.mp4", limits=DecodeLimits(), alive=lambda: None)
    >>> video.name
    'clip.mp4'
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import LimitExceeded
from fakeface_jax.server.sandbox.protocol import DecodeLimits
from fakeface_jax.video.reading.pyav import PyAVFile


class GuardedVideo(PyAVFile):
    """As `PyAVFile`, within limits.

    Args:
        path: what is opened.
        name: what errors and reports call it.
        limits: of pixels, frames and seconds.
        alive: called for each packet that is read.
        place: called with the shape of each frame that is handed out: where it is to be written, or None.

    Raises:
        LimitExceeded: also of these limits.
    """

    def __init__(
        self,
        path: str,
        *,
        name: str,
        limits: DecodeLimits,
        alive: Callable[[], None],
        place: Callable[[tuple[int, ...]], UInt8[np.ndarray, "h w 3"] | None] = lambda shape: None,
    ) -> None:
        self._limits, self._tell_alive, self._place = limits, alive, place
        super().__init__(path)
        self.name = name
        if self.duration is not None and self.duration > limits.max_seconds:
            self.close()
            raise LimitExceeded(
                name,
                f"{self.duration:.0f} s long, more than {limits.max_seconds:g} s",
                "cut it, or score a part of it",
            )

    def _saw_packet(self, count: int) -> None:
        if count > self._limits.max_frames:
            raise LimitExceeded(self.name, f"more than {self._limits.max_frames} frames", "cut it")

    def _alive(self) -> None:
        self._tell_alive()

    def _room(self, shape: tuple[int, ...]) -> UInt8[np.ndarray, "h w 3"] | None:
        return self._place(shape)

    def _check_pixels(self, width: int, height: int) -> None:
        super()._check_pixels(width, height)
        most = self._limits.max_pixels
        if width * height > most:
            raise LimitExceeded(
                self.name, f"{width} x {height} pixels, more than {most / 1e6:g} megapixels", "make it smaller"
            )
