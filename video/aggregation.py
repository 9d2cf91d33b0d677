"""From the scores of many faces to one score of the video.

Rules are functions of calibrated logits, by name, so that a report can say which one was used. Faces are not yet
followed over time: the scores of everybody in the video go into one pool, and a fake face beside a real one pulls the
video's score to the middle. (Issue 4's `tracks.py` separates people; rules per person come with it.)

Example:
    >>> aggregate(np.array([2.0, 4.0]))       # sigmoid(3)
    0.9525741268224334
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from fakeface_jax.decision import sigmoid
from fakeface_jax.errors import ConfigError

Rule = Callable[[Float[np.ndarray, " n"]], float]
"""Calibrated logits of at least one face in, P(fake) of the video in [0, 1] out."""


def mean_of_logits(logits: Float[np.ndarray, " n"]) -> float:
    """Sigmoid of the mean logit.

    Bonettini et al., "Video Face Manipulation Detection Through Ensemble of CNNs", ICPR 2020 (ISPL, Politecnico di
    Milano). Against the mean of probabilities, frames that the model is sure of count more.
    """
    return float(sigmoid(np.asarray(np.mean(logits, dtype=np.float64))))


RULES: dict[str, Rule] = {"mean_of_logits": mean_of_logits}
"""What `aggregate` knows; the first is the default."""

DEFAULT_RULE = next(iter(RULES))


def aggregate(logits: Float[np.ndarray, " n"], rule: str = DEFAULT_RULE) -> float:
    """P(fake) of a video, in [0, 1].

    Args:
        logits: calibrated, one per scored face, in order of time.
        rule: one of `RULES`.

    Raises:
        ConfigError: unknown rule, or no face at all (a video without faces has no score).
    """
    if rule not in RULES:
        raise ConfigError(f"unknown aggregation rule {rule!r}; known: {', '.join(RULES)}")
    if not len(logits):
        raise ConfigError("a video without scored faces has no score to aggregate")
    return RULES[rule](logits)
