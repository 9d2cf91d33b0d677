"""The warp against ImageDataGenerator's definition, written down here from Keras's formulas with scipy.

Keras 3, `keras/src/legacy/preprocessing/image.py`: `get_random_transform` draws theta, tx (of height_shift_range), ty
(of width_shift_range), zx, zy and a flip; `apply_affine_transform` multiplies rotation @ shift @ zoom, moves the origin
to (h / 2 - 0.5, w / 2 - 0.5), exchanges rows and columns of the matrix, and samples each channel with
scipy.ndimage.affine_transform (order 1, nearest); then comes the flip.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from fakeface_jax.data.augment import NO_AUGMENTATION, affine_matrices, augment, warp
from fakeface_jax.data.augmentation_config import AugmentConfig, LoaderConfig
from fakeface_jax.errors import ConfigError

jitted = jax.jit(augment, static_argnums=2)

REPORT = AugmentConfig(rotation=20, width_shift=0.1, height_shift=0.1, zoom=0.1, horizontal_flip=True)
STRONG = AugmentConfig(rotation=90, width_shift=0.4, height_shift=0.3, zoom=0.5, horizontal_flip=True)


def pictures(count, height=23, width=23, seed=0):
    """Smooth enough that a rounding error in a coordinate stays a rounding error in a value."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, height, width, 3))
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 0))
    return jnp.asarray(np.clip(128 + 200 * smooth, 0, 255), jnp.uint8)


def matrix(theta, rows, columns, zoom_rows, zoom_columns, shape):
    """rotation @ shift @ zoom about the centre, (row, column, 1) of the result to (row, column, 1) of the picture."""
    cos, sin = np.cos(np.deg2rad(theta)), np.sin(np.deg2rad(theta))
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    shift = np.array([[1, 0, rows], [0, 1, columns], [0, 0, 1]])
    zoom = np.diag([zoom_rows, zoom_columns, 1])
    o_rows, o_columns = shape[0] / 2 - 0.5, shape[1] / 2 - 0.5
    there = np.array([[1, 0, o_rows], [0, 1, o_columns], [0, 0, 1]])
    back = np.array([[1, 0, -o_rows], [0, 1, -o_columns], [0, 0, 1]])
    return there @ rotation @ shift @ zoom @ back


def sample(picture, matrix, flip):
    channels = [
        scipy.ndimage.affine_transform(
            np.asarray(picture[..., c], np.float64), matrix[:2, :2], matrix[:2, 2], order=1, mode="nearest"
        )
        for c in range(3)
    ]
    result = np.stack(channels, axis=-1)
    return result[:, ::-1] if flip else result


def keras_transform(picture, theta, tx, ty, zx, zy, flip):
    """What Keras does, its exchange of rows and columns at the end included."""
    m = matrix(theta, tx, ty, zx, zy, picture.shape[:2])
    m[:, [0, 1]] = m[:, [1, 0]]
    m[[0, 1]] = m[[1, 0]]
    return sample(picture, m, flip)


def draws_of(matrices, shape):
    """The parameters behind drawn matrices, and whether they mirror: the inverse of the definition."""
    found = []
    for m in np.asarray(matrices, np.float64):
        flip = np.linalg.det(m[:, :2]) < 0
        linear = m[:, :2] * [1, -1 if flip else 1]
        zooms = np.linalg.norm(linear, axis=0)
        theta = np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0]))
        centre = np.array(shape) / 2 - 0.5
        moved = m[:, 2] - centre + m[:, :2] @ centre
        shift = np.linalg.solve(linear / zooms, moved)
        found.append((theta, *shift, *zooms, flip))
    return np.array(found)


@pytest.mark.parametrize("shape", [(23, 23), (16, 31), (31, 16)])
@pytest.mark.parametrize(
    "given",
    [
        # theta, rows, columns, zoom of rows, zoom of columns, flip
        (0, 0, 0, 1, 1, False),
        (0, 0, 0, 1, 1, True),
        (20, 0, 0, 1, 1, False),
        (-90, 0, 0, 1, 1, False),
        (0, 2.3, 0, 1, 1, False),
        (0, 0, -1.7, 1, 1, False),
        (0, 0, 0, 1.1, 0.9, False),
        (0, 100, 0, 1, 1, False),
        (13, -2.5, 1.25, 0.93, 1.08, True),
        (-71, 4, 3, 1.4, 0.6, False),
    ],
)
def test_given_matrices_sample_as_scipy_does(shape, given):
    *parameters, flip = given
    picture = pictures(1, *shape)[0]
    full = matrix(*parameters, shape)
    wanted = sample(picture, full, flip)
    mirror = np.array([[1, 0, 0], [0, -1, shape[1] - 1], [0, 0, 1]]) if flip else np.eye(3)
    ours = warp(picture[None], jnp.asarray((full @ mirror)[None, :2], jnp.float32))
    # float32 coordinates of up to 31 pixels are right to 4e-6, and neighbours differ by at most 255.
    np.testing.assert_allclose(ours[0], wanted, atol=0.01)


