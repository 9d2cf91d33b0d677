"""Chooses where results are written: a file for one input, a directory for several, and never over an input or result.

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
"""Bytes of an input's name that are kept in the name of its result. A file name has at most 255 bytes."""


class Targets:
    """Output paths for each input: the named file for a single input, files in the named directory for several.

    Targets that cannot work are refused at once, before anything is scored.

    Args:
        save: the file or directory; None when nothing is written.
        extensions: endings that can be written.
        names: the inputs as the user named them.
        inputs: the files that these names stand for.
        taken: identities of files that must not be overwritten; grows with every path that is handed out.
        option: the option that named `save`, for error messages.
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
            # Methods of Path raise for a name that is too long and for a directory that may not be entered.
            raise ConfigError(
                f"{self._option} {save}: cannot be written: {error.strerror or error}; name another path"
            ) from error

    def _check(self, save: Path, extensions: Collection[str], *, many: bool) -> None:
        if save.suffix and not save.is_dir():
            if many:
                raise ConfigError(
                    f"{self._option} {save}: several inputs need a directory; create it first, or name one"
                )
            if save.suffix.lower() not in extensions:
                known = " or ".join(sorted(extensions))
                raise ConfigError(
                    f"{self._option} {save}: {save.suffix} files cannot be written; use {known}, or name a directory"
                )
            if not save.parent.is_dir():
                raise ConfigError(f"{self._option} {save}: the directory {save.parent} does not exist; create it first")
            self._single = True
            return
        there = next(path for path in (save, *save.absolute().parents) if path.exists())
        if not there.is_dir():
            raise ConfigError(f"{self._option} {save}: cannot be created: {there} is a file; name another path")

    def path(self, name: str, extension: str) -> Path:
        """Returns the output path for one input, a different one for each call."""
        if self._save is None or self._single:
            return self._save or Path()
        try:
            # Created only when there is something to save: a wrong model leaves no empty directory behind.
            self._save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OpenError(
                self._save, f"cannot be created: {error.strerror}", f"name another directory with {self._option}"
            ) from error
        stem = "stdin" if name == STDIN else short_stem(name)
        number = 1
        # Inputs in different folders may share a name; a result must not overwrite an input or another result.
        while True:
            path = self._save / f"{stem}-scored{'' if number == 1 else f'-{number}'}{extension}"
            mine = identities(path)
            if not mine & self._taken:
                self._taken |= mine
                return path
            number += 1


def short_stem(name: str) -> str:
    """Returns an input's name without folder and ending, shortened where it is too long for a file name."""
    stem = Path(name).stem
    while len(os.fsencode(stem)) > _LONGEST_STEM:
        stem = stem[:-1]
    return stem


def distinct(files: Mapping[str, Path | None], inputs: Sequence[str | OpenError]) -> set[object]:
    """Returns the identities of all files that are read or written.

    Args:
        files: the output paths, by the option that names each.
        inputs: the inputs.

    Raises:
        ConfigError: an output would overwrite an input or another output.
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
                raise ConfigError(f"{option} {path}: is also the file of {other}; name another file")
        written[option] = mine
    return read.union(*written.values())


def identities(name: str | Path) -> set[object]:
    """Returns what two names of the same file have in common: its resolved path, and its device and inode numbers."""
    found: set[object] = set() if name == STDIN else {os.path.realpath(name)}
    with contextlib.suppress(OSError):
        # The shell may have opened a file as standard input.
        status = os.fstat(0) if name == STDIN else os.stat(name)  # noqa: PTH116 - a name or a path
        found.add((status.st_dev, status.st_ino))
    return found
