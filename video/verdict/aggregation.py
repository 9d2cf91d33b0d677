"""Turns the scores of many faces into one score, by one of two rules.

A rule takes the calibrated logits of a video's faces, with who each belongs to and when it was seen, and gives one
logit. `worst_person` is the default; `worst_window` finds a fake of seconds in a long real video and errs more often.
`scripts/compare_aggregations.py` measures both against seven others, and docs/videos.md holds its table. Rules rank
videos; only the calibration that was fitted for a rule makes its score a probability
(`fakeface_jax.decision.VideoDecision`).

Example:
    >>> aggregate(Scores.of([2.0, 4.0]), "worst_person")
    3.0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64

from fakeface_jax.errors import ConfigError

WINDOW = 2.0
"""Seconds that `worst_window` averages over."""

WINDOW_FACES = 4
"""Least faces in a window: the worst of many single faces is an outlier."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """Scored faces of one video.

    Attributes:
        logits: calibrated, in order of time.
        people: the number of the person each belongs to.
        times: seconds.
    """

    logits: Float64[np.ndarray, " n"]
    people: Int64[np.ndarray, " n"]
    times: Float64[np.ndarray, " n"]

    def __post_init__(self) -> None:
        if not len(self.logits):
            raise ConfigError("a video without scored faces has no score to aggregate")
        if not np.isfinite(self.logits).all():
            raise ConfigError("scores to aggregate are not finite")

    @classmethod
    def of(
        cls, logits: Sequence[float], people: Sequence[int] | None = None, times: Sequence[float] | None = None
    ) -> Scores:
        """From plain sequences; one person, and a face a second, where nothing else is said."""
        count = len(logits)
        return cls(
            logits=np.asarray(logits, np.float64),
            people=np.asarray(people if people is not None else [1] * count, np.int64),
            times=np.asarray(times if times is not None else range(count), np.float64),
        )

    def only(self, rows: Bool[np.ndarray, " n"]) -> Scores:
        """Some of them."""
        return Scores(logits=self.logits[rows], people=self.people[rows], times=self.times[rows])

    def by_person(self) -> list[Scores]:
        """Everybody's own."""
        return [self.only(self.people == number) for number in np.unique(self.people)]


Rule = Callable[[Scores], float]
"""Scores of at least one face in, one logit out."""


def worst_person(scores: Scores) -> float:
    """Returns the highest mean of logits of any person.

    In a mean of logits, faces that the model is sure of count more than in a mean of probabilities (Bonettini et al.,
    "Video Face Manipulation Detection Through Ensemble of CNNs", ICPR 2020).
    """
    return max(float(np.mean(person.logits)) for person in scores.by_person())


def worst_window(scores: Scores) -> float:
    """Returns the highest mean of logits of any person over `WINDOW` seconds, with at least `WINDOW_FACES` faces.

    Of a person with fewer faces than that in every window, the mean of all is taken.
    """
    return max(_worst_window_of(person) for person in scores.by_person())


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (worst_person, worst_window)}
"""The rules by name."""

DEFAULT_RULE = "worst_person"
"""Used with a model that names none for videos."""


def aggregate(scores: Scores, rule: str = DEFAULT_RULE) -> float:
    """One logit of many.

    Args:
        scores: of the faces that count.
        rule: one of `RULES`.

    Raises:
        ConfigError: unknown rule.
    """
    check_rule(rule)
    return RULES[rule](scores)


def check_rule(rule: str) -> None:
    """Raises `ConfigError` for a rule that does not exist."""
    if rule not in RULES:
        raise ConfigError(f"unknown aggregation rule {rule!r}; known: {', '.join(RULES)}")


def _worst_window_of(scores: Scores) -> float:
    sums = np.concatenate([[0.0], np.cumsum(scores.logits)])
    ends = np.searchsorted(scores.times, scores.times + WINDOW, side="left")
    counts = ends - np.arange(len(scores.times))
    means = (sums[ends] - sums[:-1]) / counts
    enough = counts >= WINDOW_FACES
    return float(np.max(means[enough])) if enough.any() else float(np.mean(scores.logits))
