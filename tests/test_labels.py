import pytest

from fakeface_jax.errors import DataError
from fakeface_jax.labels import Label, Verdict, parse_label


def test_fake_is_the_positive_class():
    assert (int(Label.REAL), int(Label.FAKE)) == (0, 1)
    assert [str(label) for label in Label] == ["real", "fake"]


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("real", Label.REAL),
        ("REAL", Label.REAL),
        (" training_real ", Label.REAL),
        ("original", Label.REAL),
        ("0", Label.REAL),
        (0, Label.REAL),
        ("Fake", Label.FAKE),
        ("training_fake", Label.FAKE),
        ("1", Label.FAKE),
        (1, Label.FAKE),
    ],
)
def test_labels_are_mapped_by_word(word, label):
    assert parse_label(word) is label


@pytest.mark.parametrize("words", [("fake", "real"), ("real", "fake"), ("training_fake", "training_real")])
def test_alphabetical_order_of_the_words_does_not_matter(words):
    assert {word: int(parse_label(word)) for word in words} == {word: int("fake" in word) for word in words}


@pytest.mark.parametrize("word", ["", "2", "-1", "reals", "not fake", "true", True, "1.0", "fake/", "none"])
def test_nothing_is_guessed_about_other_words(word):
    with pytest.raises(DataError, match="is not a label"):
        parse_label(word)


def test_verdicts_are_the_words_reports_use():
    assert [str(verdict) for verdict in Verdict] == ["real", "fake", "inconclusive", "no_face"]
