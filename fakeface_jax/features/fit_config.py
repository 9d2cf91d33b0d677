"""Settings of `fakeface fit`.

Example:
    >>> FitConfig(output=Path("runs/detector"), head=HeadConfig(taps=(1, 3, 5, 6)))
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fakeface_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Settings of the head. The defaults are what leaving sources out chose (docs/detector.md).

    Attributes:
        taps: selects among the taps of the cache, by their places.
        statistics: selects among `fakeface_jax.backbones.STATISTICS`, by their places.
        components: keeps so many principal components.
        penalty: weighs the squared weights of standardised components against the mean log loss.
        steps: ends the gradient method after so many steps.
        fitted_views: selects the rows that are fitted on, by their views.
    """

    taps: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6)
    statistics: tuple[int, ...] = (0, 1)
    components: int = 640
    penalty: float = 1e-4
    steps: int = 300
    fitted_views: tuple[str, ...] = ("drawn-0", "clean")

    def __post_init__(self) -> None:
        if not self.taps or not self.statistics or self.components < 1 or self.steps < 1 or self.penalty <= 0:
            raise ConfigError("a head needs at least one tap, statistic, component and step, and a positive penalty")
        if list(self.taps) != sorted(set(self.taps)) or list(self.statistics) != sorted(set(self.statistics)):
            raise ConfigError("taps and statistics of a head are given once each, in ascending order")
        if not self.fitted_views:
            raise ConfigError("a head needs views to be fitted on")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of a fit: a head on features, and a small network beside it.

    Attributes:
        output: names the run directory; the bundle is written into `bundle` in it.
        head: settings of the head.
        head_share: weighs the logits of the head; 0 leaves the small network alone, for comparison.
        detail: weighs the logits of the small network; both spread alike over reals before they are weighed.
        scored_view: selects the faces that are scored when sources are left out, by their view.
    """

    output: Path
    head: HeadConfig = HeadConfig()
    head_share: float = 1.0
    detail: float = 1.0
    scored_view: str = "clean"
