"""Which files the user means: names, directories, globs, and `-` for standard input.

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
    """The inputs behind the names, in order; an error in place of a name that stands for nothing.

    What a directory or a glob stands for is left out where it was there before: `a.jpg .` has a.jpg once.

    Args:
        names: a file is taken whatever it is called; a directory stands for the files below it with one of the
            extensions, without hidden files and linked folders; a name with `*`, `?` or `[` that is no file is a glob
            (`**` for any depth).
        extensions: lower case, with the dot.
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
            yield OpenError("''", "is no name of a file", "check the variables in the call")
        elif name != STDIN and os.path.isdir(name):  # noqa: PTH112 - the user's spelling is kept
            unreadable: list[OpenError] = []
            inside = _directory(name, extensions, unreadable)
            yield from new(inside)
            yield from unreadable
            if not inside and not unreadable:
                yield OpenError(name, "holds no file of a known kind", f"known: {', '.join(sorted(extensions))}")
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
