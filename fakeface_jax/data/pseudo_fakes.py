"""Makes fakes from real faces during training: the traces that any blended or up-sampled face has.

A detector that sees only published fakes learns their generators and fails on the next one. `self_blend` puts a part of
a face over a slightly different version of the same face, so that only the blending is fake; `up_sample` adds the
periodic traces of a generator's last layers to a real photo. Both work on the crop, on the host, in OpenCV.

Example:
    >>> rng = np.random.default_rng(0)
    >>> fake = self_blend(crop, landmarks, rng)
    >>> fake = up_sample(crop, rng)
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

# The mean face, seen from the front: x to the right and y down in units of the distance between the eyes, with the
# origin between them. Landmarks are in the detector's order; the other points are drawn by hand in average proportions.
_LANDMARKS = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.58], [-0.42, 1.15], [0.42, 1.15]])
_JAW = [(-1.05, 0.1), (-1.0, 0.5), (-0.9, 0.95), (-0.68, 1.38), (-0.35, 1.7), (0.0, 1.8)]
_BROWS = [(-1.0, -0.2), (-0.75, -0.42), (-0.45, -0.48), (-0.15, -0.42)]
_FOREHEAD = [(-0.85, -0.7), (-0.45, -0.95), (0.0, -1.02)]
_EYE = [(-0.86, 0.0), (-0.72, -0.24), (-0.5, -0.32), (-0.26, -0.22), (-0.16, 0.0), (-0.28, 0.2), (-0.7, 0.22)]
_NOSE = [(-0.14, -0.12), (-0.33, 0.55), (-0.28, 0.74), (0.0, 0.82)]
_MOUTH = [(-0.6, 1.15), (-0.4, 0.95), (0.0, 0.9), (-0.38, 1.38), (0.0, 1.48)]


def _mirrored(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return points + [(-x, y) for x, y in points]


# Replaced regions as corners of a convex hull, with their probabilities. Half are whole faces as in face swaps, the
# other half are parts, because photo editing replaces eyes, noses and mouths one at a time.
_REGIONS = {
    "face": (0.3, _mirrored(_JAW + _BROWS)),
    "face and forehead": (0.1, _mirrored(_JAW + _FOREHEAD)),
    "lower half": (0.2, _mirrored([*_JAW[1:], (-0.55, 0.28), (0.0, 0.2)])),
    "eyes": (0.12, _mirrored([*_BROWS, (-0.95, 0.1), (-0.6, 0.28), (0.0, 0.25)])),
    "left eye": (0.05, _EYE),
    "right eye": (0.05, [(-x, y) for x, y in _EYE]),
    "nose": (0.09, _mirrored(_NOSE)),
    "mouth": (0.09, _mirrored(_MOUTH)),
}
_CORNERS = [np.array(corners) for _, corners in _REGIONS.values()]
_CUMULATIVE = np.cumsum([share for share, _ in _REGIONS.values()])

# From five landmarks to the affine map that fits the mean face to them in least squares.
_FIT = np.linalg.pinv(np.column_stack([_LANDMARKS, np.ones(5)]))
_CENTRED = np.array([[0.34, 0.0], [0.0, 0.3], [0.5, 0.37]])
"""Position of the mean face in a crop of size 1 without landmarks: the median of detected faces cut at margin 1.3."""

_BLEND_RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
_ELASTIC_ALPHA, _ELASTIC_SIGMA = 50.0, 7.0
_LUMA = np.array([0.299, 0.587, 0.114])


def self_blend(
    image: UInt8[np.ndarray, "s s 3"], landmarks: Float[np.ndarray, "5 2"], rng: np.random.Generator
) -> UInt8[np.ndarray, "s s 3"]:
    """Makes a self-blended image: replaces the face, or a part of it, by a changed and slightly moved copy of itself.

    It follows Shiohara and Yamasaki, "Detecting Deepfakes with Self-Blended Images" (CVPR 2022), with its constants for
    the colour shift, the affine move, the elastic deformation and the blend ratios. The mask here is a mean face, or a
    part of it, fitted to five landmarks instead of the hull of 68. Only the copy is changed and never the surroundings:
    in the paper the real half of a pair is changed in the same way, but here there is none, and a changed background
    would itself tell fakes from reals.

    Args:
        image: RGB crop of a real face.
        landmarks: x, y in pixels of the crop: left eye, right eye, nose, left and right mouth corner as seen in the
            picture. If one is not finite, or they do not form a face, the mean face in the middle of the crop is used.
        rng: random generator that decides all draws.
    """
    size = image.shape[0]
    placed = _place_mean_face(landmarks, size)
    # Small random move of the copy, including its mask, about the middle of the crop.
    scale = rng.uniform(0.95, 1 / 0.95)
    shift = rng.uniform((-0.03, -0.015), (0.03, 0.015)) * size
    middle = (size - 1) / 2
    move = np.column_stack([scale * np.eye(2), middle * (1 - scale) + shift])

    corners = _CORNERS[int(np.searchsorted(_CUMULATIVE, rng.random() * _CUMULATIVE[-1], side="right"))]
    corners = corners + rng.normal(0, 0.04, corners.shape)
    corners = np.column_stack([corners, np.ones(len(corners))]) @ placed
    corners = np.column_stack([corners, np.ones(len(corners))]) @ move.T
    mask = _soft_mask(corners, size, rng)

    source = _change(image, rng)
    source = cv2.warpAffine(source, move, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mask *= _BLEND_RATIOS[rng.integers(len(_BLEND_RATIOS))]
    target = image.astype(np.float32)
    return _to_bytes(target + mask[..., None] * (source - target))


def _place_mean_face(landmarks: np.ndarray, size: int) -> Float64[np.ndarray, "3 2"]:
    """Returns the affine map from (x, y, 1) of the mean face to pixels of the crop."""
    if np.isfinite(landmarks).all():
        placed = _FIT @ np.asarray(landmarks, np.float64)
        # A face that is seen from the side is narrow; mirrored or collapsed landmarks do not form a face.
        if np.linalg.det(placed[:2]) > (0.08 * size) ** 2 and _within(placed[2], size):
            return placed
    return _CENTRED * size


def _within(point: np.ndarray, size: int) -> bool:
    return bool((point >= 0).all() and (point < size).all())


def _soft_mask(corners: np.ndarray, size: int, rng: np.random.Generator) -> Float32[np.ndarray, "s s"]:
    """Returns the hull of some points, elastically deformed and blurred; from 0 to 1, with a maximum of 1."""
    hull = cv2.convexHull(corners.astype(np.float32))
    mask: np.ndarray = np.zeros((size, size), np.float32)
    # Corners in sixteenths of a pixel.
    cv2.fillConvexPoly(mask, np.round(hull * 16).astype(np.int32), 1.0, lineType=cv2.LINE_8, shift=4)
    noise = rng.random((size, size, 2), np.float32) * 2 - 1
    field = cv2.GaussianBlur(noise, (0, 0), _ELASTIC_SIGMA) * _ELASTIC_ALPHA
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    mask = cv2.remap(mask, columns + field[..., 0], rows + field[..., 1], cv2.INTER_LINEAR)
    # From a hard seam to one that fades over a quarter of the face.
    sigma = math.exp(rng.uniform(math.log(0.004), math.log(0.06))) * size
    mask = cv2.GaussianBlur(mask, (0, 0), sigma)
    return mask / max(float(mask.max()), 1e-6)


def _change(image: UInt8[np.ndarray, "s s 3"], rng: np.random.Generator) -> Float32[np.ndarray, "s s 3"]:
    """Changes colours, and lowers the resolution or sharpens edges; the result is about 0 to 255."""
    # One strength for all colours: in the paper many changes are hardly visible, and these teach most.
    strength = rng.random()
    hue, saturation, value, brightness, contrast = rng.uniform(-1, 1, 5) * strength
    matrix = _hue_rotation(math.radians(10 * hue))
    matrix = ((1 + 0.3 * saturation) * np.eye(3) - 0.3 * saturation * np.outer(np.ones(3), _LUMA)) @ matrix
    gain = (1 + 0.3 * value) * (1 + 0.1 * contrast)
    offset = np.full(3, 25.5 * brightness - 12.75 * contrast)
    if rng.random() < 0.3:
        offset += rng.uniform(-20, 20, 3)
    size = image.shape[0]
    changed = cv2.transform(image.astype(np.float32), np.column_stack([gain * matrix, offset]))
    if rng.random() < 0.5:
        # The paper's factors are 2 and 4 at 380 pixels; crops here are smaller.
        small = max(1, round(size / math.exp(rng.uniform(math.log(1.25), math.log(4)))))
        down = cv2.INTER_AREA if rng.random() < 0.5 else cv2.INTER_NEAREST
        changed = cv2.resize(cv2.resize(changed, (small, small), interpolation=down), (size, size))
    else:
        amount = rng.uniform(0.3, 1.0)
        changed = cv2.addWeighted(changed, 1 + amount, cv2.GaussianBlur(changed, (0, 0), 1.0), -amount, 0)
    return np.clip(changed, 0, 255)


def _hue_rotation(angle: float) -> Float64[np.ndarray, "3 3"]:
    """Returns the rotation of RGB about the grey axis (Rodrigues's formula), under which greys stay grey."""
    cos, sin = math.cos(angle), math.sin(angle) / math.sqrt(3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return cos * np.eye(3) + sin * cross + (1 - cos) / 3


def up_sample(image: UInt8[np.ndarray, "s s 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "s s 3"]:
    """Adds the traces of a generator's up-sampling, by 2 or by 4, to a real face.

    The crop is shrunk and then enlarged by nearest neighbours or like a transposed convolution: zeros are inserted and
    convolved with a random kernel with uneven overlap, which leaves a checkerboard (Odena et al. 2016, "Deconvolution
    and Checkerboard Artifacts"; Zhang et al. 2019, "Detecting and Simulating Artifacts in GAN Fake Images"). Half of
    the results lose detail as well, and the others have only the pattern, so that blur alone does not make a fake.

    Args:
        image: RGB crop of a real face.
        rng: random generator that decides all draws.
    """
    size = image.shape[0]
    factor = 2 if rng.random() < 0.7 else 4
    # Whole cells, so that the period of the pattern is the factor everywhere.
    small = -(-size // factor)
    padded = cv2.copyMakeBorder(image, 0, small * factor - size, 0, small * factor - size, cv2.BORDER_REFLECT_101)
    cells = cv2.resize(padded, (small, small), interpolation=cv2.INTER_AREA).astype(np.float32)
    smooth = _transposed_convolution(cells, factor, _even_kernel(factor))
    if rng.random() < 0.25:
        traced = cells.repeat(factor, axis=0).repeat(factor, axis=1)
    else:
        even = _even_kernel(factor)
        # From a pattern that only a spectrum shows to one that is visible.
        unevenness = math.exp(rng.uniform(math.log(0.04), math.log(0.25)))
        kernel = even * (1 + unevenness * rng.standard_normal(even.shape)).astype(np.float32)
        traced = _transposed_convolution(cells, factor, kernel * (factor**2 / kernel.sum()))
    original = image.astype(np.float32)
    smooth, traced = smooth[:size, :size], traced[:size, :size]
    strength = np.float32(rng.uniform(0.5, 1.0))
    lost = traced if rng.random() < 0.5 else original + traced - smooth
    return _to_bytes(original + strength * (lost - original))


def _even_kernel(factor: int) -> Float32[np.ndarray, "k k"]:
    """Returns the kernel of a transposed convolution of stride `factor` that interpolates linearly; sum factor ** 2."""
    ramp = 1 - np.abs(np.arange(2 * factor) - (factor - 0.5)) / factor
    return np.outer(ramp, ramp).astype(np.float32)


def _transposed_convolution(
    cells: Float32[np.ndarray, "c c 3"], factor: int, kernel: Float32[np.ndarray, "k k"]
) -> Float32[np.ndarray, "f f 3"]:
    """Turns every cell into a scaled copy of the kernel, of twice the factor, centred on the cell; copies overlap."""
    # One more cell on every side, so that the edge is covered as often as the rest.
    cells = cv2.copyMakeBorder(cells, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    size = cells.shape[0] * factor
    spread = np.zeros((size, size, 3), np.float32)
    spread[factor // 2 :: factor, factor // 2 :: factor] = cells
    # filter2D correlates, so the flipped kernel is stamped in its original form. Its middle lies between two pixels.
    stamped = cv2.filter2D(spread, -1, kernel[::-1, ::-1], anchor=(factor - 1, factor - 1))
    return stamped[factor:-factor, factor:-factor]


def _to_bytes(pixels: Float32[np.ndarray, "s s 3"]) -> UInt8[np.ndarray, "s s 3"]:
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
