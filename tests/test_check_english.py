"""The check of docstrings: it finds the fragments that it is meant to find, and leaves full sentences alone."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "check_english.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("check_english", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("Of the copy.", "begins with 'Of'"),
        ("What a step minimises.", "begins with 'What'"),
        ("Whether it is on.", "begins with 'Whether'"),
        ("How often it runs.", "begins with 'How'"),
        ("Those of the caller.", "begins with 'Those'"),
        ("Returns the first line\n\nMore about it.", "does not end with a full stop: Returns the first line"),
        ("Reads a file that is no picture.", "negates without naming the thing"),
        ("Reads a file.\n\nIts names\nare no texts.", "negates without naming the thing"),
    ],
)
def test_a_breach_is_found_in_every_kind_of_docstring(check, text, problem):
    sources = [
        f'"""{text}"""\n',
        f'class Face:\n    """{text}"""\n',
        f'def face():\n    """{text}"""\n',
        f'SIDE = 2\n"""{text}"""\n',
    ]
    for source in sources:
        ((line, found),) = check.breaches(source)
        assert found.startswith(problem)
        assert line == source[: source.index('"""')].count("\n") + 1


def test_full_sentences_pass(check):
    text = "Returns the face, or None if there is no face.\n\n    Whether it is real is not known here\n"
    assert list(check.breaches(f'def face():\n    """{text}"""\n    return "Of no face"\n')) == []


def test_the_exit_code_tells_what_was_found(check, tmp_path, capsys):
    assert check.main([str(tmp_path)]) == 2
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "good.py").write_text('"""Reads faces."""\n')
    assert check.main([str(tmp_path)]) == 0
    (tmp_path / "inner" / "bad.py").write_text('X = 1\n"""Of faces."""\n')
    capsys.readouterr()
    assert check.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith(f"{tmp_path}/inner/bad.py:2: begins with 'Of'")
