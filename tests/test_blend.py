import csv

import cv2
import numpy as np
import pytest

from fakeface_jax.data import pseudo_fakes as blend
from fakeface_jax.data.pseudo_fakes import self_blend, up_sample
from fakeface_jax.detectors import create_detector
from fakeface_jax.faces import CropSpec, crop_face, landmarks_in_crop
from fakeface_jax.images import decode_image

NONE = np.full((5, 2), np.nan, np.float32)


@pytest.fixture(scope="module")
def face(face_picture):
    """A crop with its landmarks."""
    found = create_detector("centerface").detect(face_picture)[0]
    spec = CropSpec(size=160)
    return crop_face(face_picture, found.box, spec), landmarks_in_crop(face_picture.shape[:2], found, spec)


def changed(image, fake):
    return np.abs(image.astype(int) - fake).max(axis=2)


def test_a_self_blended_face_keeps_its_surroundings_and_changes_within_the_face(face):
    image, landmarks = face
    before = image.copy()
    shares = []
    for seed in range(40):
        fake = self_blend(image, landmarks, np.random.default_rng(seed))
        assert (fake.shape, fake.dtype) == (image.shape, np.uint8)
        difference = changed(image, fake)
        shares.append((difference > 0).mean())
        # Far from the face nothing is touched: the corners of the crop.
        assert not difference[:12, :12].any()
        assert not difference[:12, -12:].any()
        rows, columns = np.nonzero(difference)
        middle = landmarks.mean(axis=0)
        assert np.hypot(columns.mean() - middle[0], rows.mean() - middle[1]) < 45
    assert min(shares) > 0.005
    # From one eye to a whole face.
    assert np.percentile(shares, 90) > 0.2
    assert np.percentile(shares, 10) < 0.1
    np.testing.assert_array_equal(image, before)


def test_draws_follow_from_the_generator_alone(face):
    image, landmarks = face
    for make in (lambda rng: self_blend(image, landmarks, rng), lambda rng: up_sample(image, rng)):
        first = make(np.random.default_rng(3))
        np.testing.assert_array_equal(make(np.random.default_rng(3)), first)
        assert changed(first, make(np.random.default_rng(4))).any()


def test_the_mask_follows_the_landmarks(face):
    image, landmarks = face
    shifted = landmarks + np.array([25, 10], np.float32)

    def centre(points):
        total = sum(changed(image, self_blend(image, points, np.random.default_rng(seed))) > 3 for seed in range(30))
        rows, columns = np.mgrid[:160, :160]
        return (columns * total).sum() / total.sum(), (rows * total).sum() / total.sum()

    (x, y), (shifted_x, shifted_y) = centre(landmarks), centre(shifted)
    assert 10 < shifted_x - x < 40
    assert 2 < shifted_y - y < 25


def test_the_mean_face_is_fitted_exactly_to_an_affine_copy_of_itself():
    affine = np.array([[40.0, 6.0], [-5.0, 44.0], [80.0, 60.0]])
    landmarks = np.column_stack([blend._LANDMARKS, np.ones(5)]) @ affine
    np.testing.assert_allclose(blend._place_mean_face(landmarks, 160), affine, atol=1e-9)


@pytest.mark.parametrize(
    "landmarks",
    [
        NONE,
        np.float32([[50, 60], [110, 60], [np.nan, 90], [55, 115], [105, 115]]),
        np.full((5, 2), 80, np.float32),  # all in one place
        np.linspace([20, 80], [140, 80], 5).astype(np.float32),  # on a line
        np.float32([[110, 60], [50, 60], [80, 90], [105, 115], [55, 115]]),  # mirrored
        np.float32([[50, 60], [110, 60], [80, 90], [55, 115], [105, 115]]) + 400,  # outside
    ],
)
def test_without_a_face_in_the_landmarks_the_middle_of_the_crop_serves(face, landmarks):
    np.testing.assert_array_equal(blend._place_mean_face(landmarks, 160), blend._CENTRED * 160)
    image, _ = face
    assert changed(image, self_blend(image, landmarks, np.random.default_rng(1))).any()


