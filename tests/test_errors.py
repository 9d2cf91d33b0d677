import pickle

import pytest

from fakeface_jax import errors


@pytest.mark.parametrize("kind", [errors.OpenError, errors.DecodeError, errors.LimitExceeded])
def test_media_errors_name_the_input_the_problem_and_the_remedy(kind):
    error = kind("clip.mp4", "no such file", "check the path")
    assert str(error) == "clip.mp4: no such file (check the path)"
    assert isinstance(error, errors.MediaError)
    assert isinstance(error, errors.FakeFaceError)


def test_a_media_error_without_remedy_has_no_brackets():
    assert str(errors.MediaError("a.jpg", "no face found")) == "a.jpg: no face found"


def test_media_errors_survive_pickling_between_processes():
    error = pickle.loads(pickle.dumps(errors.DecodeError("a.jpg", "damaged", "copy it again")))
    assert type(error) is errors.DecodeError
    assert (error.source, error.problem, error.remedy) == ("a.jpg", "damaged", "copy it again")


def test_a_media_error_is_one_line_whatever_it_quotes():
    assert str(errors.OpenError("two\nlines.jpg", "a\r\nb", "c\n")) == r"two\nlines.jpg: a\r\nb (c\n)"


@pytest.mark.parametrize("kind", [errors.ConfigError, errors.DataError, errors.BundleError, errors.MediaError])
def test_all_errors_have_one_base(kind):
    assert issubclass(kind, errors.FakeFaceError)
    assert not issubclass(kind, (OSError, ValueError))


def test_a_file_name_neither_commands_the_terminal_nor_forges_lines():
    text = str(errors.OpenError("\x1b[2Jq\ny.jpg: fake\u202e\x07é", "is bad"))
    assert text.isprintable()
    assert "\\x1b[2J" in text
    assert "\\u202e" in text
    assert "é" in text
