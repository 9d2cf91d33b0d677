"""Where results go: a file for one input, a directory for several, and never onto an input or another result.

Example:
    >>> taken = distinct({"--output": output, "--save": save}, inputs)
    >>> targets = Targets(save, {".png"}, names, inputs, taken)
    >>> targets.path("portrait.jpg", ".png")
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from fakeface_jax.cli.inputs import STDIN
from fakeface_jax.errors import ConfigError, OpenError

_LONGEST_STEM = 200
"""Bytes of an input's name that its picture is named by. A name has 255 at most, and more is added to it."""


class Targets:
    """Where what is made of each input goes: the named file for one input, files in the named directory for several.

    What cannot work is refused here, before anything is scored.

    Args:
        save: the file or directory; None where nothing is made.
        extensions: endings that can be written.
        names: as the user gave them.
        inputs: what they stand for.
        taken: identities that may not be written to; grows with every path given out.
        option: how the user named it.
    """

    def __init__(
        self,
        save: Path | None,
        extensions: Collection[str],
        names: Sequence[str],
        inputs: Sequence[str | OpenError],
        taken: set[object],
        *,
        option: str = "--save",
    ) -> None:
        self._save = save
        self._option = option
        self._taken = taken
        self._single = False
        if save is None:
            return
        many = len(names) > 1 or list(names) != list(inputs)
        try:
            self._check(save, extensions, many=many)
        except OSError as error:
            # Path's questions raise for a name that is too long and for a directory that may not be entered.
            raise ConfigError(
                f"{self._option} {save}: cannot be written: {error.strerror or error}; name another"
            ) from error

    def _check(self, save: Path, extensions: Collection[str], *, many: bool) -> None:
        if save.suffix and not save.is_dir():
            if many:
                raise ConfigError(
                    f"{self._option} {save}: several inputs need a directory; make it first, or name another"
                )
            if save.suffix.lower() not in extensions:
                known = " or ".join(sorted(extensions))
                raise ConfigError(
                    f"{self._option} {save}: cannot write {save.suffix}; name it {known}, or name a directory"
                )
            if not save.parent.is_dir():
                raise ConfigError(f"{self._option} {save}: there is no directory {save.parent}; make it first")
            self._single = True
            return
        there = next(path for path in (save, *save.absolute().parents) if path.exists())
        if not there.is_dir():
            raise ConfigError(f"{self._option} {save}: cannot be made a directory: {there} is a file; name another")

    def path(self, name: str, extension: str) -> Path:
        """Where the result of one input goes; another place for each call."""
        if self._save is None or self._single:
            return self._save or Path()
        try:
            # Not before there is something to save: a wrong model leaves no empty directory behind.
            self._save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OpenError(
                self._save, f"cannot be made: {error.strerror}", f"name another for {self._option}"
            ) from error
        stem = "stdin" if name == STDIN else short_stem(name)
        number = 1
        # Inputs of different folders may share a name; none may overwrite another's picture, or an input.
        while True:
            path = self._save / f"{stem}-scored{'' if number == 1 else f'-{number}'}{extension}"
            mine = identities(path)
            if not mine & self._taken:
                self._taken |= mine
                return path
            number += 1


def short_stem(name: str) -> str:
    """What results of an input are named by: its name without folder and ending, cut where that is too long."""
    stem = Path(name).stem
    while len(os.fsencode(stem)) > _LONGEST_STEM:
        stem = stem[:-1]
    return stem


def distinct(files: Mapping[str, Path | None], inputs: Sequence[str | OpenError]) -> set[object]:
    """Identities of all that is read and written.

    Args:
        files: what is written, by the option that names it.
        inputs: what is read.

    Raises:
        ConfigError: an input would be overwritten, or one result by another.
    """
    read: set[object] = set().union(*(identities(name) for name in inputs if isinstance(name, str)))
    written: dict[str, set[object]] = {}
    for option, path in files.items():
        if path is None:
            continue
        mine = identities(path)
        if mine & read:
            raise ConfigError(f"{option} {path}: is the input itself; name another file")
        for other, taken in written.items():
            if mine & taken:
                raise ConfigError(f"{option} {path}: is what {other} names too; name another file")
        written[option] = mine
    return read.union(*written.values())


def identities(name: str | Path) -> set[object]:
    """What two names of the same file have in common: the path without links, or the file's number."""
    found: set[object] = set() if name == STDIN else {os.path.realpath(name)}
    with contextlib.suppress(OSError):
        # The shell may have opened a file as standard input.
        status = os.fstat(0) if name == STDIN else os.stat(name)  # noqa: PTH116 - a name or a path
        found.add((status.st_dev, status.st_ino))
    return found