def test_masks_reach_one_and_stay_between_nought_and_one():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        for corners in blend._CORNERS:
            points = np.column_stack([corners, np.ones(len(corners))]) @ (blend._CENTRED * 96)
            mask = blend._soft_mask(points, 96, rng)
            assert mask.min() >= 0
            assert mask.max() == 1


def test_the_shares_of_the_regions_sum_to_one_and_parts_lie_within_the_face():
    assert blend._CUMULATIVE[-1] == pytest.approx(1)
    hull = cv2.convexHull(np.float32(blend._REGIONS["face"][1]))
    for name in ("lower half", "left eye", "right eye", "nose", "mouth"):
        for corner in blend._REGIONS[name][1]:
            assert cv2.pointPolygonTest(hull, corner, True) > -0.05, name


def test_hue_turns_about_grey():
    turned = blend._hue_rotation(np.deg2rad(120))
    np.testing.assert_allclose(turned @ [1, 0, 0], [0, 1, 0], atol=1e-9)
    np.testing.assert_allclose(blend._hue_rotation(0.2) @ np.ones(3), np.ones(3), atol=1e-9)


@pytest.mark.parametrize("factor", [2, 4])
def test_an_even_transposed_convolution_is_linear_interpolation(factor):
    cells = np.random.default_rng(0).uniform(0, 255, (9, 9, 3)).astype(np.float32)
    enlarged = blend._transposed_convolution(cells, factor, blend._even_kernel(factor))
    size = 9 * factor
    np.testing.assert_allclose(enlarged, cv2.resize(cells, (size, size)), rtol=0, atol=0.01)


@pytest.mark.parametrize("factor", [2, 4])
def test_an_uneven_kernel_leaves_its_period_in_a_flat_picture(factor):
    kernel = blend._even_kernel(factor) * np.random.default_rng(0).uniform(0.8, 1.2, (2 * factor, 2 * factor))
    flat = np.full((8, 8, 3), 100, np.float32)
    enlarged = blend._transposed_convolution(flat, factor, kernel.astype(np.float32))
    assert enlarged.std() > 1
    np.testing.assert_allclose(enlarged[factor:], enlarged[:-factor], atol=1e-3)
    np.testing.assert_allclose(enlarged[:, factor:], enlarged[:, :-factor], atol=1e-3)


@pytest.mark.parametrize("size", [150, 160, 33])
def test_up_sampling_changes_all_of_the_face_a_little(face, size):
    image = cv2.resize(face[0], (size, size), interpolation=cv2.INTER_AREA)
    for seed in range(12):
        fake = up_sample(image, np.random.default_rng(seed))
        assert (fake.shape, fake.dtype) == (image.shape, np.uint8)
        difference = changed(image, fake)
        assert difference.any()
        assert difference.mean() < 40
        assert abs(fake.mean() - image.mean()) < 3


def test_up_sampling_leaves_peaks_where_real_photos_have_none(face):
    """Half the sampling rate, in both directions, is where a period of two shows."""
    grey = cv2.cvtColor(face[0], cv2.COLOR_RGB2GRAY)

    def peak(picture):
        spectrum = np.abs(np.fft.fft2(cv2.Laplacian(picture.astype(np.float32), -1)))
        # The middle of the axes at the highest frequency, against what lies around it.
        return spectrum[0, 80] / np.median(spectrum[:4, 70:80])

    fakes = [cv2.cvtColor(up_sample(face[0], np.random.default_rng(seed)), cv2.COLOR_RGB2GRAY) for seed in range(24)]
    peaks = [peak(fake) for fake in fakes]
    assert np.median(peaks) > 3 * peak(grey)


def test_real_faces_of_any_source_can_be_blended(shared_data):
    with (shared_data / "faces.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] == "real"]
    for number, row in enumerate(rows[:: len(rows) // 8]):
        image = cv2.resize(decode_image((shared_data / row["path"]).read_bytes()), (160, 160))
        difference = changed(image, self_blend(image, NONE, np.random.default_rng(number)))
        assert 0.0005 < (difference > 0).mean() < 0.95
        assert changed(image, up_sample(image, np.random.default_rng(number))).any()
