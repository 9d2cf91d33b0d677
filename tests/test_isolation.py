"""What a decoder gives up before it sees a stranger's bytes, tried out in a process that has given it up."""

import json
import os
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from fakeface_jax.server.sandbox import seccomp

REPOSITORY = Path(__file__).resolve().parent.parent

linux = pytest.mark.skipif(sys.platform != "linux", reason="what is enforced is Linux's")


def attempts(network, tmp_path):
    """What a process that is locked in as decoders are can still do: the name of each error, or `done`."""
    program = f"""
        import json, os, resource, signal, socket, subprocess, sys, threading
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
        )]), flush=True)
    """
    (tmp_path / "allowed").write_text("a")
    (tmp_path / "other").write_text("b")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        cwd=REPOSITORY,
        text=True,
        check=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    return json.loads(done.stdout)


@linux
@pytest.mark.parametrize("network", [False, True])
def test_what_a_decoder_cannot_do(network, tmp_path):
    enforced, did = attempts(network, tmp_path)
    assert (did["again"], did["module"], did["thread"]) == ("done", "done", "done")
    assert did["raised"] != "done"
    if enforced["files"]:
        assert (did["other_file"], did["passwords"], did["write"]) == ("PermissionError",) * 3
    if enforced["system_calls"]:
        for what in ("fork", "program", "spawn", "signal", "limits"):
            assert did[what] == "PermissionError", what
        assert did["tcp"] == ("ConnectionRefusedError" if network else "PermissionError")
        assert did["udp"] == ("done" if network else "PermissionError")


def run_filter(program, *, architecture, number, argument=0):
    """What a filter answers for a system call: an interpreter of the instructions that it is made of."""
    data = struct.pack("=IIQQ", number, architecture, 0, argument)
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
            {"read": 0, "openat": 257, "execve": 59, "socket": 41, "clone": 56, "prlimit": 302, "tgkill": 234},
        ),
        (
            "aarch64",
            0xC00000B7,
            {"read": 63, "openat": 56, "execve": 221, "socket": 198, "clone": 220, "prlimit": 261, "tgkill": 131},
        ),
    ],
)
def test_the_filter_refuses_what_it_says(machine, architecture, calls):
    allowed, refused, unknown = 0x7FFF0000, 0x50001, 0x50026

    def answer(name, argument=0, network=False):
        program = seccomp.filter_program(machine, network=network, process=4242)
        return run_filter(program, architecture=architecture, number=calls[name], argument=argument)

    assert answer("read") == answer("openat") == allowed
    assert answer("execve") == answer("execve", network=True) == refused
    assert (answer("socket"), answer("socket", network=True)) == (refused, allowed)
    assert answer("clone", 0x3D0F00) == allowed  # what pthread_create passes
    assert answer("clone", 0x1200011) == refused  # what fork passes
    assert (answer("prlimit"), answer("prlimit", 1)) == (allowed, refused)
    assert (answer("tgkill", 4242), answer("tgkill", 4241)) == (allowed, refused), "itself, and others"
    program = seccomp.filter_program(machine, network=False, process=4242)
    assert run_filter(program, architecture=architecture, number=435) == unknown  # clone3
    assert run_filter(program, architecture=0x40000003, number=0) == 0x80000000  # of 32-bit programs
    if machine == "x86_64":
        assert run_filter(program, architecture=architecture, number=0x40000000 | 41) == unknown
