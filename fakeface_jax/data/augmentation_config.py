"""Settings of the input pipeline, in a module of their own: the command line shows them without importing JAX or Grain.

Example:
    >>> AugmentConfig(rotation=10)
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from fakeface_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Strength of the warp of training pictures; every draw is uniform and independent per picture.

    Attributes:
        rotation: largest rotation in degrees, in either direction.
        width_shift: largest shift as a share of the width, in either direction.
        height_shift: largest shift as a share of the height, in either direction.
        zoom: zoom factors are drawn from [1 - zoom, 1 + zoom], separately for each axis.
        horizontal_flip: mirror half of the pictures.
        warped: share of the pictures that are rotated, shifted and zoomed. A warp interpolates and so smooths the
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
            raise ConfigError(f"rotation {self.rotation}: must be between 0 and 180 degrees")
        for name in ("width_shift", "height_shift", "zoom"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be a share in [0, 1)")
        if not 0 <= self.warped <= 1:
            raise ConfigError(f"warped {self.warped}: must be a share in [0, 1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DegradeConfig:
    """Frequency and strength of degradations in training; draws are uniform and independent per picture and kind.

    The first six settings are probabilities per picture. Blur and JPEG have the strengths of Wang et al. 2020
    (CNNDetection); their probabilities are lower than its 0.5, because scaling blurs too.

    Attributes:
        colour: probability of a change of hue, saturation, brightness, contrast and shift of RGB, all drawn together.
        blur: probability of a Gaussian blur.
        noise: probability of Gaussian noise, independent per pixel and channel.
        scale: probability of scaling down and up again.
        jpeg: probability of JPEG compression.
        erase: probability of a covered rectangle, filled with the picture's mean or with noise.
        hue: largest change of hue in degrees, in either direction.
        saturation: factors are drawn from [1 - saturation, 1 + saturation].
        brightness: factors are drawn from [1 - brightness, 1 + brightness].
        contrast: factors are drawn from [1 - contrast, 1 + contrast], about the middle of the range.
        rgb_shift: largest shift of a channel, as a share of 255, in either direction.
        blur_sigma: standard deviations are drawn from [0, blur_sigma] pixels.
        noise_sigma: standard deviations are drawn from [0, noise_sigma], as a share of 255.
        scale_least: scaling factors are drawn from [scale_least, 1].
        jpeg_least: lowest quality, 1 to 100.
        jpeg_most: highest quality, 1 to 100.
        jpeg_half_chroma: share of the JPEGs with 4:2:0 chroma; the others have 4:4:4.
        erase_area: largest share of the picture that the rectangle covers.
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
                raise ConfigError(f"{name} {getattr(self, name)}: must be a probability in [0, 1]")
        limits = {"hue": 180, "saturation": 1, "brightness": 1, "contrast": 1, "rgb_shift": 255, "noise_sigma": 255}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} {getattr(self, name)}: must be between 0 and {most}")
        # The length of the kernel, and the cost, grow with the largest sigma.
        if not 0 < self.blur_sigma <= 10:
            raise ConfigError(f"blur_sigma {self.blur_sigma}: must be above 0 and at most 10 pixels")
        for name in ("scale_least", "erase_area"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be a share in (0, 1]")
        if not 1 <= self.jpeg_least <= self.jpeg_most <= 100:
            raise ConfigError(
                f"jpeg_least {self.jpeg_least} and jpeg_most {self.jpeg_most}: need 1 <= jpeg_least <= jpeg_most <= 100"
            )


NO_DEGRADATION = DegradeConfig(colour=0, blur=0, noise=0, scale=0, jpeg=0, erase=0)
"""Settings that leave pictures unchanged."""


SELF_BLENDED, UP_SAMPLED = 1, 2
"""Values of `pseudo` in a batch for a fake that was made from a real face; 0 is a sample as stored."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoFakeConfig:
    """Shares of the real faces drawn in training that `data.pseudo_fakes` turns into fakes.

    Attributes:
        self_blended: share that becomes self-blended images: a part of the face over another version of itself.
        up_sampled: share that gets the traces of a generator's up-sampling.
    """

    self_blended: float = 0.0
    up_sampled: float = 0.0

    def __post_init__(self) -> None:
        for name in ("self_blended", "up_sampled"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be a share in [0, 1]")
        if self.share > 1:
            raise ConfigError(
                f"self_blended {self.self_blended} and up_sampled {self.up_sampled} sum to more than 1; lower one"
            )

    @property
    def share(self) -> float:
        """Returns the share of the real faces drawn that become fakes of either kind."""
        return self.self_blended + self.up_sampled


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """Settings of the batches.

    Attributes:
        batch_size: samples per step, over all devices of all processes.
        workers: number of reading processes; 0 reads in threads of this process, which suffices if the step is the slow
            part.
        balance: `none` draws every sample equally often; `class` draws as many fakes as reals, where fakes made of
            reals count as fakes; `source` does this too, and within each class draws from every source equally often.
        max_repeats: balancing draws no sample more than this many times as often as `none` would: small sources get a
            smaller share, and a class that is too small for it is refused.
        leave_out: names to exclude from training: a source, or `source/method` for one kind of a source's fakes.
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
            raise ConfigError(f"balance {self.balance!r} is unknown; use none, class or source")
        if not self.max_repeats >= 1:
            raise ConfigError(f"max_repeats {self.max_repeats}: must be at least 1")
