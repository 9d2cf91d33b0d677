"""Faces over time become people: each face of a frame is given the number of the person it belongs to.

A face continues a person by place (overlap with where the person was) and by look (colours and light of the face and
of what is around it). Looks decide about cuts: on 23 published clips the colour similarity of the same person 0.2 s
apart is at least .97 (1st percentile), 2 s apart .89, and of people in different clips at most .71, so that below
`min_colour` nobody is continued, wherever the face is. People in one room share its colours (to .95) and not the
light and shade of their faces (at most .43; the same person 0.2 s apart, at least .75, and less where a head sways). So
a person has several looks, and a face that is like one of them continues it: that halves the switches of number, and
glues nobody (`make compare-tracking`). Who is out of sight for longer is recognised by look alone, for which more is
asked: a wrong new number is preferred to a wrong old one.

Example:
    >>> tracker = Tracker()
    >>> tracker.update(0.0, image, detector.detect(image))
    [1, 2]
    >>> tracker.update(0.2, image, detector.detect(image))
    [1, 2]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import Box, CropSpec, Face, crop_face, crop_square, whole_image_box
from fakeface_jax.video.reading.sampling import TIME_TOLERANCE

_SURROUNDINGS = CropSpec(size=64, margin=1.6)
"""Hair, collar and background change less than a face that speaks and turns."""

NEAR = 0.5
"""Seconds in which a head does not turn far."""

APART = 0.2
"""Seconds between remembered looks: what a head that turns to and fro shows again was not seen a frame ago."""

_PLAIN = 16.0
"""Length of `light` at a standard deviation of one grey level."""

_BINS = (12, 6, 6)
"""Of hue, saturation and value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """When a face continues a person.

    Attributes:
        min_overlap: least intersection over union with the person's last box, for a face that is continued by place.
        min_colour: least colour similarity in [0, 1] for that; below is a cut, or somebody else.
        min_light: least correlation in [-1, 1] of light and shade for that, within `NEAR` seconds: people in one room
            share its colours.
        min_light_later: the same after longer.
        same_colour: least colour similarity of a face that is recognised by look, wherever it is.
        same_light: least correlation in [-1, 1] of its light and shade, for that.
        looks: how many looks of a person are remembered, `APART` seconds from each other; a face continues whom it is
            like in any of them.
        remembered: how many people can be recognised; who was not seen for longest is forgotten first.
    """

    min_overlap: float = 0.15
    min_colour: float = 0.8
    min_light: float = 0.6
    min_light_later: float = 0.3
    same_colour: float = 0.93
    same_light: float = 0.6
    looks: int = 3
    remembered: int = 64

    def __post_init__(self) -> None:
        for name in ("min_overlap", "min_colour", "min_light", "min_light_later", "same_colour", "same_light"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"tracking {name} {value} is not in [0, 1]")
        for name in ("looks", "remembered"):
            if getattr(self, name) < 1:
                raise ConfigError(f"tracking {name} {getattr(self, name)} is not at least 1")
        if self.same_colour < self.min_colour:
            raise ConfigError(f"tracking same_colour {self.same_colour} is below min_colour {self.min_colour}")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """What the surroundings of a face look like.

    Attributes:
        colours: square root of a histogram of hue, saturation and value; of length 1.
        light: brightness on a grid of 16 x 16, without its mean; of length 1.
    """

    colours: Float32[np.ndarray, " bins"]
    light: Float32[np.ndarray, " cells"]

    def colour_similarity(self, other: Look) -> float:
        """Bhattacharyya's coefficient of the histograms, in [0, 1]."""
        return float(self.colours @ other.colours)

    def light_similarity(self, other: Look) -> float:
        """Correlation, in [-1, 1]."""
        return float(self.light @ other.light)


