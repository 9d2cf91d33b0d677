"""What a decoder gives up before it sees a stranger's bytes, tried out in a process that has given it up."""

import json
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from kernels import WITHOUT_LANDLOCK

from fakeface_jax.errors import ConfigError
from fakeface_jax.server.sandbox import seccomp
from fakeface_jax.server.sandbox.isolation import missing, require

REPOSITORY = Path(__file__).resolve().parent.parent

linux = pytest.mark.skipif(sys.platform != "linux", reason="what is enforced is Linux's")


def attempts(network, tmp_path, *, prelude=""):
    """What a process that is locked in as decoders are can still do: the name of each error, or `done`."""
    program = f"""
        import ctypes, json, os, resource, signal, socket, subprocess, sys, threading
        from fakeface_jax.server.sandbox.protocol import DecodeLimits
        from fakeface_jax.server.sandbox.lockdown import before_imports, before_media
        allowed, parent = {str(tmp_path / "allowed")!r}, os.getppid()
        kept = os.open(allowed, os.O_RDONLY)
        first = before_imports(DecodeLimits(), network={network}, parent=parent)
        enforced = first | before_media(readable=[f"/proc/self/fd/{{kept}}"], writable=[], network={network})
        def attempt(what):
            try:
                what()
            except BaseException as error:
                return type(error).__name__
            return "done"
        def thread():
            one = threading.Thread(target=lambda: None)
            one.start()
            one.join()
        def call(name, *arguments):
            if getattr(libc, name)(*arguments) == -1:
                raise OSError(ctypes.get_errno(), name)
        libc = ctypes.CDLL(None, use_errno=True)
        other = {str(tmp_path / "other")!r}
        udp = lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"a", ("127.0.0.1", 9))
        print(json.dumps([enforced, dict(
            again=attempt(lambda: open(f"/proc/self/fd/{{kept}}").read()),
            module=attempt(lambda: __import__("fakeface_jax.video.reading.sampling")),
            thread=attempt(thread),
            other_file=attempt(lambda: open({str(tmp_path / "other")!r})),
            passwords=attempt(lambda: open("/etc/passwd")),
            write=attempt(lambda: open({str(tmp_path / "new")!r}, "w")),
            tcp=attempt(lambda: socket.create_connection(("127.0.0.1", 9), 1)),
            udp=attempt(udp),
            fork=attempt(os.fork),
            program=attempt(lambda: os.execv("/bin/true", ["true"])),
            spawn=attempt(lambda: subprocess.run(["/bin/true"])),
            signal=attempt(lambda: os.kill(parent, 0)),
            limits=attempt(lambda: resource.prlimit(parent, resource.RLIMIT_CORE)),
            raised=attempt(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))),
            chmod=attempt(lambda: os.chmod(other, 0o777)),
            fchmod=attempt(lambda: os.fchmod(kept, 0o777)),
            chown=attempt(lambda: os.chown(other, os.getuid(), os.getgid())),
            utime=attempt(lambda: os.utime(other)),
            futime=attempt(lambda: os.utime(kept)),
            set_attribute=attempt(lambda: os.setxattr(other, "user.a", b"b")),
            set_own_attribute=attempt(lambda: os.setxattr(kept, "user.a", b"b")),
            remove_attribute=attempt(lambda: os.removexattr(other, "user.a")),
            shared_memory=attempt(lambda: call("shmget", 0, 4096, 0o1600)),
            semaphores=attempt(lambda: call("semget", 0, 1, 0o1600)),
            messages=attempt(lambda: call("msgget", 0, 0o1600)),
            truncate=attempt(lambda: os.truncate(other, 0)),
            overwrite=attempt(lambda: os.close(os.open(other, os.O_WRONLY))),
            create=attempt(lambda: os.close(os.open(other + "2", os.O_RDONLY | os.O_CREAT))),
            rename=attempt(lambda: os.rename(other, other + "3")),
            link=attempt(lambda: os.link(other, other + "4")),
            symlink=attempt(lambda: os.symlink(other, other + "5")),
            directory=attempt(lambda: os.mkdir(other + "6")),
            remove=attempt(lambda: os.remove(other)),
        )]), flush=True)
    """
    (tmp_path / "allowed").write_text("a")
    (tmp_path / "other").write_text("b")
    done = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(program)],
        capture_output=True,
        cwd=REPOSITORY,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout)


CHANGES = (
    *("chmod", "fchmod", "chown", "utime", "futime", "set_attribute", "set_own_attribute", "remove_attribute"),
    *("shared_memory", "semaphores", "messages"),
    *("write", "truncate", "overwrite", "create", "rename", "link", "symlink", "directory", "remove"),
)
"""What a decoder of a file can do to no file and no other process, whether there is Landlock or not."""


@linux
def test_without_landlock_a_decoder_changes_nothing_all_the_same(tmp_path):
    enforced, did = attempts(False, tmp_path, prelude=WITHOUT_LANDLOCK)
    assert (enforced["files"], enforced["landlock_abi"]) == (False, 0)
    assert missing(enforced | {"cpu": True, "network": True}) == ["files"]
    assert (did["again"], did["module"], did["thread"]) == ("done", "done", "done")
    assert {what: did[what] for what in CHANGES} == dict.fromkeys(CHANGES, "PermissionError")
    assert (tmp_path / "other").read_text() == "b"
    assert did["other_file"] == "done", "which is why it is said to be missing"


