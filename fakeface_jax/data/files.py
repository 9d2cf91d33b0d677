"""Lists and reads the files of a source in the same way in a directory and in a zip archive as downloaded.

Example:
    >>> names = list_files("archive.zip")
    >>> data = read_file("archive.zip", names[0])
"""

from __future__ import annotations

import lzma
import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from fakeface_jax.errors import DataError, LimitExceeded, OpenError
from fakeface_jax.images import MAX_BYTES

_open_archives = threading.local()


def list_files(root: str) -> list[str]:
    """Lists all files below a directory or in a zip archive, sorted, with forward slashes.

    Raises:
        DataError: the root is neither a directory nor a readable zip archive, or a folder in it cannot be listed.
    """
    path = Path(root)
    if path.is_dir():
        return sorted(_walk(path))
    if not path.exists():
        raise DataError(f"{root}: no such file or directory; download it first (see docs/data.md)")
    with _zip(root) as archive:
        return sorted(entry.filename for entry in archive.infolist() if not entry.is_dir())


def _walk(path: Path) -> Iterator[str]:
    def stop(error: OSError) -> None:
        # os.walk would silently skip the folder.
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}; check its permissions") from error

    seen = set()
    for folder, below, names in os.walk(path, followlinks=True, onerror=stop):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            # A link that leads back to a folder above it.
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in names:
            yield (Path(folder) / name).relative_to(path).as_posix()


def read_file(root: str, name: str) -> bytes:
    """Reads the bytes of one file.

    Raises:
        OpenError: the file is missing or unreadable.
        LimitExceeded: the file is larger than a picture may be.
    """
    path = Path(root) / name
    try:
        if Path(root).is_file():
            archive = _opened_zip(root)
            size = archive.getinfo(name).file_size
            if size > MAX_BYTES:
                raise LimitExceeded(path, f"{size / 2**20:.0f} MiB unpacked", "remove it from the archive")
            return archive.read(name)
        if path.stat().st_size > MAX_BYTES:
            raise LimitExceeded(path, f"{path.stat().st_size / 2**20:.0f} MiB", "shrink it")
        return path.read_bytes()
    except KeyError:
        raise OpenError(path, "is not in the archive", "merge the sources again") from None
    except _READ_ERRORS as error:
        raise OpenError(path, f"cannot be read: {error}", "copy or download it again") from error


# ValueError: a name with a null character. RuntimeError: an encrypted member. The others: damaged members.
_READ_ERRORS = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def _opened_zip(root: str) -> zipfile.ZipFile:
    """Opens the archive once per thread: reopening would read the directory of a 140,000-file archive each time."""
    status = Path(root).stat()
    version = (status.st_ino, status.st_mtime_ns, status.st_size)
    archives = _open_archives.__dict__
    if root not in archives or archives[root][0] != version:
        archives[root] = (version, _zip(root))
    return archives[root][1]


def _zip(root: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(root)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{root}: neither a folder nor a readable zip archive: {error}; download it again") from error
