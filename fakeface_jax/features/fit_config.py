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
"""Sources whose fakes were generated as whole pictures; the fakes of all other sources are altered real pictures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Settings of the heads. The defaults were chosen by leaving sources out (docs/detector.md).

    Attributes:
        taps: indices into the cache's taps.
        statistics: indices into `fakeface_jax.backbones.STATISTICS`.
        components: number of principal components that are kept.
        penalty: factor of the squared weights of standardised components, relative to a mean log loss.
        steps: steps of the gradient method.
        fitted_views: views whose rows are fitted.
    """

    taps: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    statistics: tuple[int, ...] = (0, 1)
    components: int = 384
    penalty: float = 3e-4
    steps: int = 300
    fitted_views: str = "drawn-0"

    def __post_init__(self) -> None:
        if not self.taps or not self.statistics or self.components < 1 or self.steps < 1 or self.penalty <= 0:
            raise ConfigError("a head needs at least one tap, statistic, component and step, and a positive penalty")
        if list(self.taps) != sorted(set(self.taps)) or list(self.statistics) != sorted(set(self.statistics)):
            raise ConfigError("taps and statistics of a head must be distinct and in ascending order")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of a fit: a head for changed faces, one for generated faces, and a small network beside them.

    Attributes:
        output: the run directory; the bundle is written to its subdirectory `bundle`.
        head: settings of the heads on the features.
        changed: weight of the logits of the head for changed faces (swaps, blends, lip-sync), after all logits were
            scaled to the same spread.
        generated: weight of the logits of the head for generated faces.
        detail: weight of the logits of the small network.
        fakes_alone: weight of a source that has only generated fakes, relative to one with both classes.
        generators: sources whose fakes are generated as whole pictures.
        scored_view: view that is scored when sources are left out.
    """

    output: Path
    head: HeadConfig = HeadConfig()
    changed: float = 1.0
    generated: float = 1.5
    detail: float = 1.0
    fakes_alone: float = 0.15
    generators: tuple[str, ...] = GENERATED
    scored_view: str = "web"
