"""Files that are written completely or not at all.

Example:
    >>> with whole_file("clip.annotated.mp4", extensions={".mp4"}) as temporary:
    ...     encode(temporary)          # renamed to clip.annotated.mp4 when the block ends without an exception
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Collection, Iterator
from pathlib import Path

from fakeface_jax.errors import OpenError


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], *, extensions: Collection[str] | None = None) -> Iterator[Path]:
    """A temporary file beside the target, which takes the target's place at the end.

    After any exception, Ctrl-C included, the temporary file is gone and an older target is as it was.

    Args:
        path: the target; an existing file is replaced.
        extensions: endings that can be written, lower case, with the dot; None for any.

    Yields:
        The temporary file's path, with the target's ending; it exists and is empty.

    Raises:
        OpenError: unsupported ending, missing directory, no permission, the target is a directory, disk full.
    """
    path = Path(path)
    if extensions is not None and path.suffix.lower() not in extensions:
        ending = repr(path.suffix) if path.suffix else "no ending"
        raise OpenError(path, f"cannot write a file with {ending}", f"name it {' or '.join(sorted(extensions))}")
    if path.is_dir():
        raise OpenError(path, "cannot be written: it is a directory", "name a file in it")
    if not path.parent.is_dir():
        raise OpenError(path, f"cannot be written: there is no directory {path.parent}", "make it first")
    temporary = path.parent / f".fakeface-{os.getpid()}-{secrets.token_hex(4)}{path.suffix.lower()}"
    try:
        # Not tempfile, whose files are private: a result gets the permissions that any new file would.
        temporary.touch(exist_ok=False)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise OpenError(path, f"cannot be written: {error.strerror or error}", "check permissions and space") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


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