@pytest.mark.parametrize("shape", [(23, 23), (19, 30)])
@pytest.mark.parametrize("config", [REPORT, STRONG])
def test_random_draws_are_the_definition(shape, config):
    count = 60
    images = pictures(count, *shape)
    key = jax.random.key(3)
    draws = draws_of(affine_matrices(key, count, shape, config), shape)
    ours = jitted(key, images, config)
    for picture, result, (*parameters, flip) in zip(images, ours, draws, strict=True):
        np.testing.assert_allclose(result, sample(picture, matrix(*parameters, shape), flip), atol=0.05)
    assert 0.2 < draws[:, 5].mean() < 0.8  # both sides of the mirror were compared


def test_random_draws_are_kerass_on_square_pictures():
    """Keras's exchange of axes renames the draws: theta turns its sign, tx moves columns, zx widens columns."""
    images = pictures(40)
    key = jax.random.key(9)
    draws = draws_of(affine_matrices(key, 40, (23, 23), REPORT), (23, 23))
    for picture, result, (theta, rows, columns, zr, zc, flip) in zip(
        images, jitted(key, images, REPORT), draws, strict=True
    ):
        wanted = keras_transform(picture, theta=-theta, tx=columns, ty=rows, zx=zc, zy=zr, flip=flip)
        np.testing.assert_allclose(result, wanted, atol=0.05)


def test_draws_fill_their_ranges_evenly_and_independently():
    shape, count = (100, 50), 4000
    config = AugmentConfig(rotation=15, width_shift=0.2, height_shift=0.05, zoom=0.3, horizontal_flip=True)
    draws = draws_of(affine_matrices(jax.random.key(0), count, shape, config), shape)
    limits = [15, 0.05 * 100, 0.2 * 50, 0.3, 0.3]
    centred = draws[:, :5] - [0, 0, 0, 1, 1]
    for values, limit in zip(centred.T, limits, strict=True):
        assert np.abs(values).max() <= limit * (1 + 1e-3)
        assert np.abs(values).max() > 0.99 * limit
        # A uniform variable's mean is within 4 standard errors of the middle, its deviation is limit / sqrt(3).
        assert abs(values.mean()) < 4 * limit / np.sqrt(3 * count)
        assert values.std() == pytest.approx(limit / np.sqrt(3), rel=0.05)
    assert abs(draws[:, 5].mean() - 0.5) < 0.04
    correlations = np.corrcoef(draws.T) - np.eye(6)
    assert np.abs(correlations).max() < 0.08
    assert len(np.unique(draws[:, 0].round(6))) > 0.99 * count  # a draw of its own for every picture


@pytest.mark.parametrize(
    ("name", "column"), [("rotation", 0), ("height_shift", 1), ("width_shift", 2), ("zoom", 3), ("horizontal_flip", 5)]
)
def test_each_setting_moves_what_it_says_and_nothing_else(name, column):
    value = {"rotation": 20.0, "horizontal_flip": True}.get(name, 0.2)
    settings = {"rotation": 0.0, "width_shift": 0.0, "height_shift": 0.0, "zoom": 0.0, "horizontal_flip": False}
    config = AugmentConfig(**settings | {name: value})
    draws = draws_of(affine_matrices(jax.random.key(1), 50, (40, 60), config), (40, 60))
    idle = np.array([0, 0, 0, 1, 1, 0], np.float64)
    moved = np.abs(draws - idle).max(axis=0) > 1e-3
    expected = [index in ({3, 4} if column == 3 else {column}) for index in range(6)]
    assert moved.tolist() == expected


def test_height_shift_moves_along_the_height():
    """Not sideways, as Keras's does."""
    picture = jnp.zeros((1, 40, 40, 3), jnp.uint8).at[:, 20].set(255)
    config = AugmentConfig(rotation=0, width_shift=0, height_shift=0.3, zoom=0, horizontal_flip=False)
    moved = np.asarray(augment(jax.random.key(1), picture, config))[0, :, :, 0]
    assert np.ptp(moved, axis=1).max() < 1e-3  # still horizontal lines
    assert moved[20, 0] < 1  # and no longer in the middle


