"""Each kind against another implementation: OpenCV's JPEG, scipy's Gaussian, JAX's resize; and who is hit how often."""

import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from fakeface_jax.data.augmentation_config import NO_DEGRADATION, DegradeConfig
from fakeface_jax.data.degrade import (
    degrade,
    down_and_up,
    draw_colour,
    draw_rectangles,
    gaussian_blur,
    jpeg,
)
from fakeface_jax.errors import ConfigError

KINDS = ["colour", "blur", "noise", "scale", "jpeg", "erase"]
ALWAYS = dataclasses.replace(NO_DEGRADATION, **dict.fromkeys(KINDS, 1.0))
jitted = jax.jit(degrade, static_argnums=2)


def only(kind, **settings):
    return dataclasses.replace(NO_DEGRADATION, **{kind: 1.0} | settings)


def pictures(count, height=24, width=31, seed=0):
    noise = np.random.default_rng(seed).normal(size=(count, height, width, 3))
    smooth = scipy.ndimage.gaussian_filter(noise, (0, 1.5, 1.5, 0))
    return jnp.asarray(np.clip(128 + 200 * smooth, 0, 255), jnp.float32)


def opencv_jpeg(picture, quality, half):
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if half else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, data = cv2.imencode(".jpg", picture[..., ::-1], settings)
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32)


def test_jpeg_is_opencvs(face_picture):
    """One batch of every quality and chroma, of a size that is no multiple of a block."""
    picture = np.ascontiguousarray(face_picture[20:170, 150:311])
    cases = [(quality, half) for quality in (10, 40, 60, 80, 95) for half in (False, True)]
    qualities, halves = (jnp.asarray(column) for column in zip(*cases, strict=True))
    ours = jax.jit(jpeg)(jnp.repeat(jnp.asarray(picture[None], jnp.float32), 10, axis=0), qualities, halves)
    np.testing.assert_array_equal(ours, np.round(ours))
    losses = []
    for result, (quality, half) in zip(np.asarray(ours), cases, strict=True):
        wanted = opencv_jpeg(picture, quality, half)
        difference = np.abs(result - wanted)
        losses.append(np.abs(wanted - picture).mean())
        assert difference.mean() < 0.4
        assert difference.mean() < 0.25 * losses[-1]  # and small beside what is imitated
        assert np.mean(difference == 0) > 0.65
        # The other chroma is further away: the two are not mixed up.
        assert difference.mean() < 0.6 * np.abs(result - opencv_jpeg(picture, quality, not half)).mean()
    assert all(np.diff(losses[half::2]).max() < 0 for half in (0, 1))  # quality is not upside down


def test_jpeg_of_a_flat_grey_picture_changes_nothing():
    flat = jnp.full((2, 9, 5, 3), 77.0)
    np.testing.assert_array_equal(jax.jit(jpeg)(flat, jnp.array([100, 90]), jnp.array([False, True])), flat)


@pytest.mark.parametrize("shape", [(21, 34), (7, 9)])
def test_blur_is_scipys(shape):
    images = pictures(4, *shape)
    sigmas = [0.0, 0.4, 1.3, 3.0]
    ours = gaussian_blur(images, jnp.asarray(sigmas, jnp.float32), radius=9)
    np.testing.assert_array_equal(ours[0], images[0])
    for image, result, sigma in list(zip(images, ours, sigmas, strict=True))[1:]:
        wanted = scipy.ndimage.gaussian_filter(
            np.asarray(image, np.float64), (sigma, sigma, 0), mode="nearest", radius=9
        )
        np.testing.assert_allclose(result, wanted, atol=1e-3)


def test_scaling_is_jaxs():
    images = pictures(6)
    factors = [1.0, 0.9, 0.71, 0.4, 0.55, 0.02]
    down = [False, False, True, False, True, False]
    up = [False, True, False, False, True, True]
    ours = down_and_up(images, jnp.asarray(factors, jnp.float32), jnp.asarray(down), jnp.asarray(up))
    for image, result, factor, down_nearest, up_nearest in zip(images, ours, factors, down, up, strict=True):
        small = (max(1, round(24 * factor)), max(1, round(31 * factor)), 3)
        shrunk = jax.image.resize(image, small, "nearest" if down_nearest else "linear")
        wanted = jax.image.resize(shrunk, image.shape, "nearest" if up_nearest else "linear")
        np.testing.assert_allclose(result, wanted, atol=2e-3)
    np.testing.assert_array_equal(ours[0], images[0])


