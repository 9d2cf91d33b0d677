"""Which files a process may open, decided by itself and for ever: Linux's Landlock, without a library.

A decoder needs its own program and the one file it was given. Whatever a hostile file makes it ask for beyond that,
it does not get (https://docs.kernel.org/userspace-api/landlock.html).

Example:
    >>> restrict(readable=["/usr", "/proc/self/fd/5"], writable=[])
    True
    >>> open("/etc/passwd")
    PermissionError: [Errno 13] Permission denied: '/etc/passwd'
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""Numbers of the calls, the same on all platforms."""

_ASK_VERSION = 1
_PATH_BENEATH = 1

_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_FILE, _TRUNCATE = 1 << 5, 1 << 8, 1 << 14
_OF_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE
_READ = _READ_FILE | _READ_DIR
_WRITE = _READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_FILE | _TRUNCATE

_KNOWN = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many rights over files each version of the interface knows; later ones know those of 5."""

_SIGNALS = 3
"""Neither abstract Unix sockets nor processes outside can be reached; from version 6 on."""

_TCP = 3
"""Neither listening nor connecting; from version 4 on."""


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The version of Landlock's interface that this process can use; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(ctypes.c_long(_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION))
    return max(0, int(version))


def restrict(*, readable: Iterable[str | Path], writable: Iterable[str | Path], network: bool = False) -> bool:
    """Lets this thread, and those it starts, open nothing but these; `PR_SET_NO_NEW_PRIVS` must be set.

    What is open already stays usable. To be called before there are other threads.

    Args:
        readable: files, and directories with all below them; those that do not exist are left out.
        writable: directories in which files can be made, written and removed.
        network: whether TCP can be used.

    Returns:
        Whether it is in force; False where the platform has no such thing.
    """
    version = abi()
    if version < 1:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    handled = (1 << _KNOWN.get(version, 16)) - 1
    attributes = _Ruleset(handled, 0 if network or version < 4 else _TCP, _SIGNALS if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(ctypes.c_long(_CREATE), ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    try:
        for paths, rights in ((readable, _READ), (writable, _WRITE)):
            for path in paths:
                _allow(libc, ruleset, path, rights & handled)
        return bool(libc.syscall(ctypes.c_long(_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint32(0)) == 0)
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str | Path, rights: int) -> None:
    with contextlib.suppress(OSError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not stat.S_ISDIR(os.fstat(place).st_mode):
                rights &= _OF_FILES
            rule = _Beneath(rights, place)
            libc.syscall(
                ctypes.c_long(_ADD),
                ctypes.c_int(ruleset),
                ctypes.c_int(_PATH_BENEATH),
                ctypes.byref(rule),
                ctypes.c_uint32(0),
            )
        finally:
            os.close(place)
