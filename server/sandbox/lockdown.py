"""What a decoder gives up before it sees a stranger's bytes, and what of that the platform really enforces.

In two steps. `before_imports` does what must be done while there is one thread and little memory; `before_media` locks
the process in, once all that it needs is loaded. Both are called by the child, and cannot be undone by it.

Example:
    >>> first = before_imports(limits, network=False, parent=os.getppid())
    >>> import cv2
    >>> first | before_media(readable=["/proc/self/fd/5"], writable=[], network=False)
    {'memory': True, 'cpu': True, ..., 'landlock_abi': 7, 'files': True, 'system_calls': True}
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

import fakeface_jax
from fakeface_jax.server.sandbox import landlock, seccomp
from fakeface_jax.server.sandbox.isolation import LANDLOCK_ABI
from fakeface_jax.server.sandbox.protocol import DecodeLimits

_SET_PDEATHSIG, _SET_NO_NEW_PRIVS, _SET_DUMPABLE = 1, 38, 4
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_CAPABILITIES = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3."""

FOR_NAMES = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/run/systemd/resolve",
)
"""What a live source needs to turn a name into an address and to check a certificate."""


def before_imports(limits: DecodeLimits, *, network: bool, parent: int) -> dict[str, bool]:
    """Limits of memory, descriptors and files; no new rights, no network; ends with its parent.

    Args:
        limits: of this process.
        network: whether it may use one.
        parent: the process that it ends with.

    Returns:
        What is enforced: `memory`, `open_files`, `written_files`, `no_new_rights`, `ends_with_parent`,
        `own_network` (an empty one of its own).
    """
    enforced = {
        "memory": _limit("RLIMIT_AS", limits.memory_bytes),
        "open_files": _limit("RLIMIT_NOFILE", limits.open_files),
        # Soft at first; raised for who writes an annotated video.
        "written_files": _limit("RLIMIT_FSIZE", 0, limits.output_bytes),
    }
    _limit("RLIMIT_CORE", 0)
    with contextlib.suppress(OSError):
        # Where the machine itself runs out of memory, this process goes and not its parent.
        Path("/proc/self/oom_score_adj").write_text("800")
    linux = sys.platform == "linux"
    libc = ctypes.CDLL(None, use_errno=True) if linux else None
    enforced["ends_with_parent"] = libc is not None and libc.prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    if os.getppid() != parent:
        sys.exit(0)  # it ended before that was set
    enforced["no_new_rights"] = libc is not None and libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    enforced["own_network"] = libc is not None and not network and libc.unshare(_NEW_USER | _NEW_NETWORK) == 0
    return enforced


def before_media(
    *, readable: Iterable[str | Path] | None, writable: Iterable[str | Path], network: bool
) -> dict[str, int]:
    """Locks the process in: no files but these, no rights of root, no programs, no network.

    Args:
        readable: files and directories; None for all, as a camera's driver needs.
        writable: directories.
        network: whether sockets can be made.

    Returns:
        What is enforced, as was tried out afterwards: `files`, `system_calls`, `rights`; and `landlock_abi`, the
        version of Landlock's interface, 0 for none.
    """
    writable = list(writable)
    version = landlock.abi()
    files = readable is not None and landlock.restrict(
        readable=[*program_files(), *readable], writable=writable, network=network
    )
    rights = _drop_capabilities()
    # Whoever may read any file drives a device, which is opened for writing.
    calls = seccomp.install(network=network, writes=bool(writable) or readable is None)
    return {
        LANDLOCK_ABI: version if files else 0,
        "files": files and _refused_root(),
        "rights": rights,
        "system_calls": calls and _refused_call(),
    }


def _refused_root() -> bool:
    """Whether a directory that is on no list cannot be opened, though anybody may."""
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _refused_call() -> bool:
    """Whether a system call that would do nothing is refused all the same."""
    return bool(ctypes.CDLL(None, use_errno=True).unshare(0) == -1 and ctypes.get_errno() == errno.EPERM)


def program_files() -> list[str]:
    """Where this program and what it imports lie."""
    package = Path(fakeface_jax.__file__).parent
    here = package.parent
    # In a checkout these folders of the package are links to folders beside it.
    own = [str(package), *(str((package / name).resolve()) for name in ("cli", "server", "video"))]
    # Not all of a checkout: its other files are none of a decoder's business.
    modules = [path for path in sys.path if (path and Path(path) != here) or here.name.endswith("-packages")]
    system = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/fonts", "/etc/ld.so.cache", "/dev/null"]
    return [*own, *modules, *system, "/dev/urandom", "/sys/devices/system/cpu", "/proc/self"]


def limit_cpu(seconds: int, *, last: bool = False) -> bool:
    """So much processor time from now on, all threads; then the system ends the process with SIGXCPU.

    Args:
        seconds: from now on.
        last: whether it can be set no more.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + seconds
    return _limit("RLIMIT_CPU", soft, soft + 5 if last else _hard("RLIMIT_CPU"))


def allow_writing(limits: DecodeLimits) -> None:
    """Files of the size of an annotated video."""
    _limit("RLIMIT_FSIZE", limits.output_bytes, limits.output_bytes)


def _hard(name: str) -> int:
    return resource.getrlimit(getattr(resource, name))[1]


def _limit(name: str, soft: int, hard: int | None = None) -> bool:
    if not hasattr(resource, name):
        return False
    number = getattr(resource, name)
    hard = soft if hard is None else hard
    allowed = _hard(name)
    if allowed != resource.RLIM_INFINITY:
        hard = allowed if hard == resource.RLIM_INFINITY else min(hard, allowed)
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(number, (soft, hard))
        return True
    return False


def _drop_capabilities() -> bool:
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    header, none = struct.pack("=Ii", _CAPABILITIES, 0), bytes(24)
    return bool(libc.capset(header, none) == 0)