@linux
def test_a_service_that_must_be_isolated_does_not_start_where_it_is_not(tmp_path):
    program = """
import sys
from fakeface_jax.cli.main import main
sys.exit(main(["serve", "--require-isolation", "--port", "0", "--state", sys.argv[1]]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_LANDLOCK + program, str(tmp_path / "state")],
        capture_output=True,
        cwd=REPOSITORY,
        text=True,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "could open other files (Landlock)" in ended.stderr
    assert "without --require-isolation" in ended.stderr


def test_what_is_missing_is_said_in_words():
    found = dict.fromkeys(
        ("memory", "cpu", "open_files", "written_files", "no_new_rights", "ends_with_parent", "rights", "files"), True
    )
    whole = found | {"system_calls": True, "network": True, "own_network": False, "landlock_abi": 7}
    require(whole)
    assert missing(whole) == []
    assert missing(found) == ["system_calls", "network"]
    with pytest.raises(ConfigError, match=r"they could start programs and change files \(seccomp\), could use"):
        require(found)


@linux
@pytest.mark.parametrize("network", [False, True])
def test_what_a_decoder_cannot_do(network, tmp_path):
    enforced, did = attempts(network, tmp_path)
    assert (enforced["landlock_abi"] > 0) == enforced["files"]
    assert (did["again"], did["module"], did["thread"]) == ("done", "done", "done")
    assert did["raised"] != "done"
    if enforced["files"]:
        assert (did["other_file"], did["passwords"], did["write"]) == ("PermissionError",) * 3
    if enforced["system_calls"]:
        for what in ("fork", "program", "spawn", "signal", "limits", *CHANGES):
            assert did[what] == "PermissionError", what
        assert did["tcp"] == ("ConnectionRefusedError" if network else "PermissionError")
        assert did["udp"] == ("done" if network else "PermissionError")


def run_filter(program, *, architecture, number, arguments=(0,)):
    """What a filter answers for a system call: an interpreter of the instructions that it is made of."""
    data = struct.pack("=IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    lines = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    value, at = 0, 0
    while True:
        code, yes, no, k = lines[at]
        at += 1
        if code == 0x20:
            (value,) = struct.unpack_from("=I", data, k)
        elif code == 0x06:
            return k
        else:
            holds = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            at += yes if holds else no


@pytest.mark.parametrize(
    ("machine", "architecture", "calls"),
    [
        (
            "x86_64",
            0xC000003E,
            {
                **{"read": 0, "openat": 257, "execve": 59, "socket": 41, "clone": 56, "prlimit": 302, "tgkill": 234},
                **{"fchmod": 91, "fchmodat2": 452, "setxattr": 188, "shmget": 29, "renameat": 264, "openat2": 437},
            },
        ),
        (
            "aarch64",
            0xC00000B7,
            {
                **{"read": 63, "openat": 56, "execve": 221, "socket": 198, "clone": 220, "prlimit": 261, "tgkill": 131},
                **{"fchmod": 52, "fchmodat2": 452, "setxattr": 5, "shmget": 194, "renameat": 38, "openat2": 437},
            },
        ),
    ],
)
def test_the_filter_refuses_what_it_says(machine, architecture, calls):
    allowed, refused, unknown = 0x7FFF0000, 0x50001, 0x50026

    def answer(name, *arguments, network=False, writes=False):
        program = seccomp.filter_program(machine, network=network, writes=writes, process=4242)
        return run_filter(program, architecture=architecture, number=calls[name], arguments=arguments)

    assert answer("read") == answer("openat") == allowed
    assert answer("execve") == answer("execve", network=True) == refused
    assert (answer("socket"), answer("socket", network=True)) == (refused, allowed)
    for name in ("fchmod", "fchmodat2", "setxattr", "shmget"):
        assert answer(name) == answer(name, network=True, writes=True) == refused, name
    # Where nothing is to be written: what is opened for reading, and closed to others when it is executed.
    assert answer("openat", 2**64 - 100, 0, os.O_RDONLY | os.O_CLOEXEC) == allowed
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_CREAT, os.O_RDONLY | os.O_TRUNC):
        assert answer("openat", 2**64 - 100, 0, flags) == refused, flags
        assert answer("openat", 2**64 - 100, 0, flags, writes=True) == allowed, flags
    assert (answer("renameat"), answer("renameat", writes=True)) == (refused, allowed)
    assert (answer("openat2"), answer("openat2", writes=True)) == (unknown, allowed)
    assert answer("clone", 0x3D0F00) == allowed  # what pthread_create passes
    assert answer("clone", 0x1200011) == refused  # what fork passes
    assert (answer("prlimit"), answer("prlimit", 1)) == (allowed, refused)
    assert (answer("tgkill", 4242), answer("tgkill", 4241)) == (allowed, refused), "itself, and others"
    program = seccomp.filter_program(machine, network=False, process=4242)
    assert run_filter(program, architecture=architecture, number=435) == unknown  # clone3
    assert run_filter(program, architecture=0x40000003, number=0) == 0x80000000  # of 32-bit programs
    if machine == "x86_64":
        assert run_filter(program, architecture=architecture, number=0x40000000 | 41) == unknown
