import numpy as np
import pytest

from fakeface_jax.errors import ConfigError
from video.aggregation import DEFAULT_RULE, RULES, aggregate


def test_default_is_the_mean_of_logits():
    assert DEFAULT_RULE == "mean_of_logits"
    assert aggregate(np.array([2.0, 4.0])) == pytest.approx(1 / (1 + np.exp(-3)))


def test_it_is_not_the_mean_of_probabilities():
    logits = np.array([-1.0, 5.0])
    probabilities = 1 / (1 + np.exp(-logits))
    assert aggregate(logits) == pytest.approx(1 / (1 + np.exp(-2)))
    assert abs(aggregate(logits) - probabilities.mean()) > 0.1


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_to_its_contract(rule):
    generator = np.random.default_rng(0)
    for count in (1, 2, 33):
        logits = generator.normal(0, 5, count).astype(np.float32)
        score = aggregate(logits, rule)
        assert isinstance(score, float)
        assert 0 <= score <= 1
        assert aggregate(logits + 1, rule) >= score
    same = np.full(7, 1.5)
    assert aggregate(same, rule) == pytest.approx(1 / (1 + np.exp(-1.5)))
    for extreme in (1e4, -1e4):  # no overflow warning, which would be an error here
        assert aggregate(np.array([extreme]), rule) in (0.0, 1.0)


def test_no_face_has_no_score():
    with pytest.raises(ConfigError, match="without scored faces"):
        aggregate(np.zeros(0))


def test_unknown_rule_names_the_known_ones():
    with pytest.raises(ConfigError, match="'median'; known: mean_of_logits"):
        aggregate(np.zeros(3), "median")
