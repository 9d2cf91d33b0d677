"""The grid of degradations on which a detector is tested: the damage that pictures take when they are shared.

JPEG, Gaussian blur, resizing and noise have the strengths of GenD (Yermakov et al., 2025) and are applied to face
crops, to reals and fakes alike. Crops are small, so a strength in pixels is a larger share of the face than in a whole
picture.

Example:
    >>> [degradation.name for degradation in GRID][:3]
    ['JPEG 100', 'JPEG 80', 'JPEG 60']
    >>> find_degradation("blur 2").apply(crops)
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import ConfigError

Kind = Literal["jpeg", "blur", "resize", "scale", "noise"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Degradation:
    """One degradation that is applied to every crop.

    Attributes:
        name: name in tables.
        kind: `jpeg`: encoded and decoded by OpenCV (libjpeg, 4:2:0 chroma). `blur`: Gaussian. `resize`: to a side in
            pixels and back. `scale`: to a share of the side and back. Both shrink by area and grow bilinearly, as
            `crop_face` does. `noise`: Gaussian, independent per pixel and channel, clipped to the range of a picture.
        strength: quality 1 to 100; sigma in pixels; side in pixels; share of the side; sigma as a share of full range.
    """

    name: str
    kind: Kind
    strength: float

    def __post_init__(self) -> None:
        if self.kind not in _DEGRADE:
            raise ConfigError(f"unknown degradation {self.kind!r}; use one of {', '.join(_DEGRADE)}")
        highest = 100.0 if self.kind == "jpeg" else np.inf
        if not 0.0 < self.strength <= highest or (self.kind in ("jpeg", "resize") and self.strength % 1):
            raise ConfigError(f"{self.name}: {self.strength:g} is not a valid strength of {self.kind}")

    def apply(self, crops: UInt8[np.ndarray, "n s s 3"]) -> UInt8[np.ndarray, "n s s 3"]:
        """Returns the degraded crops; the same crop gives the same result in any batch, including the noise."""
        degrade = _DEGRADE[self.kind]
        degraded = np.empty_like(crops)
        for index, crop in enumerate(crops):
            degraded[index] = degrade(crop, self.strength)
        return degraded


def find_degradation(name: str) -> Degradation:
    """Returns one of `GRID` by its name.

    Raises:
        ConfigError: the name does not exist.
    """
    for degradation in GRID:
        if degradation.name == name:
            return degradation
    raise ConfigError(f"unknown degradation {name!r}; use one of {', '.join(one.name for one in GRID)}")


def _jpeg(crop: UInt8[np.ndarray, "s s 3"], quality: float) -> UInt8[np.ndarray, "s s 3"]:
    # OpenCV's encoder takes BGR; with another order of channels the chroma would belong to other colours.
    encoded = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(quality)])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]


def _blur(crop: UInt8[np.ndarray, "s s 3"], sigma: float) -> UInt8[np.ndarray, "s s 3"]:
    return cv2.GaussianBlur(crop, (0, 0), sigma)


def _resize(crop: UInt8[np.ndarray, "s s 3"], side: float) -> UInt8[np.ndarray, "s s 3"]:
    return _scaled(_scaled(crop, int(side)), crop.shape[0])


def _scale(crop: UInt8[np.ndarray, "s s 3"], share: float) -> UInt8[np.ndarray, "s s 3"]:
    return _resize(crop, max(1, round(crop.shape[0] * share)))


def _scaled(crop: UInt8[np.ndarray, "s s 3"], side: int) -> UInt8[np.ndarray, "t t 3"]:
    return cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA if side < len(crop) else cv2.INTER_LINEAR)


def _noise(crop: UInt8[np.ndarray, "s s 3"], sigma: float) -> UInt8[np.ndarray, "s s 3"]:
    # Seeded by the crop itself, so that the order and the batch of faces do not matter. The pattern is the same for
    # every sigma, so that two strengths differ only in their strength.
    rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(crop)))
    noisy = crop + rng.standard_normal(crop.shape, np.float32) * np.float32(sigma * 255.0)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


_DEGRADE: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "jpeg": _jpeg,
    "blur": _blur,
    "resize": _resize,
    "scale": _scale,
    "noise": _noise,
}

GRID: tuple[Degradation, ...] = (
    *(Degradation(name=f"JPEG {quality}", kind="jpeg", strength=quality) for quality in (100, 80, 60, 40, 20, 10)),
    *(Degradation(name=f"blur {sigma:g}", kind="blur", strength=sigma) for sigma in (0.5, 1.0, 1.5, 2.0, 3.0)),
    *(Degradation(name=f"resize {side}", kind="resize", strength=side) for side in (224, 112, 64)),
    Degradation(name="resize by half", kind="scale", strength=0.5),
    *(Degradation(name=f"noise {sigma:g}", kind="noise", strength=sigma) for sigma in (0.01, 0.03, 0.05, 0.1, 0.2)),
)
"""Every kind with increasing strength. The unchanged crop is not listed: it is the clean result beside these."""
