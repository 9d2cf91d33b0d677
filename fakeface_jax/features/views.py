"""Views of a face as a network may meet it, from the picture as it is to a small, heavily compressed copy.

A view starts from the square around a face at the resolution of its picture, is degraded with real encoders, and ends
as the crop that a network takes. Both classes get the same random draws, so that the history of a file tells nothing
about its label.

| view | square at most | encoding |
| --- | --- | --- |
| `clean` | as it is | none |
| `web` | 192 pixels | JPEG 60 |
| `hard` | 128 pixels | JPEG 40 |
| `drawn-N` | 64 to 192 pixels, drawn | drawn: mirrored or not, blur, light, noise, JPEG or WebP 40 to 96, some twice |

`web` and `hard` stand for pictures of at most 768 and 512 pixels in which the square around the face takes a quarter
of the longer side; the tiers are those of Sieve (Phineas1500/sieve-ai-image-detector), relative to the face. The draws
follow its degradation ladder and that of Wang et al. 2020, "CNN-generated images are surprisingly easy to spot".

Example:
    >>> crop = render_view(face_square(image, face.box), "web", seed=picture_sha256, size=224)
"""

from __future__ import annotations

import dataclasses
import hashlib
import re

import cv2
import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import ConfigError
from fakeface_jax.faces import Box, CropSpec, crop_square

TIERS = ("clean", "web", "hard")
"""The views for which results are reported."""

_TIER = {"web": (192, 60), "hard": (128, 40)}
_DRAWN = re.compile(r"drawn-(\d+)")
_SMALLEST, _LARGEST = 64, 192


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """A rendered view, and facts that its file alone would reveal.

    Attributes:
        crop: the crop that the network takes, uint8 RGB.
        side: side of the square in pixels, before it was resized for the network.
        bytes_per_pixel: size of the last encoding, or of a JPEG 95 encoding if the view has none.
    """

    crop: UInt8[np.ndarray, "s s 3"]
    side: int
    bytes_per_pixel: float


def check_view(name: str) -> None:
    """Raises `ConfigError` if a name is not a view."""
    if name not in TIERS and not _DRAWN.fullmatch(name):
        raise ConfigError(f"{name!r} is not a view; use {', '.join(TIERS)}, drawn-0, drawn-1, ...")


def face_square(image: UInt8[np.ndarray, "h w 3"], box: Box, margin: float = 1.3) -> UInt8[np.ndarray, "d d 3"]:
    """Returns a copy of the square that `crop_face` would resize, at the resolution of the picture."""
    left, top, side = crop_square(image.shape[:2], box, CropSpec(margin=margin))
    return image[top : top + side, left : left + side].copy()


def render_view(square: UInt8[np.ndarray, "d d 3"], name: str, *, seed: str, size: int) -> View:
    """Degrades the square around a face as the named view says.

    Args:
        square: RGB square from `face_square`.
        name: one of `TIERS`, or `drawn-N`.
        seed: decides the draws together with the name; the same for a real face and an aligned fake of it.
        size: side of the crop in pixels.

    Raises:
        ConfigError: the view is unknown.
    """
    check_view(name)
    if name == "clean":
        encoded = _encode(square, ".jpg", 95)
        return View(crop=_scaled(square, size), side=len(square), bytes_per_pixel=len(encoded) / square.size * 3)
    if name in _TIER:
        most, quality = _TIER[name]
        small = _scaled(square, min(len(square), most))
        encoded = _encode(small, ".jpg", quality)
    else:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        small, encoded = _drawn(square, rng)
    decoded = _decode(encoded)
    return View(crop=_scaled(decoded, size), side=len(small), bytes_per_pixel=len(encoded) / decoded.size * 3)


def _drawn(square: UInt8[np.ndarray, "d d 3"], rng: np.random.Generator) -> tuple[np.ndarray, bytes]:
    """Makes the draws, always in the same number and order, so that two squares with the same seed share them."""
    side = min(len(square), round(float(np.exp(rng.uniform(np.log(_SMALLEST), np.log(_LARGEST))))))
    shrink = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)[rng.integers(3)]
    flip, blur, light, noise = rng.random(4) < (0.5, 0.2, 0.3, 0.15)
    sigma, gain, gamma, grain = rng.uniform((0.2, 0.85, 0.8, 1.0), (1.2, 1.15, 1.25, 5.0))
    field = rng.standard_normal((_LARGEST, _LARGEST, 3), dtype=np.float32)
    first, second = rng.integers(40, 97, 2)
    webp, twice = rng.random(2) < (0.2, 0.3)
    if flip:
        square = np.ascontiguousarray(square[:, ::-1])
    # A picture that is shrunk without averaging is smoothed first, as cameras and websites do; otherwise it would
    # alias.
    if shrink != cv2.INTER_AREA and len(square) > side:
        square = cv2.GaussianBlur(square, (0, 0), 0.5 * len(square) / side)
    small = cv2.resize(square, (side, side), interpolation=shrink) if side != len(square) else square
    pixels: np.ndarray = small.astype(np.float32)
    if blur:
        pixels = cv2.GaussianBlur(pixels, (0, 0), float(sigma))
    if light:
        pixels = 255 * (np.clip(pixels * gain, 0, 255) / 255) ** gamma
    if noise:
        pixels = pixels + grain * field[:side, :side]
    small = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
    if twice:
        small = _decode(_encode(small, ".jpg", int(second)))
    return small, _encode(small, ".webp" if webp else ".jpg", int(first))


def _scaled(square: UInt8[np.ndarray, "d d 3"], side: int) -> UInt8[np.ndarray, "s s 3"]:
    """Resizes as `crop_face` does: area averaging when it shrinks, bilinear interpolation when it grows."""
    if len(square) == side:
        return square
    interpolation = cv2.INTER_AREA if len(square) > side else cv2.INTER_LINEAR
    return cv2.resize(square, (side, side), interpolation=interpolation)


def _encode(pixels: UInt8[np.ndarray, "h w 3"], kind: str, quality: int) -> bytes:
    option = cv2.IMWRITE_JPEG_QUALITY if kind == ".jpg" else cv2.IMWRITE_WEBP_QUALITY
    return cv2.imencode(kind, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [option, quality])[1].tobytes()


def _decode(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None  # it was encoded just now
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
