"""Settings of the input pipeline, apart from it, so that a command line can show them without importing JAX or Grain.

Example:
    >>> AugmentConfig(rotation=10)
"""

from __future__ import annotations

import dataclasses

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
    """

    rotation: float = 20.0
    width_shift: float = 0.1
    height_shift: float = 0.1
    zoom: float = 0.1
    horizontal_flip: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.rotation <= 180:
            raise ConfigError(f"rotation {self.rotation} is not between 0 and 180 degrees")
        for name in ("width_shift", "height_shift", "zoom"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)} is not a share in [0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoaderConfig:
    """How batches are made.

    Attributes:
        batch_size: samples per step, over all devices of all processes.
        workers: reading processes; 0 reads in threads of this one, which is enough where the step is the slow part.
    """

    batch_size: int = 32
    workers: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise ConfigError(f"batch size {self.batch_size} and workers {self.workers} must be positive")