def colour_of(**settings):
    idle = {"hue": 0.0, "saturation": 0.0, "brightness": 0.0, "contrast": 0.0, "rgb_shift": 0.0}
    matrix, offset = draw_colour(jax.random.key(1), 200, DegradeConfig(**idle | settings))
    return np.asarray(matrix), np.asarray(offset)


def test_each_colour_setting_does_what_it_says():
    eye, grey = np.eye(3), np.ones(3)
    matrix, offset = colour_of()
    np.testing.assert_allclose(matrix, np.broadcast_to(eye, matrix.shape), atol=1e-5)
    np.testing.assert_array_equal(offset, 0)

    for setting in ({"hue": 30.0}, {"saturation": 0.3}):
        matrix, offset = colour_of(**setting)
        np.testing.assert_allclose(matrix @ grey, np.ones((200, 3)), atol=1e-3)
        assert np.abs(matrix - eye).max() > 0.1
        np.testing.assert_array_equal(offset, 0)

    matrix, offset = colour_of(brightness=0.2)
    factors = matrix[:, 0, 0]
    np.testing.assert_allclose(matrix, factors[:, None, None] * eye, atol=1e-5)
    assert 0.8 <= factors.min() < 0.82
    assert 1.18 < factors.max() <= 1.2
    np.testing.assert_array_equal(offset, 0)

    matrix, offset = colour_of(contrast=0.2)
    np.testing.assert_allclose(matrix @ (127.5 * grey) + offset, np.full((200, 3), 127.5), atol=1e-3)
    assert np.ptp(matrix[:, 0, 0]) > 0.38

    matrix, offset = colour_of(rgb_shift=10.0)
    np.testing.assert_allclose(matrix, np.broadcast_to(eye, matrix.shape), atol=1e-5)
    assert 9.5 < np.abs(offset).max() <= 10
    assert np.abs(np.corrcoef(offset.T) - eye).max() < 0.3  # three draws, not one


def test_hue_turns_red_towards_green_and_blue():
    matrix, _ = colour_of(hue=120.0)
    turned = matrix @ np.array([1.0, 0, 0])
    assert (turned.argmax(1) == 1).any()
    assert (turned.argmax(1) == 2).any()


def test_colour_maps_reach_the_pixels():
    images = pictures(3)
    changed = np.asarray(jitted(jax.random.key(0), images, only("colour")))
    for before, after in zip(np.asarray(images), changed, strict=True):
        inside = ((after > 0) & (after < 255)).all(-1)
        known = np.concatenate([before[inside], np.ones((inside.sum(), 1))], 1)
        _, residual, _, _ = np.linalg.lstsq(known, after[inside], rcond=None)
        assert np.sqrt(residual / inside.sum()).max() < 1e-2  # affine in RGB, the same map for all pixels


def test_noise_has_its_strength_and_no_memory():
    grey = jnp.full((50, 24, 24, 3), 127.0)
    noise = np.asarray(jitted(jax.random.key(2), grey, only("noise", noise_sigma=20.0))) - 127
    sigmas = noise.std((1, 2, 3))
    assert sigmas.min() < 3
    assert 17 < sigmas.max() < 21
    assert abs(noise.mean()) < 0.3
    strong = noise[sigmas > 5]
    right = np.mean(strong[:, :, 1:] * strong[:, :, :-1]) / strong.var()
    channels = np.mean(strong[..., 0] * strong[..., 1]) / strong.var()
    assert abs(right) < 0.03
    assert abs(channels) < 0.03


