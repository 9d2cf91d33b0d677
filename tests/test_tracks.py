"""People told apart on pictures whose people are known: cut, moved, hidden, exchanged."""

import cv2
import numpy as np
import pytest

from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import Face
from fakeface_jax.video.faces.tracking import Tracker, TrackingConfig, look_of, overlap


def person(hue, seed, side=60):
    """A patch that stands for somebody: colours around a hue, light and shade of its own."""
    generator = np.random.default_rng(seed)
    texture = cv2.resize(generator.random((4, 4)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    hsv = np.zeros((side, side, 3), np.uint8)
    hsv[..., 0], hsv[..., 1] = hue, 160
    hsv[..., 2] = np.clip(60 + 150 * texture, 0, 255).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


ANN, BEN, CARL = person(5, 1), person(70, 2), person(120, 3)


def scene(*placed):
    """A frame of 200 x 320 with people at (left, top), and their faces in the order given."""
    image = np.full((200, 320, 3), 90, np.uint8)
    faces = []
    for who, left, top in placed:
        side = len(who)
        image[top : top + side, left : left + side] = who
        # The box is the inner part: the surroundings are theirs as well.
        inset = side // 5
        faces.append(Face(box=(left + inset, top + inset, left + side - inset, top + side - inset), confidence=0.9))
    return image, faces


def run(*scenes, config=TrackingConfig()):
    tracker = Tracker(config)
    return [tracker.update(0.2 * number, *one) for number, one in enumerate(scenes)]


def test_people_keep_their_numbers_while_they_move():
    steps = [scene((ANN, 10 + 8 * n, 40), (BEN, 240 - 8 * n, 60)) for n in range(10)]
    assert run(*steps) == [[1, 2]] * 10


def test_numbers_follow_the_people_and_not_the_order_of_faces():
    both, turned = scene((ANN, 10, 40), (BEN, 200, 60)), scene((BEN, 200, 60), (ANN, 10, 40))
    assert run(both, turned, both) == [[1, 2], [2, 1], [1, 2]]


def test_people_who_cross_keep_their_numbers():
    steps = [scene((ANN, 10 + 20 * n, 20), (BEN, 210 - 20 * n, 110)) for n in range(10)]
    assert run(*steps) == [[1, 2]] * 10


def test_a_cut_does_not_glue_two_people_together():
    assert run(scene((ANN, 100, 60)), scene((ANN, 100, 60)), scene((BEN, 100, 60))) == [[1], [1], [2]]


def test_a_cut_in_one_room_does_not_either():
    """The same colours, another face: light and shade differ."""
    other = person(5, 9)
    assert run(scene((ANN, 100, 60)), scene((ANN, 100, 60)), scene((other, 100, 60))) == [[1], [1], [2]]


def test_a_face_lost_for_some_frames_keeps_its_number():
    empty = scene()
    assert run(scene((ANN, 100, 60)), empty, empty, empty, scene((ANN, 110, 60))) == [[1], [], [], [], [1]]


def test_who_comes_back_after_a_cut_is_recognised():
    assert run(scene((ANN, 20, 20)), scene((BEN, 150, 90)), scene((ANN, 200, 100))) == [[1], [2], [1]]


def test_a_head_that_turns_to_and_fro_keeps_its_number():
    """Turned it is like the frame before, and not like how it was last seen from the front; then it is both again."""
    front, side = person(5, 1), person(5, 9)
    turning = cv2.addWeighted(front, 0.6, side, 0.4, 0)
    steps = [scene((who, 100, 60)) for who in (front, turning, side, front, side)]
    assert run(*steps) == [[1]] * 5
    forgetful = run(*steps, config=TrackingConfig(looks=1))
    assert forgetful[3] == [2]


def test_looks_are_remembered_at_a_distance_and_no_more_than_so_many():
    """Fifty frames a second do not push out how somebody looked half a second ago."""
    front, side = person(5, 1), person(5, 9)
    turning = cv2.addWeighted(front, 0.6, side, 0.4, 0)
    tracker = Tracker()
    seen = [front] * 5 + [turning] * 10 + [side] * 10
    numbers = [tracker.update(0.02 * number, *scene((who, 100, 60))) for number, who in enumerate(seen)]
    assert numbers == [[1]] * 25
    assert tracker.update(0.5, *scene((front, 100, 60))) == [1]
    for number in range(10):  # two seconds of the side: the front is forgotten
        tracker.update(0.6 + 0.2 * number, *scene((side, 100, 60)))
    assert tracker.update(2.6, *scene((front, 100, 60))) == [2]


def test_no_two_faces_of_a_frame_are_one_person():
    twins = scene((ANN, 10, 40), (ANN, 200, 40))
    assert run(scene((ANN, 10, 40)), twins, twins) == [[1], [1, 2], [1, 2]]


def test_newcomers_get_new_numbers():
    assert run(scene((ANN, 10, 40)), scene((CARL, 100, 40), (ANN, 10, 40)), scene((BEN, 220, 40), (CARL, 100, 40))) == [
        [1],
        [2, 1],
        [3, 2],
    ]


def test_only_so_many_people_are_remembered():
    config = TrackingConfig(remembered=2)
    first, second, third = scene((ANN, 10, 40)), scene((BEN, 200, 40)), scene((CARL, 100, 100))
    assert run(first, second, third, second, first, config=config) == [[1], [2], [3], [2], [4]]


def test_time_does_not_go_back():
    tracker = Tracker()
    tracker.update(1.0, *scene((ANN, 10, 40)))
    with pytest.raises(ConfigError, match="in order"):
        tracker.update(0.5, *scene((ANN, 10, 40)))


@pytest.mark.parametrize(
    "setting", [{"min_overlap": -0.1}, {"min_colour": 2.0}, {"same_colour": 0.5}, {"remembered": 0}, {"looks": 0}]
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match="tracking"):
        TrackingConfig(**setting)


def test_looks_tell_people_apart_and_bear_a_change_of_light():
    image, (ann, ben) = scene((ANN, 10, 40), (BEN, 200, 40))
    one, other = look_of(image, ann.box), look_of(image, ben.box)
    darker = look_of((image * 0.97).astype(np.uint8), ann.box)
    assert one.colour_similarity(one) == pytest.approx(1, abs=1e-5)
    assert one.colour_similarity(other) < 0.8
    assert one.light_similarity(darker) > 0.99


def test_plain_pictures_are_alike():
    plain, (face,) = np.full((200, 320, 3), 90, np.uint8), scene((ANN, 10, 40))[1]
    one, other = look_of(plain, face.box), look_of(scene((ANN, 10, 40))[0], face.box)
    assert one.light_similarity(one) == pytest.approx(1, abs=1e-5)
    assert abs(one.light_similarity(other)) < 1e-3


def test_overlap_is_intersection_over_union():
    assert overlap((0, 0, 10, 10), (5, 0, 15, 10)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert overlap((0, 0, 10, 10), (0, 0, 10, 10)) == 1
