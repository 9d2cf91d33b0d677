"""Decoding goes on while the frames before are looked at: two cores, two kinds of work.

Example:
    >>> with open_video("clip.mp4") as video:
    ...     for frame in decode_ahead(video.frames(Sampling(fps=2.0))):
    ...         detector.detect(frame.image)
"""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Generator, Iterator

from fakeface_jax.video.reading.source import Frame

_MOST = 3
"""Frames that wait at most."""

_MOST_BYTES = 96 * 2**20
"""What those that wait hold together at most; one may wait at any size."""


def frames_ahead(size: int) -> int:
    """How many frames of so many bytes each may wait."""
    return max(1, min(_MOST, _MOST_BYTES // size))


def decode_ahead(frames: Iterator[Frame]) -> Generator[Frame]:
    """The same frames in the same order, taken from `frames` by a thread of its own that is ahead by a few.

    An error of `frames` is raised after the frames before it. When the generator is closed, or ends, its thread has
    ended; until then nobody else may use what the frames come from.

    Args:
        frames: closed, where it can be, by the thread that used it.
    """
    # One condition for both sides; what is in the queue is a frame, or at the end an exception or None.
    changed = threading.Condition()
    waiting: collections.deque[Frame | BaseException | None] = collections.deque()
    unwanted = False

    def decode() -> None:
        end: BaseException | None = None
        try:
            for frame in frames:
                room = frames_ahead(frame.image.nbytes)
                with changed:
                    changed.wait_for(lambda: unwanted or len(waiting) < room)  # noqa: B023 - called here
                    if unwanted:
                        break
                    waiting.append(frame)
                    changed.notify()
        except BaseException as error:  # whoever takes the frames raises it
            end = error
        finally:
            if isinstance(frames, Generator):
                with contextlib.suppress(Exception):
                    frames.close()
        with changed:
            waiting.append(end)
            changed.notify()

    thread = threading.Thread(target=decode, name="decode")
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: len(waiting) > 0)
                one = waiting.popleft()
                changed.notify()
            if isinstance(one, BaseException):
                raise one
            if one is None:
                return
            yield one
    finally:
        with changed:
            unwanted = True
            changed.notify()
        thread.join()
