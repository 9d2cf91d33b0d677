"""Checks docstrings for the crudest breaches of the house rule: a full sentence that begins with a verb or a noun.

    python scripts/check_english.py fakeface_jax/cli fakeface_jax/models

Prints each breach as PATH:LINE: PROBLEM and exits with 1 if there are any. Folders are searched with their subfolders.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

FIRST_WORDS = ("Of ", "What ", "Whether ", "How ", "By all", "That of", "Those of", "As ", "Where ")
"""Beginnings of fragments: a docstring says what something is or does."""

NEGATIONS = (" is no ", " are no ")
"""Negations that do not name the thing ("is no number", not "is not a number"). "There is no ..." does name it."""


def main(arguments: Sequence[str]) -> int:
    """Checks the named folders and files; returns 1 if there is a breach, 2 if nothing was found to check, else 0."""
    paths = [path for name in arguments for path in _python_files(Path(name))]
    if not paths:
        print("check_english: name folders or files with Python code", file=sys.stderr)
        return 2
    found = [f"{path}:{line}: {problem}" for path in paths for line, problem in breaches(path.read_text("utf-8"))]
    print("\n".join(found) or f"{len(paths)} files: no breaches")
    return 1 if found else 0


def breaches(source: str) -> Iterator[tuple[int, str]]:
    """Yields line and problem of each breach in the docstrings of a module, including those below assignments."""
    for line, text in docstrings(source):
        summary = " ".join(text.strip().split("\n\n")[0].split())
        if summary.startswith(FIRST_WORDS):
            yield line, f"begins with {summary.split()[0]!r}: {summary[:60]}"
        if not summary.endswith((".", "?", "!", ":")):
            yield line, f"does not end with a full stop: {summary[-60:]}"
        flat = re.sub(r"\b[Tt]here (is|are) no ", "", " ".join(text.split()))
        for negation in NEGATIONS:
            if negation in flat:
                at = flat.index(negation)
                yield line, f"negates without naming the thing: {flat[max(0, at - 30) : at + 30]}"


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yields line and text of every string that is a statement of its own."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def _python_files(path: Path) -> list[Path]:
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
