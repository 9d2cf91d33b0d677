"""Views of a face: sizes, encodings, and draws that are the same for a real face and its reconstruction."""

from __future__ import annotations

import numpy as np
import pytest

from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import CropSpec, crop_face
from fakeface_jax.features.views import TIERS, check_view, face_square, render_view

BOX = (176.0, 60.0, 276.0, 200.0)
"""About the face of the test picture."""

NAMES = (*TIERS, *(f"drawn-{number}" for number in range(8)))


def _ramp(side: int, noise: int) -> np.ndarray:
    """Dark on the left, bright on the right."""
    columns = np.broadcast_to(np.linspace(30, 220, side)[None, :, None], (side, side, 3))
    grain = np.random.default_rng(noise).normal(0, 8, (side, side, 3))
    return np.clip(columns + grain, 0, 255).astype(np.uint8)


def _mirrored(crop: np.ndarray) -> bool:
    half = crop.shape[1] // 2
    return bool(crop[:, :half].mean() > crop[:, half:].mean())


@pytest.mark.parametrize("margin", [1.3, 2.0])
def test_a_face_square_is_a_copy_of_the_pictures_own_pixels(face_picture, margin):
    square = face_square(face_picture, BOX, margin)
    side = round(140 * margin)
    assert square.shape == (side, side, 3)
    assert square.dtype == np.uint8
    left, top = round((176 + 276 - side) / 2), max(round((60 + 200 - side) / 2), 0)
    np.testing.assert_array_equal(square, face_picture[top : top + side, left : left + side])
    assert not np.shares_memory(square, face_picture)


def test_a_face_square_at_the_border_holds_pixels_of_the_picture_only(face_picture):
    square = face_square(face_picture, (-40.0, -40.0, 60.0, 60.0))
    np.testing.assert_array_equal(square, face_picture[:130, :130])


@pytest.mark.parametrize("size", [64, 182, 224])
def test_the_clean_view_is_what_a_network_is_given_of_the_picture(face_picture, size):
    view = render_view(face_square(face_picture, BOX), "clean", seed="any", size=size)
    np.testing.assert_array_equal(view.crop, crop_face(face_picture, BOX, CropSpec(size=size)))
    assert view.side == 182


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("side", "size"), [(40, 224), (150, 64), (300, 224)])
def test_every_view_is_a_crop_of_the_networks_size(name, side, size):
    view = render_view(_ramp(side, 0), name, seed="a", size=size)
    assert view.crop.shape == (size, size, 3)
    assert view.crop.dtype == np.uint8
    assert 0 < view.side <= side
    assert 0 < view.bytes_per_pixel < 4


@pytest.mark.parametrize(("name", "most"), [("web", 192), ("hard", 128)])
@pytest.mark.parametrize("side", [60, 128, 160, 192, 400])
def test_web_and_hard_are_never_larger_than_their_tier(name, most, side):
    assert render_view(_ramp(side, 0), name, seed="a", size=224).side == min(side, most)


def test_a_harder_tier_keeps_less_of_a_face(face_picture):
    square = face_square(face_picture, BOX)
    clean, web, hard = (render_view(square, name, seed="a", size=224) for name in TIERS)
    lost = [float(np.abs(view.crop.astype(float) - clean.crop).mean()) for view in (web, hard)]
    assert 0 < lost[0] < lost[1] < 15
    assert clean.bytes_per_pixel > web.bytes_per_pixel


def test_web_and_hard_know_no_draws(face_picture):
    square = face_square(face_picture, BOX)
    for name in TIERS:
        one, other = (render_view(square, name, seed=seed, size=96) for seed in "ab")
        np.testing.assert_array_equal(one.crop, other.crop)


def test_draws_are_those_of_their_seed_and_name():
    square = _ramp(260, 0)
    first, again = (render_view(square, "drawn-0", seed="a", size=96) for _ in range(2))
    np.testing.assert_array_equal(first.crop, again.crop)
    assert (first.side, first.bytes_per_pixel) == (again.side, again.bytes_per_pixel)
    for name, seed in (("drawn-1", "a"), ("drawn-0", "b")):
        other = render_view(square, name, seed=seed, size=96)
        assert (first.side, first.bytes_per_pixel) != (other.side, other.bytes_per_pixel)
        assert (first.crop != other.crop).any()


def test_rendering_leaves_the_square_as_it_is():
    square = _ramp(260, 0)
    kept = square.copy()
    for name in NAMES:
        render_view(square, name, seed="a", size=96)
    np.testing.assert_array_equal(square, kept)


def test_two_squares_of_one_seed_share_what_was_drawn():
    sides, mirrored = set(), set()
    for number in range(24):
        one, other = (
            render_view(square, f"drawn-{number}", seed="picture", size=224)
            for square in (_ramp(300, 1), _ramp(300, 2) // 2)
        )
        assert one.side == other.side
        assert _mirrored(one.crop) == _mirrored(other.crop)
        sides.add(one.side)
        mirrored.add(_mirrored(one.crop))
    assert mirrored == {True, False}
    assert len(sides) > 10
    assert 64 <= min(sides) < 100
    assert 150 < max(sides) <= 192


@pytest.mark.parametrize("name", [*TIERS, "drawn-0", "drawn-12"])
def test_names_of_views_are_known(name):
    check_view(name)


@pytest.mark.parametrize("name", ["", "raw", "Web", "drawn", "drawn-", "drawn--1", "drawn-1.5", "drawn-x", " clean"])
def test_an_unknown_view_is_refused_with_the_views_there_are(name):
    with pytest.raises(ConfigError, match="use clean, web, hard, drawn-0"):
        check_view(name)
    with pytest.raises(ConfigError, match="is not a view"):
        render_view(_ramp(40, 0), name, seed="a", size=64)
