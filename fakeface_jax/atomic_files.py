"""Writes files completely or not at all.

Example:
    >>> with whole_file("clip.annotated.mp4", extensions={".mp4"}) as temporary:
    ...     encode(temporary)          # renamed to clip.annotated.mp4 when the block ends without an exception
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Collection, Iterator
from pathlib import Path

from fakeface_jax.errors import OpenError

_LONGEST_ENDING = 16


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], *, extensions: Collection[str] | None = None) -> Iterator[Path]:
    """Yields a temporary file beside the target and renames it to the target at the end.

    After any exception, including Ctrl-C, the temporary file is removed and an existing target is unchanged.

    Args:
        path: the target; an existing file is replaced. If it is a link, the file that it points to is replaced.
        extensions: endings that can be written, in lower case and with the dot; None allows any.

    Yields:
        The temporary file's path, with the target's ending; it exists and is empty.

    Raises:
        OpenError: the ending is not supported, the directory is missing, permission is denied, the disk is full, or the
            target is something other than a file: a directory, a pipe, a device.
    """
    path = Path(path)
    if extensions is not None and path.suffix.lower() not in extensions:
        ending = repr(path.suffix) if path.suffix else "no ending"
        raise OpenError(path, f"cannot write a file with {ending}", f"name it {' or '.join(sorted(extensions))}")
    target = _file_behind(path)
    # Encoders choose the format by the ending. The rest of the target's name is not used: it may already be as long as
    # a name can be.
    ending = path.suffix.lower()[:_LONGEST_ENDING]
    temporary = target.parent / f".fakeface-{os.getpid()}-{secrets.token_hex(4)}{ending}"
    try:
        # `tempfile` would make a private file; a result gets the permissions of any new file.
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise OpenError(path, f"cannot be written: {error.strerror or error}", "check permissions and space") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _file_behind(path: Path) -> Path:
    """Follows links to the file that a name leads to, whether or not it exists.

    A rename would replace a link, a pipe that somebody reads, or even /dev/null by a file.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not os.path.isdir(target.parent):  # noqa: PTH112 - Path.is_dir raises if the folder may not be entered
            parent = target.parent if path.is_symlink() else path.parent
            raise OpenError(path, f"cannot be written: there is no directory {parent}", "create it first") from None
        return target
    except OSError as error:
        raise OpenError(path, f"cannot be written: {error.strerror or error}", "name another file") from error
    if stat.S_ISDIR(mode):
        raise OpenError(path, "cannot be written: it is a directory", "name a file inside it")
    if not stat.S_ISREG(mode):
        raise OpenError(path, "cannot be written: it is not a regular file", "name another file, or omit it for stdout")
    return target


def make_directory(path: str | os.PathLike[str]) -> Path:
    """Creates the directory, with its parents, unless it exists, and returns it.

    Raises:
        OpenError: the directory cannot be created, or its name belongs to something else.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OpenError(path, f"the directory cannot be created: {error.strerror or error}", "name another") from error
    return path
