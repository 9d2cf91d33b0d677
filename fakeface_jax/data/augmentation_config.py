"""Settings of the input pipeline, apart from it, so that a command line can show them without importing JAX or Grain.

Example:
    >>> AugmentConfig(rotation=10)
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from fakeface_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How strongly training pictures are warped; every draw is uniform and independent per picture.

    Attributes:
        rotation: at most so many degrees either way.
        width_shift: at most so large a share of the width either way.
        height_shift: at most so large a share of the height either way.
        zoom: factor in [1 - zoom, 1 + zoom], each axis on its own.
        horizontal_flip: mirror half of the pictures.
        warped: share of the pictures that are rotated, shifted and zoomed. A warp interpolates, and so smooths the
            finest texture, which pictures in use still have.
    """

    rotation: float = 20.0
    width_shift: float = 0.1
    height_shift: float = 0.1
    zoom: float = 0.1
    horizontal_flip: bool = True
    warped: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.rotation <= 180:
            raise ConfigError(f"rotation {self.rotation} is not between 0 and 180 degrees")
        for name in ("width_shift", "height_shift", "zoom"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not a share in [0, 1)")
        if not 0 <= self.warped <= 1:
            raise ConfigError(f"warped {self.warped} is not a share in [0, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DegradeConfig:
    """How often and how strongly training pictures are spoilt; draws are uniform, independent per picture and kind.

    The first six are probabilities per picture. Blur and JPEG have Wang et al. 2020's (CNNDetection) strengths; the
    probabilities are lower than its 0.5 for blur because scaling blurs too.

    Attributes:
        colour: probability of hue, saturation, brightness, contrast and shift of RGB, all drawn together.
        blur: probability of a Gaussian blur.
        noise: probability of Gaussian noise, independent per pixel and channel.
        scale: probability of scaling down and up again.
        jpeg: probability of JPEG compression.
        erase: probability of a covered rectangle, filled with the picture's mean or with noise.
        hue: at most so many degrees either way.
        saturation: factor in [1 - saturation, 1 + saturation].
        brightness: factor in [1 - brightness, 1 + brightness].
        contrast: factor in [1 - contrast, 1 + contrast] about the middle of the range.
        rgb_shift: each channel moves by at most so much of 255 either way.
        blur_sigma: standard deviation in [0, blur_sigma] pixels.
        noise_sigma: standard deviation in [0, noise_sigma] of 255.
        scale_least: factor in [scale_least, 1].
        jpeg_least: lowest quality, 1 to 100.
        jpeg_most: highest quality, 1 to 100.
        jpeg_half_chroma: share of the JPEGs with 4:2:0 chroma; the others have 4:4:4.
        erase_area: the rectangle covers at most so large a share of the picture.
    """

    colour: float = 0.5
    blur: float = 0.3
    noise: float = 0.2
    scale: float = 0.3
    jpeg: float = 0.5
    erase: float = 0.2
    hue: float = 10.0
    saturation: float = 0.3
    brightness: float = 0.2
    contrast: float = 0.2
    rgb_shift: float = 10.0
    blur_sigma: float = 3.0
    noise_sigma: float = 10.0
    scale_least: float = 0.4
    jpeg_least: int = 30
    jpeg_most: int = 100
    jpeg_half_chroma: float = 0.5
    erase_area: float = 0.25

    def __post_init__(self) -> None:
        for name in ("colour", "blur", "noise", "scale", "jpeg", "erase", "jpeg_half_chroma"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not a probability in [0, 1]")
        limits = {"hue": 180, "saturation": 1, "brightness": 1, "contrast": 1, "rgb_shift": 255, "noise_sigma": 255}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} {getattr(self, name)} is not between 0 and {most}")
        # The kernel's length, and the cost, go with the largest sigma.
        if not 0 < self.blur_sigma <= 10:
            raise ConfigError(f"blur_sigma {self.blur_sigma} is not in (0, 10] pixels")
        for name in ("scale_least", "erase_area"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not a share in (0, 1]")
        if not 1 <= self.jpeg_least <= self.jpeg_most <= 100:
            raise ConfigError(f"jpeg_least {self.jpeg_least} to jpeg_most {self.jpeg_most} is no range within 1 to 100")


NO_DEGRADATION = DegradeConfig(colour=0, blur=0, noise=0, scale=0, jpeg=0, erase=0)
"""Pictures stay as they are."""


SELF_BLENDED, UP_SAMPLED = 1, 2
"""What `pseudo` of a batch holds for a fake that was made of a real face; 0 for a sample as it is stored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoFakeConfig:
    """Which share of the real faces drawn in training is turned into fakes by `data.blend`.

    Attributes:
        self_blended: becomes self-blended images: a part of the face over another version of itself.
        up_sampled: gets the traces of a generator's up-sampling.
    """

    self_blended: float = 0.0
    up_sampled: float = 0.0

    def __post_init__(self) -> None:
        for name in ("self_blended", "up_sampled"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not a share in [0, 1]")
        if self.share > 1:
            raise ConfigError(f"self_blended {self.self_blended} and up_sampled {self.up_sampled} exceed 1 together")

    @property
    def share(self) -> float:
        """Of the real faces drawn, how many become fakes of either kind."""
        return self.self_blended + self.up_sampled


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How batches are made.

    Attributes:
        batch_size: samples per step, over all devices of all processes.
        workers: reading processes; 0 reads in threads of this one, which is enough where the step is the slow part.
        balance: `none` draws every sample equally often; `class` as many fakes as reals, fakes made of reals counted
            as fakes; `source` does that too, and within each class draws from every source equally often.
        max_repeats: balancing draws no sample more than so many times as often as `none` would: small sources get
            a smaller share, and a class too small for it is refused.
        leave_out: not trained on: names of sources, or `source/method` for one kind of a source's fakes.
    """

    batch_size: int = 32
    workers: int = 0
    balance: Literal["none", "class", "source"] = "none"
    max_repeats: float = 4.0
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise ConfigError(f"batch size {self.batch_size} and workers {self.workers} must be positive")
        if self.balance not in ("none", "class", "source"):
            raise ConfigError(f"balance {self.balance!r} is not one of none, class, source")
        if not self.max_repeats >= 1:
            raise ConfigError(f"max_repeats {self.max_repeats} is less than 1")
