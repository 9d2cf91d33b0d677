"""Settings of `fakeface fit`.

Example:
    >>> FitConfig(output=Path("runs/detector"), head=HeadConfig(taps=(1, 3, 5, 6)))
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fakeface_jax.errors import ConfigError

GENERATED = (
    "140k",
    "celebvtext",
    "ecuador_flux_lora",
    "gpt4o_jamez",
    "gpt4o_nanobanana_gallery",
    "kurlyto_portraits",
    "oldgan",
    "prompted_faces_768",
    "studio_gan_512",
    "tpdne_basemax",
)
"""Sources whose fakes are pictures that a generator made whole; those of all others change a real picture."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Settings of the heads. The defaults are what leaving sources out chose (docs/detector.md).

    Attributes:
        taps: places among the cache's taps.
        statistics: places among `fakeface_jax.backbones.STATISTICS`.
        components: principal components that are kept.
        penalty: of the squared weights of standardised components, for a mean log loss.
        steps: of the gradient method.
        fitted_views: rows of this view are fitted.
    """

    taps: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    statistics: tuple[int, ...] = (0, 1)
    components: int = 384
    penalty: float = 3e-4
    steps: int = 300
    fitted_views: str = "drawn-0"

    def __post_init__(self) -> None:
        if not self.taps or not self.statistics or self.components < 1 or self.steps < 1 or self.penalty <= 0:
            raise ConfigError("a head needs taps, statistics, components, steps and a positive penalty")
        if list(self.taps) != sorted(set(self.taps)) or list(self.statistics) != sorted(set(self.statistics)):
            raise ConfigError("taps and statistics of a head are given once each, in ascending order")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of a fit: a head for changed faces, one for generated faces, and a small network beside them.

    Attributes:
        output: the run directory; the bundle is written into `bundle` in it.
        head: of the features.
        changed: what the logits of the head for changed faces (swaps, blends, lip-sync) count, once all spread alike.
        generated: what those of the head for generated faces count.
        detail: what those of the small network count.
        fakes_alone: weight of a source of generated fakes alone, relative to one with both classes.
        generators: sources whose fakes are generated whole.
        scored_view: faces of this view are scored when sources are left out.
    """

    output: Path
    head: HeadConfig = HeadConfig()
    changed: float = 1.0
    generated: float = 1.5
    detail: float = 1.0
    fakes_alone: float = 0.15
    generators: tuple[str, ...] = GENERATED
    scored_view: str = "web"
