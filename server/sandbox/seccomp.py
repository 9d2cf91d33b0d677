"""A filter of system calls for processes that decode what strangers send: no programs, no network, no other process,
no change of any file unless that is their work.

Everything is allowed but what the list names, so that a new version of a library does not break; what is refused fails
with "operation not permitted". Threads can be made, processes cannot. The filter is Linux's seccomp; it is loaded
without a library, as a program of some hundred instructions (https://docs.kernel.org/userspace-api/seccomp_filter.html).

Example:
    >>> install(network=False)
    True
    >>> socket.socket()
    PermissionError: [Errno 1] Operation not permitted
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_CALLS: dict[str, tuple[int | None, int | None]] = {
    # name: number on x86-64, on aarch64
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, None),
    "vfork": (58, None),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kill": (62, 129),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    # Would do what is refused here past the filter.
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "open_by_handle_at": (304, 265),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "personality": (135, 92),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "mknod": (133, None),
    "mknodat": (259, 33),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
}
"""Refused to every decoder."""

_METADATA: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
"""Refused to every decoder: Landlock has no say about who may use a file, and about its times and attributes."""

_SHARED: dict[str, tuple[int | None, int | None]] = {
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
}
"""Refused to every decoder: memory, semaphores and queues that outlive a process and are reached by a number."""

_CHANGES: dict[str, tuple[int | None, int | None]] = {
    "truncate": (76, 45),
    "creat": (85, None),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
}
"""Refused to those that write no file, so that they change none where there is no Landlock either."""

_OPENS: dict[str, tuple[int | None, int | None, int]] = {
    # with which argument holds the flags, from 0
    "open": (2, None, 1),
    "openat": (257, 56, 2),
}
_OPENAT2 = (437, 437)
_FOR_WRITING = 0o1 | 0o2 | 0o100 | 0o1000
"""O_WRONLY, O_RDWR, O_CREAT, O_TRUNC of both processors."""

_NETWORK: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
}
"""Refused to those that read no live source. What is open already, the way to the parent, goes on working."""

_CLONE, _CLONE3, _PRLIMIT, _TGKILL = (56, 220), (435, 435), (302, 261), (234, 131)
_SECCOMP = (317, 277)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of the tables, and AUDIT_ARCH of linux/audit.h."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Of linux/bpf_common.h: BPF_LD+W+ABS, BPF_JMP+{JEQ,JGE,JSET}+K, BPF_RET+K."""

_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE, _UNKNOWN = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in `struct seccomp_data`."""

_CLONE_THREAD = 0x00010000
_X32 = 0x40000000
"""Numbers from here on are calls of the x32 interface, a second way to the same calls."""

_SET_MODE_FILTER, _ALL_THREADS = 1, 1


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def install(*, network: bool, writes: bool = False) -> bool:
    """Filters the system calls of all threads of this process, for ever; `PR_SET_NO_NEW_PRIVS` must be set.

    Args:
        network: whether sockets can be made.
        writes: whether files can be opened for writing, made, renamed and removed.

    Returns:
        Whether it is in force; False where the platform has no such thing.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _ARCHITECTURES:
        return False
    program = filter_program(machine, network=network, writes=writes, process=os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    described = _Program(len(program) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    column, _ = _ARCHITECTURES[machine]
    answer = libc.syscall(
        ctypes.c_long(_SECCOMP[column]),
        ctypes.c_ulong(_SET_MODE_FILTER),
        ctypes.c_ulong(_ALL_THREADS),
        ctypes.byref(described),
    )
    return bool(answer == 0)


def filter_program(machine: str, *, network: bool, process: int, writes: bool = False) -> bytes:
    """The filter as `struct sock_filter` instructions of 8 bytes each.

    Args:
        machine: `x86_64` or `aarch64`.
        network: whether sockets can be made.
        process: the number of the one that is filtered.
        writes: whether files can be opened for writing, made, renamed and removed.
    """
    column, architecture = _ARCHITECTURES[machine]
    lines = [
        _line(_LOAD, _ARCHITECTURE),
        _line(_EQUAL, architecture, yes=1),
        _line(_RETURN, _KILL),
        _line(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        lines += [_line(_AT_LEAST, _X32, no=1), _line(_RETURN, _UNKNOWN)]
    refused = _CALLS | _METADATA | _SHARED | ({} if network else _NETWORK) | ({} if writes else _CHANGES)
    for numbers in refused.values():
        number = numbers[column]
        if number is not None:
            lines += [_line(_EQUAL, number, no=1), _line(_RETURN, _REFUSE)]
    if not writes:
        # Its flags lie in memory, too; whoever gets this answer uses openat.
        lines += [_line(_EQUAL, _OPENAT2[column], no=1), _line(_RETURN, _UNKNOWN)]
        for x86, arm, argument in _OPENS.values():
            if (number := (x86, arm)[column]) is not None:
                lines += [
                    _line(_EQUAL, number, no=4),
                    _line(_LOAD, _FIRST_ARGUMENT + 8 * argument),
                    _line(_ANY_BIT, _FOR_WRITING, no=1),
                    _line(_RETURN, _REFUSE),
                    _line(_RETURN, _ALLOW),
                ]
    lines += [
        # Its flags lie in memory, which a filter cannot read; the C library then falls back to clone.
        _line(_EQUAL, _CLONE3[column], no=1),
        _line(_RETURN, _UNKNOWN),
        # Threads yes, processes no.
        _line(_EQUAL, _CLONE[column], no=4),
        _line(_LOAD, _FIRST_ARGUMENT),
        _line(_ANY_BIT, _CLONE_THREAD, no=1),
        _line(_RETURN, _ALLOW),
        _line(_RETURN, _REFUSE),
        # Signals to itself, by which the C library aborts; none to others.
        _line(_EQUAL, _TGKILL[column], no=4),
        _line(_LOAD, _FIRST_ARGUMENT),
        _line(_EQUAL, process, yes=1),
        _line(_RETURN, _REFUSE),
        _line(_RETURN, _ALLOW),
        # Limits of this process yes, of others no.
        _line(_EQUAL, _PRLIMIT[column], no=3),
        _line(_LOAD, _FIRST_ARGUMENT),
        _line(_EQUAL, 0, yes=1),
        _line(_RETURN, _REFUSE),
        _line(_RETURN, _ALLOW),
    ]
    return b"".join(lines)


def _line(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """One instruction; `yes` and `no` are how many instructions a jump skips."""
    return struct.pack("=HBBI", code, yes, no, value)
