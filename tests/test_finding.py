"""Faces carried between detections, on frames whose faces are known."""

import numpy as np
import pytest

from fakeface_jax.faces import Face
from fakeface_jax.video.faces.detection import MIN_FACE, find_faces
from fakeface_jax.video.reading.opencv import Frame


class Moving:
    """Knows where the face of each frame is, by the frame's first pixel."""

    name = "moving"

    def __init__(self, place):
        self.place = place
        self.calls = []

    def detect(self, image):
        number = int(image[0, 0, 0])
        self.calls.append(number)
        return [Face(box=box, confidence=0.9) for box in self.place(number)]


def film(count, fps=25.0, colour=lambda number: 100):
    for number in range(count):
        image = np.full((120, 160, 3), colour(number), np.uint8)
        image[0, 0] = number
        yield Frame(image=image, index=number, time=number / fps)


def crop(image, face):
    x0, y0 = (int(corner) for corner in face.box[:2])
    return image[y0 : y0 + 8, x0 : x0 + 8]


def drift(number):
    return [(10.0 + number, 20.0, 60.0 + number, 70.0)]


def test_boxes_between_detections_follow_the_face():
    detector = Moving(drift)
    found = list(find_faces(film(21), detector, crop, spacing=0.2))
    assert detector.calls == [0, 5, 10, 15, 20]
    assert [one.index for one in found] == list(range(21))
    assert [one.carried for one in found] == [number % 5 != 0 for number in range(21)]
    for one in found:
        assert one.faces[0].box == pytest.approx(drift(one.index)[0])
        assert one.crops[0].shape == (8, 8, 3)


def test_without_spacing_every_frame_is_detected():
    detector = Moving(drift)
    found = list(find_faces(film(10), detector, crop, spacing=0.0))
    assert detector.calls == list(range(10))
    assert not any(one.carried for one in found)


def test_sparse_frames_are_all_detected():
    detector = Moving(drift)
    list(find_faces(film(10, fps=2.0), detector, crop))
    assert detector.calls == list(range(10))


@pytest.mark.parametrize(
    ("place", "colour"),
    [
        (lambda number: drift(number) if number < 7 else [], lambda number: 100),
        (lambda number: drift(number) + ([(100.0, 60.0, 150.0, 110.0)] if number > 7 else []), lambda number: 100),
        (lambda number: [(10.0 + 60 * (number > 7), 20.0, 60.0 + 60 * (number > 7), 70.0)], lambda number: 100),
        (drift, lambda number: 100 if number < 8 else 200),
    ],
    ids=["goes", "comes", "jumps", "cut"],
)
def test_what_cannot_be_carried_is_detected(place, colour):
    detector = Moving(place)
    found = list(find_faces(film(16, colour=colour), detector, crop, spacing=0.2))
    assert set(range(5, 11)) <= set(detector.calls)
    assert [[face.box for face in one.faces] for one in found] == [
        [pytest.approx(box) for box in place(number)] for number in range(16)
    ]


def test_the_last_frames_are_not_lost():
    for count in range(1, 13):
        detector = Moving(drift)
        found = list(find_faces(film(count), detector, crop, spacing=0.2))
        assert [one.index for one in found] == list(range(count))
        assert found[-1].faces[0].box == pytest.approx(drift(count - 1)[0])


def test_small_faces_are_found_and_not_cut():
    side = MIN_FACE - 1.0
    (found,) = find_faces(film(1), Moving(lambda _: [(5.0, 5.0, 5.0 + side, 5.0 + side)]), crop)
    assert found.crops == (None,)
    assert not found.has_usable_face


def test_few_frames_wait_at_any_frame_rate():
    detector = Moving(drift)
    list(find_faces(film(100, fps=1000.0), detector, crop, spacing=10.0))
    assert len(detector.calls) >= 100 / 14
