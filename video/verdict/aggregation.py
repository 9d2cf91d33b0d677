"""From the scores of many faces to one score: rules behind one interface, by name.

A rule takes the calibrated logits of a video's faces, with who each belongs to and when it was seen, and gives one
logit. Which rule is best is a matter of measurement: `scripts/compare_aggregations.py` prints them side by side, and
docs/videos.md holds its table. Rules are monotonic enough to rank videos; only the calibration that was fitted for a
rule makes its score a probability (`fakeface_jax.decision.VideoDecision`).

Example:
    >>> aggregate(Scores.of([2.0, 4.0]), "mean_of_logits")
    3.0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64

from fakeface_jax.decision import log_odds, sigmoid
from fakeface_jax.errors import ConfigError

TRIMMED = 0.2
"""Share of the scores that `trimmed_mean` leaves out at either end."""

TOP = 0.25
"""Share of the scores that `top_k` averages."""

CONFIDENT = 0.8
"""P(fake) above which, and below 1 minus which, a face counts as sure (DFDC winner, Deepware)."""

AGREED = 0.9
"""Share of a person's faces that must be sure for Deepware's rule to leave the others out."""

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


def mean_of_logits(scores: Scores) -> float:
    """Mean of the logits: faces that the model is sure of count more than in a mean of probabilities.

    Bonettini et al., "Video Face Manipulation Detection Through Ensemble of CNNs", ICPR 2020 (ISPL).
    """
    return float(np.mean(scores.logits))


def mean(scores: Scores) -> float:
    """Mean of the probabilities, as a logit (DeepfakeBench, GenD)."""
    return log_odds(float(np.mean(sigmoid(scores.logits))))


def median(scores: Scores) -> float:
    """Median of the logits (GenD)."""
    return float(np.median(scores.logits))


def trimmed_mean(scores: Scores) -> float:
    """Mean of the logits without the `TRIMMED` highest and lowest."""
    ordered = np.sort(scores.logits)
    cut = int(len(ordered) * TRIMMED)
    return float(np.mean(ordered[cut : len(ordered) - cut]))


def top_k(scores: Scores) -> float:
    """Mean of the `TOP` highest logits, of at least one."""
    count = max(1, round(len(scores.logits) * TOP))
    return float(np.mean(np.sort(scores.logits)[-count:]))


def confident(scores: Scores) -> float:
    """The rule of the DFDC's winner (Seferbekov, 2020): sure faces decide where there are many of them.

    With n faces, k of them above .8: their mean if k > n // 2.5 and k > 11; else the mean of those below .2 if they
    are more than 9 in 10; else the mean of all. With fewer than 12 faces the first branch is never taken.
    """
    p_fake = sigmoid(scores.logits)
    sure_fake, sure_real = p_fake[p_fake > CONFIDENT], p_fake[p_fake < 1 - CONFIDENT]
    if len(sure_fake) > len(p_fake) // 2.5 and len(sure_fake) > 11:
        return log_odds(float(np.mean(sure_fake)))
    if len(sure_real) > AGREED * len(p_fake):
        return log_odds(float(np.mean(sure_real)))
    return log_odds(float(np.mean(p_fake)))


def deepware(scores: Scores) -> float:
    """Deepware's rule: per person the mean of the sure faces where 9 in 10 are sure of the same, else of all; of those
    the most fake."""
    return max(_agreed_mean(person) for person in scores.by_person())


def worst_person(scores: Scores) -> float:
    """The mean of logits of the person with the highest one."""
    return max(mean_of_logits(person) for person in scores.by_person())


def worst_window(scores: Scores) -> float:
    """The highest mean of logits of anybody over `WINDOW` seconds, with at least `WINDOW_FACES` faces: finds a fake of
    seconds inside a real minute. Over fewer faces than that, the person's mean."""
    return max(_worst_window_of(person) for person in scores.by_person())


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        mean_of_logits,
        mean,
        median,
        trimmed_mean,
        top_k,
        confident,
        deepware,
        worst_person,
        worst_window,
    )
}
"""What `aggregate` knows."""

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


def _agreed_mean(scores: Scores) -> float:
    p_fake = sigmoid(scores.logits)
    for sure in (p_fake > CONFIDENT, p_fake < 1 - CONFIDENT):
        if np.mean(sure) >= AGREED:
            return log_odds(float(np.mean(p_fake[sure])))
    return log_odds(float(np.mean(p_fake)))


def _worst_window_of(scores: Scores) -> float:
    sums = np.concatenate([[0.0], np.cumsum(scores.logits)])
    ends = np.searchsorted(scores.times, scores.times + WINDOW, side="left")
    counts = ends - np.arange(len(scores.times))
    means = (sums[ends] - sums[:-1]) / counts
    enough = counts >= WINDOW_FACES
    return float(np.max(means[enough])) if enough.any() else mean_of_logits(scores)