def test_rectangles_are_inside_and_of_their_area():
    inside = np.asarray(draw_rectangles(jax.random.key(0), 400, (40, 60), 0.25))
    rows, columns = inside.any(2), inside.any(1)
    np.testing.assert_array_equal(inside, rows[:, :, None] & columns[:, None])
    assert (np.abs(np.diff(np.pad(rows, ((0, 0), (1, 1))).astype(int))).sum(1) == 2).all()  # one run each
    shares = inside.mean((1, 2))
    assert 0.01 < shares.min() < 0.05
    assert 0.22 < shares.max() < 0.28
    assert rows.any(0).all()  # every place up to the edges is covered sometimes
    assert columns.any(0).all()


def test_erasing_fills_with_mean_or_noise_and_leaves_the_rest():
    images = pictures(24)
    changed = np.asarray(jitted(jax.random.key(4), images, only("erase")))
    flat = 0
    for before, after in zip(np.asarray(images), changed, strict=True):
        where = (before != after).any(-1)
        box = after[np.ix_(where.any(1), where.any(0))]
        assert 0 < where.mean() < 0.3
        assert where.sum() > 0.9 * box.shape[0] * box.shape[1]
        if box.std((0, 1)).max() < 1e-3:
            flat += 1
            np.testing.assert_allclose(box[0, 0], before.mean((0, 1)), atol=1e-2)
        else:
            assert 0 <= box.min() <= box.max() <= 255
    assert 4 < flat < 20


def test_no_degradation_is_the_argument_itself():
    images = pictures(2)
    assert degrade(jax.random.key(0), images, NO_DEGRADATION) is images
    program = jax.make_jaxpr(lambda key, pixels: degrade(key, pixels, NO_DEGRADATION))(jax.random.key(0), images)
    assert not program.eqns


@pytest.mark.parametrize("kind", KINDS)
def test_probability_one_changes_every_picture_and_stays_in_range(kind):
    picture = pictures(1, 16, 16)
    images = jnp.concatenate([jnp.repeat(picture, 5, axis=0), jnp.zeros_like(picture), jnp.full_like(picture, 255)])
    changed = np.asarray(jitted(jax.random.key(0), images, only(kind)))
    assert all((result != picture[0]).any() for result in changed[:5])
    # Each by a draw of its own, though two factors may round to the same small size.
    assert len({result.tobytes() for result in changed[:5]}) >= 4
    assert changed.min() >= 0
    assert changed.max() <= 255


def test_a_picture_is_hit_as_often_as_said_and_else_untouched():
    """Two of five pictures are computed for 0.3; a plain ceil(p n) would change 0.4 of them."""
    probability = 0.3
    images, config = pictures(5, 4, 4), dataclasses.replace(NO_DEGRADATION, colour=probability)
    run = jax.jit(jax.vmap(degrade, (0, None, None)), static_argnums=2)
    hit = np.asarray((run(jax.random.split(jax.random.key(0), 3000), images, config) != images).any((2, 3, 4)))
    np.testing.assert_allclose(hit.mean(0), probability, atol=4 * np.sqrt(probability * (1 - probability) / 3000))
    assert hit.sum(1).max() <= np.ceil(5 * probability)


def test_a_kind_leaves_the_draws_of_the_others():
    images, key = pictures(7, 16, 16), jax.random.key(8)
    one, both = jitted(key, images, only("colour")), jitted(key, images, only("colour", erase=1.0))
    assert np.mean(np.asarray(one == both)) > 0.7  # all but the rectangles


def test_all_kinds_together_on_an_odd_size():
    images = pictures(2, 150, 161)
    once = np.asarray(jitted(jax.random.key(5), images, ALWAYS))
    assert once.shape == images.shape
    assert once.dtype == np.float32
    assert np.isfinite(once).all()
    assert 0 <= once.min() < once.max() <= 255
    np.testing.assert_array_equal(once, jitted(jax.random.key(5), images, ALWAYS))
    assert not np.array_equal(once, jitted(jax.random.key(6), images, ALWAYS))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jpeg", 1.1),
        ("blur", -0.1),
        ("erase", float("nan")),
        ("jpeg_half_chroma", 2),
        ("noise_sigma", -1),
        ("hue", 181),
        ("blur_sigma", 0),
        ("blur_sigma", 50),
        ("scale_least", 0),
        ("erase_area", 1.5),
        ("jpeg_least", 0),
        ("jpeg_most", 20),
    ],
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        DegradeConfig(**{name: value})
