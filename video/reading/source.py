"""What frames are and where they come from, whoever decodes them: a file, another process, a test.

Example:
    >>> def brightness(source: FrameSource) -> list[float]:
    ...     return [frame.image.mean() for frame in source.frames(Sampling(fps=2.0))]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.video.reading.sampling import Sampling


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """One decoded frame.

    Attributes:
        image: RGB, 0 to 255, upright.
        index: its number in the video, from 0, counting the frames that could not be decoded.
        time: seconds from the first frame, by the container's timestamps.
    """

    image: UInt8[np.ndarray, "h w 3"]
    index: int
    time: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameCounters:
    """What happened to the frames of the latest walk through a source.

    Attributes:
        read: frames that came out of the decoder, sampled or not: how much of the video was seen.
        sampled: frames that were handed out.
        dropped: frames that the source states or holds and that did not come out: damaged, cut off at the end of a
            truncated file, or hidden by an edit list. Of what was jumped over, nothing is known.
        skipped: frames that were jumped over.
    """

    read: int = 0
    sampled: int = 0
    dropped: int = 0
    skipped: int = 0


@runtime_checkable
class FrameSource(Protocol):
    """Anything frames come from. All times are seconds from its first frame.

    Attributes:
        name: what errors and reports call it: the path of a file, as text.
        width: pixels, of the upright picture (rotation metadata applied).
        height: pixels.
        fps: nominal (mean) frame rate; None where the source has none.
        frame_count: how many frames the source holds, counted.
        frame_count_stated: how many its header claims (Matroska: an estimate from its duration); None where it claims
            none.
        times_from: `container`, or `frame rate` where the stream has no timestamps.
    """

    name: str
    width: int
    height: int
    fps: float | None
    frame_count: int
    frame_count_stated: int | None
    times_from: str

    @property
    def duration(self) -> float | None:
        """Seconds from the beginning of the first frame to the end of the last; None where it is unknown."""
        ...

    @property
    def counters(self) -> FrameCounters:
        """Of the latest walk."""
        ...

    def expected_samples(self, sampling: Sampling) -> int:
        """How many frames `frames` will hand out, about: for progress bars."""
        ...

    def window(self, sampling: Sampling) -> range:
        """The indices of the frames between the sampling's start and end."""
        ...

    def passes(self, sampling: Sampling) -> tuple[tuple[int, ...], ...]:
        """The indices for `frames_at`, pass after pass, until enough frames have a face; see `Sampling.passes`."""
        ...

    def frames(self, sampling: Sampling) -> Iterator[Frame]:
        """The sampled frames, in order."""
        ...

    def frames_at(self, indices: Sequence[int]) -> Iterator[Frame]:
        """The frames with these numbers, which ascend; those that cannot be decoded are left out."""
        ...

    def close(self) -> None:
        """Frees the decoder; twice is no error."""
        ...
