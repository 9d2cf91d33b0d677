"""Each rule against its definition, worked out by hand or by a plain loop."""

import numpy as np
import pytest

from fakeface_jax.errors import ConfigError
from fakeface_jax.video.verdict.aggregation import RULES, Scores, aggregate


def logit(p):
    return float(np.log(p / (1 - p)))


def of(probabilities, **places):
    return Scores.of([logit(p) for p in probabilities], **places)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_equal_scores_and_rises_with_them(rule):
    assert aggregate(Scores.of([1.5] * 20), rule) == pytest.approx(1.5, abs=1e-9)
    low, high = Scores.of(np.linspace(-2, 1, 20).tolist()), Scores.of(np.linspace(0, 3, 20).tolist())
    assert aggregate(low, rule) < aggregate(high, rule)


@pytest.mark.parametrize("rule", RULES)
def test_one_face_and_certain_faces_have_a_finite_score(rule):
    assert aggregate(Scores.of([-0.7]), rule) == pytest.approx(-0.7, abs=1e-9)
    assert np.isfinite(aggregate(Scores.of([800.0] * 30), rule))
    assert np.isfinite(aggregate(Scores.of([-800.0] * 30), rule))


def test_rules_per_person_take_the_most_fake_one():
    people = [1, 2] * 10
    scores = of([0.2, 0.7] * 10, people=people)
    assert aggregate(scores, "worst_person") == pytest.approx(logit(0.7))
    assert aggregate(scores, "worst_window") == pytest.approx(logit(0.7))
    assert aggregate(Scores.of([0.0, 1.0, 5.0]), "worst_person") == pytest.approx(2.0)


def test_the_worst_window_finds_a_short_fake():
    times = np.arange(0, 60, 0.5)
    logits = np.where((times >= 27) & (times < 30), 3.0, -2.0)
    scores = Scores.of(logits.tolist(), times=times.tolist())
    assert aggregate(scores, "worst_window") == pytest.approx(3.0)
    assert aggregate(scores, "worst_person") < -1.5
    plain = max(
        np.mean(logits[(times >= start) & (times < start + 2.0)])
        for start in times
        if ((times >= start) & (times < start + 2.0)).sum() >= 4
    )
    assert aggregate(scores, "worst_window") == pytest.approx(plain)
    sparse = Scores.of([5.0, -1.0, -1.0], times=[0.0, 10.0, 20.0])
    assert aggregate(sparse, "worst_window") == pytest.approx(1.0)


def test_what_cannot_be_aggregated_is_refused():
    with pytest.raises(ConfigError, match="unknown aggregation rule 'best'; known: worst_person, worst_window"):
        aggregate(Scores.of([1.0]), "best")
    with pytest.raises(ConfigError, match="without scored faces"):
        Scores.of([])
    with pytest.raises(ConfigError, match="not finite"):
        Scores.of([1.0, float("nan")])