def look_of(image: UInt8[np.ndarray, "h w 3"], box: Box) -> Look:
    """The look of a face and of what is around it.

    Args:
        image: the frame, RGB.
        box: of the face, in its pixels.
    """
    left, top, side = crop_square(image.shape[:2], box, _SURROUNDINGS)
    # Of a large face every n-th pixel is enough: a mean over four of them says what one over hundreds does.
    step = max(1, side // (2 * _SURROUNDINGS.size))
    square = np.ascontiguousarray(image[top : top + side : step, left : left + side : step])
    crop = crop_face(square, whole_image_box(square), _SURROUNDINGS)
    hsv = cv2.cvtColor(crop, cv2.COLOR_RGB2HSV)
    histogram = cv2.calcHist([hsv], [0, 1, 2], None, list(_BINS), [0, 180, 0, 256, 0, 256]).ravel()
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
    light = grey.astype(np.float32).ravel() - np.float32(grey.mean())
    length = np.float32(np.linalg.norm(light))
    # Without light and shade there is nothing to correlate: two plain pictures are alike, and like no other.
    light = light / length if length > _PLAIN else np.full_like(light, 1 / np.sqrt(light.size))
    return Look(
        colours=np.sqrt(histogram / np.float32(histogram.sum())).astype(np.float32),
        light=light.astype(np.float32),
    )


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, in [0, 1]."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return float(shared / (areas - shared))


@dataclasses.dataclass(kw_only=True)
class _Person:
    """Where and how somebody was last seen."""

    number: int
    box: Box
    time: float
    looks: list[tuple[float, Look]]
    missed: int = 0

    def see(self, time: float, box: Box, look: Look, remembered: int) -> None:
        """Moves them there. The latest look is the last; those before it are `APART` from each other."""
        if len(self.looks) > 1 and self.looks[-1][0] - self.looks[-2][0] < APART - TIME_TOLERANCE:
            self.looks.pop()
        self.looks.append((time, look))
        del self.looks[:-remembered]
        self.box, self.time, self.missed = box, time, 0


class Tracker:
    """Gives the faces of successive frames the numbers of people. Holds a box and some looks per person, no frames.

    Args:
        config: when a face continues a person.
    """

    def __init__(self, config: TrackingConfig = TrackingConfig()) -> None:
        self._config = config
        self._people: list[_Person] = []
        self._numbers = 0
        self._time = -np.inf

    def update(self, time: float, image: UInt8[np.ndarray, "h w 3"], faces: Sequence[Face]) -> list[int]:
        """A person's number for each face, from 1 in order of appearance; no two faces of a frame share one.

        Args:
            time: seconds; never before that of the last call.
            image: the frame, RGB.
            faces: found in it.

        Raises:
            ConfigError: time goes back.
        """
        return self.assign(time, [face.box for face in faces], [look_of(image, face.box) for face in faces])

    def assign(self, time: float, boxes: Sequence[Box], looks: Sequence[Look]) -> list[int]:
        """The same from boxes and looks, where the frame itself is gone."""
        if time < self._time:
            raise ConfigError(f"tracking at {time:.3f} s after {self._time:.3f} s: frames must come in order")
        self._time = time
        pairs = [
            (affinity, place, row)
            for row, person in enumerate(self._people)
            for place, (box, look) in enumerate(zip(boxes, looks, strict=True))
            if (affinity := self._affinity(person, time, box, look)) is not None
        ]
        numbers: dict[int, int] = {}
        seen: set[int] = set()
        # The surest pair first. With the few faces of a frame that is as good as the best assignment of all.
        for _, place, row in sorted(pairs, reverse=True):
            if place in numbers or row in seen:
                continue
            person = self._people[row]
            person.see(time, boxes[place], looks[place], self._config.looks)
            numbers[place] = person.number
            seen.add(row)
        for row, person in enumerate(self._people):
            person.missed += row not in seen
        for place, (box, look) in enumerate(zip(boxes, looks, strict=True)):
            if place not in numbers:
                self._numbers += 1
                self._people.append(_Person(number=self._numbers, box=box, time=time, looks=[(time, look)]))
                numbers[place] = self._numbers
        if len(self._people) > self._config.remembered:
            # An hour of cuts has thousands of faces: neither memory nor time per frame may grow with them.
            self._people.sort(key=lambda person: person.missed)
            del self._people[max(self._config.remembered, len(boxes)) :]
        return [numbers[place] for place in range(len(boxes))]

    def _affinity(self, person: _Person, time: float, box: Box, look: Look) -> float | None:
        """How well a face continues a person; None where it cannot be that person."""
        shared = overlap(person.box, box)
        near = time - person.time <= NEAR
        best: float | None = None
        for _, seen in reversed(person.looks):
            colour, light = look.colour_similarity(seen), look.light_similarity(seen)
            if colour < self._config.min_colour:
                continue
            recognised = colour >= self._config.same_colour and light >= self._config.same_light
            like = light >= (self._config.min_light if near else self._config.min_light_later)
            if recognised or (shared >= self._config.min_overlap and like):
                # Place counts while the person is in sight; whoever left may come back anywhere.
                affinity = colour + 0.5 * light + (shared if person.missed <= 2 else 0.5 * shared)
                best = affinity if best is None else max(best, affinity)
        return best
