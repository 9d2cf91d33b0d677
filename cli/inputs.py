"""Expands what the user named (files, directories, globs, and `-` for standard input) into a list of inputs.

Example:
    >>> list(expand(["photos", "more/*.png"], IMAGE_EXTENSIONS))
"""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from fakeface_jax.errors import OpenError

STDIN = "-"


def expand(names: Sequence[str], extensions: Collection[str]) -> Iterator[str | OpenError]:
    """Yields the inputs behind the names, in order, and an error in place of a name that matches nothing.

    A directory or a glob skips files that were already named: `a.jpg .` yields a.jpg once.

    Args:
        names: a file is accepted whatever its ending; a directory stands for the files below it that have one of the
            extensions, without hidden files and linked folders; a name with `*`, `?` or `[` that is not a file is a
            glob (`**` for any depth).
        extensions: accepted endings, in lower case and with the dot.
    """
    given: set[str] = set()

    def new(paths: Iterable[str]) -> Iterator[str]:
        for path in paths:
            place = os.path.realpath(path)
            if place not in given:
                given.add(place)
                yield path

    for name in names:
        if not name:
            yield OpenError("''", "is not a file name", "check that the shell variable is set")
        elif name != STDIN and os.path.isdir(name):  # noqa: PTH112 - the user's spelling is kept
            unreadable: list[OpenError] = []
            inside = _directory(name, extensions, unreadable)
            yield from new(inside)
            yield from unreadable
            if not inside and not unreadable:
                yield OpenError(name, "contains no supported file", f"supported: {', '.join(sorted(extensions))}")
        elif name != STDIN and glob.has_magic(name) and not os.path.lexists(name):
            found = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - absolute patterns too
            files = [path for path in found if not os.path.isdir(path)]  # noqa: PTH112
            yield from new(files)
            if not files:
                yield OpenError(name, "matches no file", "check the pattern")
        else:
            given.add(os.path.realpath(name))
            yield name


def _directory(name: str, extensions: Collection[str], unreadable: list[OpenError]) -> list[str]:
    def note(error: OSError) -> None:
        problem = f"cannot be read: {error.strerror or error}"
        unreadable.append(OpenError(error.filename, problem, "check its permissions"))

    return sorted(
        str(Path(folder) / file)
        for folder, _, files in os.walk(name, onerror=note)
        for file in files
        if Path(file).suffix.lower() in extensions and not file.startswith(".")
    )
