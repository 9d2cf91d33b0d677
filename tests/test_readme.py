"""What the README tells people to type works as written."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
from conftest import REPOSITORY

from fakeface_jax.cli.main import main

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.strip()
    for block in re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.strip().startswith("#")
]
SAMPLE_COMMANDS = [line for line in COMMANDS if line.startswith("fakeface") and "samples/" in line]
MAKE_TARGETS = sorted(
    {word for line in COMMANDS if line.startswith("make ") for word in line.split(" #")[0].split()[1:]}
)


def test_the_readme_has_commands_to_check():
    assert len(SAMPLE_COMMANDS) >= 3
    assert {"demo", "test"} <= set(MAKE_TARGETS)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch")


@pytest.mark.parametrize("command", SAMPLE_COMMANDS)
def test_sample_command(command, scratch, capsys):
    words = shlex.split(command.split(" #")[0])[1:]
    # Results go to a scratch folder, samples come from the repository; globs are the shell's work.
    arguments = []
    for before, word in zip([None, *words], words, strict=False):
        if before in ("--save", "--output", "--frame-table", "--html", "--reports"):
            arguments.append(str(scratch / word))
        elif word.startswith("reports/"):  # of a command before
            arguments += sorted(str(path) for path in scratch.glob(word))
        elif "*" in word:
            arguments += sorted(str(path) for path in REPOSITORY.glob(word))
        else:
            arguments.append(str(REPOSITORY / word) if word.startswith("samples/") else word)
    assert main(arguments) == 0
    assert capsys.readouterr().out or any(scratch.iterdir())


@pytest.mark.parametrize("target", MAKE_TARGETS)
def test_make_target_exists(target):
    result = subprocess.run(["make", "--dry-run", target], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_every_linked_file_exists():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (REPOSITORY / link).exists(), link
