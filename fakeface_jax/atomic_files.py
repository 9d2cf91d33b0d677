"""Files that are written completely or not at all.

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
    """A temporary file beside the target, which takes the target's place at the end.

    After any exception, Ctrl-C included, the temporary file is gone and an older target is as it was.

    Args:
        path: the target; an existing file is replaced. Where it is a link, the file behind it is.
        extensions: endings that can be written, lower case, with the dot; None for any.

    Yields:
        The temporary file's path, with the target's ending; it exists and is empty.

    Raises:
        OpenError: unsupported ending, missing directory, no permission, disk full, or the target is something else than
            a file: a directory, a pipe, a device.
    """
    path = Path(path)
    if extensions is not None and path.suffix.lower() not in extensions:
        ending = repr(path.suffix) if path.suffix else "no ending"
        raise OpenError(path, f"cannot write a file with {ending}", f"name it {' or '.join(sorted(extensions))}")
    target = _file_behind(path)
    # Encoders go by the ending. Nothing else is taken from the target's name, which may be as long as names can be.
    ending = path.suffix.lower()[:_LONGEST_ENDING]
    temporary = target.parent / f".fakeface-{os.getpid()}-{secrets.token_hex(4)}{ending}"
    try:
        # Not tempfile, whose files are private: a result gets the permissions that any new file would.
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.replace(target)
    except OSError as error:
        raise OpenError(path, f"cannot be written: {error.strerror or error}", "check permissions and space") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _file_behind(path: Path) -> Path:
    """The file that a name leads to, links followed, whether it is there already or not.

    A rename would put a file in the place of a link, of a pipe that somebody reads, or even of /dev/null.
    """
    target = Path(os.path.realpath(path))
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if not os.path.isdir(target.parent):  # noqa: PTH112 - Path.is_dir raises for a folder that may not be entered
            parent = target.parent if path.is_symlink() else path.parent
            raise OpenError(path, f"cannot be written: there is no directory {parent}", "make it first") from None
        return target
    except OSError as error:
        raise OpenError(path, f"cannot be written: {error.strerror or error}", "name another file") from error
    if stat.S_ISDIR(mode):
        raise OpenError(path, "cannot be written: it is a directory", "name a file in it")
    if not stat.S_ISREG(mode):
        raise OpenError(path, "cannot be written: it is no ordinary file", "name another file, or none for stdout")
    return target


def make_directory(path: str | os.PathLike[str]) -> Path:
    """The directory, made with its parents where it is missing.

    Raises:
        OpenError: it cannot be made, or something else has its name.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OpenError(path, f"cannot be made a directory: {error.strerror or error}", "name another") from error
    return path
