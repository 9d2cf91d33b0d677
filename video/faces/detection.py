"""Frames in, faces out, cut and ready to be classified: detection, what carries boxes between detections, looks.

Detecting costs more than decoding, and a face moves little in a fifth of a second. Where frames are sampled more
densely than `DETECT_EVERY`, faces are detected at that distance, and where the same faces are found at both ends, boxes
between them are interpolated; everything else (a cut, somebody who comes or goes, a fast move) is detected frame by
frame. `make compare-detection` measures what that costs in accuracy and brings in speed.

Example:
    >>> with VideoFile("clip.mp4") as video:
    ...     for found in find_faces(video.frames(Sampling(every=1)), detector, classifier.crop):
    ...         print(found.time, [face.box for face in found.faces])
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.faces import Box, Face, FaceDetector
from fakeface_jax.video.faces.tracking import Look, look_of, overlap
from fakeface_jax.video.reading.opencv import Frame
from fakeface_jax.video.reading.sampling import TIME_TOLERANCE

DETECT_EVERY = 0.2
"""Seconds between detections, at most: the longest at which no carried box lost its face on 23 clips."""

MIN_FACE = 32
"""Pixels. A face whose longer side is shorter is found and counted and not scored: what is left of it is the scaling
filter, on which training said nothing."""

_MOST_WAITING = 12
"""Frames that wait for the next detection at most, so that memory stays flat at any frame rate."""

_SAME_PLACE, _SAME_COLOUR = 0.5, 0.9
"""Overlap and colour similarity of a face at both ends between which it is carried."""

Crop = Callable[[UInt8[np.ndarray, "h w 3"], Face], UInt8[np.ndarray, "s s 3"]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """What is kept of a frame.

    Attributes:
        index: of the frame in the video.
        time: seconds.
        faces: all that were found, the largest first.
        looks: of each.
        crops: of each; None for those too small to be scored.
        carried: whether boxes were interpolated and not detected.
    """

    index: int
    time: float
    faces: tuple[Face, ...]
    looks: tuple[Look, ...]
    crops: tuple[UInt8[np.ndarray, "s s 3"] | None, ...]
    carried: bool = False

    @property
    def has_usable_face(self) -> bool:
        """Whether a face can be scored."""
        return any(crop is not None for crop in self.crops)


def find_faces(
    frames: Iterable[Frame], detector: FaceDetector, crop: Crop, *, spacing: float = DETECT_EVERY
) -> Iterator[Found]:
    """The faces of frames that come in order of time, one record per frame, in order.

    Args:
        frames: none is kept beyond the next detection.
        detector: finds the faces.
        crop: cuts one.
        spacing: seconds between detections, at most; 0 detects in every frame.
    """
    last: Found | None = None
    waiting: list[Frame] = []
    for frame in frames:
        near = last is not None and frame.time - last.time < spacing - TIME_TOLERANCE
        if near and len(waiting) < _MOST_WAITING:
            waiting.append(frame)
            continue
        found = _detect(frame, detector, crop)
        if last is not None:
            yield from _between(last, waiting, found, detector, crop)
        waiting = []
        yield found
        last = found
    if last is not None and waiting:
        found = _detect(waiting.pop(), detector, crop)
        yield from _between(last, waiting, found, detector, crop)
        yield found


def _detect(frame: Frame, detector: FaceDetector, crop: Crop) -> Found:
    return _cut(frame, detector.detect(frame.image), crop, carried=False)


def _between(first: Found, frames: list[Frame], last: Found, detector: FaceDetector, crop: Crop) -> Iterator[Found]:
    """Faces of the frames between two detections: carried where nobody came, went, jumped or was cut to."""
    if not frames:
        return
    pairs = _same_faces(first, last)
    for frame in frames:
        if pairs is None:
            yield _detect(frame, detector, crop)
            continue
        share = (frame.time - first.time) / (last.time - first.time)
        faces = [
            Face(box=_mix(one.box, other.box, share), confidence=min(one.confidence, other.confidence))
            for one, other in pairs
        ]
        yield _cut(frame, faces, crop, carried=True)


def _same_faces(first: Found, last: Found) -> list[tuple[Face, Face]] | None:
    """Each face of the one frame with its own in the other; None unless all have one."""
    if len(first.faces) != len(last.faces):
        return None
    pairs, taken = [], set()
    for face, look in zip(first.faces, first.looks, strict=True):
        places = [place for place in range(len(last.faces)) if place not in taken]
        best = max(places, key=lambda place: overlap(face.box, last.faces[place].box))
        same = look.colour_similarity(last.looks[best]) >= _SAME_COLOUR
        if not same or overlap(face.box, last.faces[best].box) < _SAME_PLACE:
            return None
        taken.add(best)
        pairs.append((face, last.faces[best]))
    return pairs


def _cut(frame: Frame, faces: list[Face], crop: Crop, *, carried: bool) -> Found:
    return Found(
        index=frame.index,
        time=frame.time,
        faces=tuple(faces),
        looks=tuple(look_of(frame.image, face.box) for face in faces),
        crops=tuple(crop(frame.image, face) if face.size >= MIN_FACE else None for face in faces),
        carried=carried,
    )


def _mix(one: Box, other: Box, share: float) -> Box:
    x0, y0, x1, y1 = (a + share * (b - a) for a, b in zip(one, other, strict=True))
    return (x0, y0, x1, y1)