def test_a_key_decides_everything():
    images = pictures(8)
    once, again = jitted(jax.random.key(5), images, REPORT), jitted(jax.random.key(5), images, REPORT)
    np.testing.assert_array_equal(once, again)
    assert not np.array_equal(once, jitted(jax.random.key(6), images, REPORT))
    same = jnp.repeat(images[:1], 8, axis=0)
    results = np.asarray(jitted(jax.random.key(5), same, REPORT))
    assert len({result.tobytes() for result in results}) == 8


def test_jit_changes_nothing():
    images, key = pictures(4), jax.random.key(0)
    np.testing.assert_allclose(jitted(key, images, REPORT), augment(key, images, REPORT), atol=0.02)


def test_values_stay_in_range_and_edges_are_repeated():
    bright = jnp.full((16, 20, 20, 3), 255, jnp.uint8)
    np.testing.assert_allclose(jitted(jax.random.key(0), bright, STRONG), 255.0, atol=1e-3)
    warped = np.asarray(jitted(jax.random.key(0), pictures(16), STRONG))
    assert warped.min() >= 0
    assert warped.max() <= 255 + 1e-3


def test_no_augmentation_is_the_identity():
    images = pictures(4)
    result = augment(jax.random.key(0), images, NO_AUGMENTATION)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, images)
    # Not by the shortcut alone: the warp with draws of no width is the identity too.
    matrices = affine_matrices(jax.random.key(0), 4, (23, 23), NO_AUGMENTATION)
    np.testing.assert_array_equal(warp(images, matrices), images)


def test_pictures_that_are_not_warped_are_only_mirrored_exactly():
    images = pictures(40, 22, 31)
    config = AugmentConfig(rotation=20, width_shift=0.1, height_shift=0.1, zoom=0.1, horizontal_flip=True, warped=0)
    results = np.asarray(jitted(jax.random.key(2), images, config))
    mirrored = [np.array_equal(result, image[:, ::-1]) for result, image in zip(results, images, strict=True)]
    same = [np.array_equal(result, image) for result, image in zip(results, images, strict=True)]
    assert np.array_equal(mirrored, np.logical_not(same))
    assert 8 < sum(mirrored) < 32


def test_all_warped_draws_what_was_drawn_before_there_was_a_share():
    """Five keys, in this order, of rotation, shifts, zooms and flip: old runs can be repeated."""
    key, count, shape = jax.random.key(4), 30, (20, 30)
    keys = jax.random.split(key, 5)

    def uniform(index, limit, size=()):
        return np.asarray(jax.random.uniform(keys[index], (count, *size), jnp.float32, -limit, limit))

    drawn = draws_of(affine_matrices(key, count, shape, STRONG), shape)
    zoom = 1 + uniform(3, STRONG.zoom, (2,))
    wanted = [
        uniform(0, STRONG.rotation),
        uniform(1, STRONG.height_shift) * shape[0],
        uniform(2, STRONG.width_shift) * shape[1],
        zoom[:, 0],
        zoom[:, 1],
        np.asarray(jax.random.bernoulli(keys[4], 0.5, (count,))),
    ]
    np.testing.assert_allclose(drawn, np.stack(wanted, axis=1), rtol=1e-3, atol=1e-3)


def test_a_share_of_the_pictures_is_warped_and_draws_what_all_would():
    key, count, shape = jax.random.key(7), 2000, (20, 30)
    every = np.asarray(affine_matrices(key, count, shape, REPORT))
    some = np.asarray(affine_matrices(key, count, shape, dataclasses.replace(REPORT, warped=0.3)))
    none = np.asarray(affine_matrices(key, count, shape, dataclasses.replace(REPORT, warped=0)))
    warped = (some == every).all((1, 2))
    assert np.array_equal(some[~warped], none[~warped])
    assert warped.mean() == pytest.approx(0.3, abs=0.04)
    flips = np.linalg.det(every[:, :, :2]) < 0
    assert abs(np.corrcoef(flips, warped)[0, 1]) < 0.08


@pytest.mark.parametrize(
    "settings",
    [
        {"rotation": -1},
        {"rotation": 181},
        {"rotation": float("nan")},
        {"zoom": 1},
        {"zoom": -0.1},
        {"width_shift": 1.5},
        {"height_shift": float("nan")},
        {"warped": 1.1},
        {"warped": float("nan")},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        AugmentConfig(**settings)


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"workers": -1}])
def test_impossible_loading_is_refused(settings):
    with pytest.raises(ConfigError, match="positive"):
        LoaderConfig(**settings)
