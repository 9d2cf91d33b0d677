"""A decoder process as its parent sees it: started, spoken to within a time, ended, and what its end meant.

Example:
    >>> with Child(DecodeLimits(), network=False) as child:
    ...     child.send({"do": "picture", "name": "a.jpg"}, data)
    ...     header, pixels = child.receive("a.jpg", seconds=30.0, max_bytes=2**30)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

import fakeface_jax
from fakeface_jax import errors
from fakeface_jax.errors import Cancelled, DecodeError, FakeFaceError, LimitExceeded, MediaError, OpenError, printable
from fakeface_jax.server.sandbox.protocol import (
    BrokenChannel,
    Channel,
    DecodeLimits,
    DecoderCrashed,
    DecoderKilled,
    DecoderUnavailable,
    Silence,
    shared_memory,
)

_LONGEST = 60
"""Times the longest silence that one answer may take: an hour where a minute of silence is allowed."""

_START_SECONDS = 60.0
"""Until a child is ready; it takes half a second on an idle machine."""

_ASK_EVERY = 0.25
"""Seconds between questions whether the work is to end."""

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "gif", "mpegts", "mpeg", "mpegvideo", "m4v", "h264", "hevc",
    "av1", "obu", "ivf", "flv", "asf", "ogg", "mxf", "dv", "mjpeg", "yuv4mpegpipe", "nut", "rm", "wtv", "apng",
    "webp_anim",
)  # fmt: skip
"""FFmpeg's demuxers that may read a file: those that read a file and nothing else."""

_FILE_OPTIONS = f"protocol_whitelist;file|format_whitelist;{','.join(FORMATS)}"
_LIVE_FORMATS = (*FORMATS, "rtsp", "hls", "mpjpeg", "jpeg_pipe", "aac", "webvtt")
"""Of addresses that an operator allows: HLS, which opens others, over HTTP alone."""

_LIVE_OPTIONS = (
    # TCP is what OpenCV asks of cameras where nobody sets options.
    "rtsp_transport;tcp|protocol_whitelist;http,https,tcp,tls,udp,rtp,srtp,rtsp,rtsps,crypto|"
    f"format_whitelist;{','.join(_LIVE_FORMATS)}"
)

Stop = Callable[[], bool]
"""Answers True when the work is to end."""


class Child:
    """One process. Not thread-safe, except for `kill`.

    Args:
        limits: of it.
        network: whether it may use one.
        killed: called once with why, when it is ended or has ended before its time: `timeout`, `crash`, `killed` (by
            somebody else), `memory`, `cpu`, `protocol`, `start`.
        gone: called once, when the process is gone and its memory free.

    Attributes:
        isolation: what the platform enforces of what the child gave up; empty until it is ready.
        owner: whose media it sees; None until it has seen any.
        uses: how many pictures it has been given.
    """

    def __init__(
        self,
        limits: DecodeLimits,
        *,
        network: bool,
        killed: Callable[[str], None] = lambda reason: None,
        gone: Callable[[], None] = lambda: None,
    ) -> None:
        self._limits, self._killed = limits, killed
        self._gone = _Once(gone)
        self._ended = self._ready = self._killed_by_others = False
        self.isolation: dict[str, int] = {}
        self.owner: str | None = None
        self.uses = 0
        self._memory: mmap.mmap | None = None
        self._slot_size = 0
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise DecoderUnavailable(f"the decoder cannot be started: {error.strerror or error}") from error
        self._channel = Channel(ours)
        given = {
            "channel": theirs.fileno(),
            "parent": os.getpid(),
            "network": network,
            "limits": dataclasses.asdict(limits),
        }
        try:
            self._process = subprocess.Popen(
                # Without the user's own packages, and without the working directory among the places of modules.
                [sys.executable, "-s", "-P", "-m", "fakeface_jax.server.sandbox.worker_main", json.dumps(given)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                close_fds=True,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                env=_environment(_LIVE_OPTIONS if network else _FILE_OPTIONS),
                start_new_session=True,  # Ctrl-C is for the parent
            )
        except OSError as error:
            ours.close()
            raise DecoderUnavailable(f"the decoder cannot be started: {error.strerror or error}") from error
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it can be spoken to."""
        return not self._ended and self._process.poll() is None

    def send(self, header: Mapping[str, Any], payload: bytes | memoryview = b"", *, files: Sequence[int] = ()) -> None:
        """Sends a message; that the child is gone, the answer will tell."""
        with contextlib.suppress(BrokenChannel, Silence):
            self._channel.send(header, payload, descriptors=files, timeout=self._limits.wall_seconds)

    def wait_until_ready(self, name: str) -> None:
        """Waits until it has loaded all it needs.

        Raises:
            DecoderUnavailable: it does not start now.
        """
        if self._ready:
            return
        try:
            header, _ = self._channel.receive(max_bytes=0, timeout=_START_SECONDS)
            self.isolation.update(_flags(header.get("isolation")))
            problem = str(header.get("bug", ""))
            self._ready = header.get("ready") is True
        except (BrokenChannel, Silence) as error:
            problem = f"it did not start: {type(error).__name__} {error}".rstrip()
        if not self._ready:
            self._end("start")
            raise DecoderUnavailable(printable(f"{name}: the decoder cannot be started: {problem}"))

    def share(self, size: int, slots: int) -> None:
        """Gives it memory to hand pictures out in; where there is none, they come over the socket."""
        descriptor = shared_memory(size * slots)
        if descriptor is None:
            return
        try:
            self._memory = mmap.mmap(descriptor, size * slots, prot=mmap.PROT_READ)
            self._slot_size = size
            self.send({"do": "memory", "size": size * slots, "slots": slots}, files=[descriptor])
        finally:
            os.close(descriptor)

    def receive(
        self,
        name: str,
        *,
        seconds: float,
        at_most: float | None = None,
        max_bytes: int = 0,
        stop: Stop | None = None,
        beat: Callable[[int], None] = lambda done: None,
    ) -> tuple[dict[str, Any], bytearray]:
        """The next message, signs of life apart.

        Args:
            name: of the media, for errors.
            seconds: longest time without any message.
            at_most: longest time until the answer, signs of life or not; `_LONGEST` times `seconds` by default.
            max_bytes: of its payload.
            stop: asked again and again while nothing comes, and at each sign of life.
            beat: called at each sign of life.

        Raises:
            MediaError: what the child says about the media, or what its end means.
            DecoderKilled: somebody else killed it.
            Cancelled: `stop` answered True; the child is ended.
        """
        # Signs of life prolong it, but not for ever: a decoder that is no more ours would give nothing else.
        last = time.monotonic() + (at_most or _LONGEST * seconds)
        while True:
            if stop is not None:
                self._wait_unless(stop, name, seconds)
            try:
                if time.monotonic() > last:
                    raise Silence
                header, payload = self._channel.receive(max_bytes=max_bytes, timeout=seconds)
            except Silence:
                self._end("timeout")
                problem = f"the decoder made no progress for {seconds:g} s and was ended"
                raise DecodeError(name, problem, "convert it to MP4, or score a part of it") from None
            except BrokenChannel as error:
                raise self._died(name, error) from None
            if "isolation" in header:
                self.isolation.update(_flags(header["isolation"]))
            elif "beat" in header:
                beat(self._beats(header, name))
            elif header.get("memory"):
                self._end("memory")
                raise self._too_much_memory(name)
            elif "bug" in header:
                self._end("crash")
                problem = printable(f"the decoder failed: {str(header['bug'])[:200]}")
                raise DecoderCrashed(name, problem, "convert it to MP4 or PNG")
            elif "error" in header:
                raise _error(name, header)
            else:
                return header, payload

    def picture(self, header: Mapping[str, Any], payload: bytearray, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """The picture that a message hands out, copied: what the child writes afterwards does not change it.

        Raises:
            DecodeError: the message does not fit together; the child is ended.
        """
        try:
            width, height, slot = (whole(header[key]) for key in ("width", "height", "slot"))
            count = width * height * 3
            if not 0 < width * height <= self._limits.max_pixels:
                raise ValueError("size")
            source: Any = payload
            place = 0
            if not payload:
                place = slot * self._slot_size
                if self._memory is None or count > self._slot_size or place + count > len(self._memory):
                    raise ValueError("slot")
                source = self._memory
            return np.frombuffer(source, np.uint8, count, place).reshape(height, width, 3).copy()
        except (KeyError, TypeError, ValueError):
            raise self.broken(name) from None

    def broken(self, name: str) -> DecodeError:
        """Ends a child that does not speak as it should, and says so."""
        self._end("protocol")
        return DecodeError(name, "the decoder answered nonsense and was ended", "get it again, or convert it to MP4")

    def kill(self) -> None:
        """Ends the process at once, uncounted; any thread may."""
        self._ended = True
        self._process.kill()
        self._process.wait()
        self._gone()

    def close(self) -> None:
        """Ends the process and frees what it had; twice is no error."""
        self.kill()
        self._channel.close()
        if self._memory is not None:
            self._memory.close()
            self._memory = None

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_unless(self, stop: Stop, name: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            if stop():
                self.kill()
                raise Cancelled(printable(f"{name}: stopped before the end"))
            left = until - time.monotonic()
            with contextlib.suppress(BrokenChannel):
                if left > 0 and not self._channel.ready(min(left, _ASK_EVERY)):
                    continue
            return

    def _beats(self, header: Mapping[str, Any], name: str) -> int:
        try:
            return whole(header["beat"])
        except ValueError:
            raise self.broken(name) from None

    def _end(self, reason: str) -> None:
        if not self._ended:
            self.kill()
            self._killed(reason)

    def _died(self, name: str, error: BrokenChannel) -> MediaError | DecoderKilled:
        """What the end of the process, or of the way to it, means."""
        if self._killed_by_others:  # also for those who ask again
            return self._was_killed(name)
        if self._ended:
            return OpenError(name, "was closed while its frames were being read", "read them first")
        try:
            code = self._process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            return self.broken(name)
        if code == -signal.SIGXCPU:
            self._end("cpu")
            return LimitExceeded(name, "needs too much processor time to decode", "make it shorter or smaller")
        if code == -signal.SIGKILL:
            # We did not send it. Decoders ask the kernel to be the first that it kills when memory runs out.
            self._killed_by_others = True
            self._end("killed")
            return self._was_killed(name)
        self._end("crash")
        what = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return DecoderCrashed(name, f"the decoder ended {what}", "get it again, or convert it to MP4")

    def _was_killed(self, name: str) -> DecoderKilled:
        return DecoderKilled(printable(f"{name}: the decoder was killed from outside; the machine is short of memory"))

    def _too_much_memory(self, name: str) -> LimitExceeded:
        most = self._limits.memory_bytes / 2**20
        return LimitExceeded(name, f"needs more memory to decode than the {most:.0f} MiB allowed", "make it smaller")


def whole(value: Any) -> int:
    """A number from a message that counts something; raises `ValueError` for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError(value)
    return value


def _flags(value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        return {}
    return {str(key)[:40]: flag for key, flag in list(value.items())[:20] if isinstance(flag, int) and 0 <= flag < 1000}


class _Once:
    """A function that is called the first time only, whichever thread comes first."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function, self._lock, self._called = function, threading.Lock(), False

    def __call__(self) -> None:
        with self._lock:
            first, self._called = not self._called, True
        if first:
            self._function()


def _error(name: str, header: Mapping[str, Any]) -> FakeFaceError:
    """The error that the child described: one of ours, about the media that we named."""
    problem, remedy = printable(str(header.get("problem", ""))), printable(str(header.get("remedy", "")))
    kinds = {"OpenError": OpenError, "DecodeError": DecodeError, "LimitExceeded": LimitExceeded}
    if header["error"] in kinds:
        error = kinds[header["error"]](name, problem, remedy)
        number = header.get("errno")
        if isinstance(number, int) and 0 < number < 200:
            # A full disk, say: whoever asked may want to know that it is not the media.
            error.__cause__ = OSError(number, os.strerror(number))
        return error
    if header["error"] == "ConfigError":
        return errors.ConfigError(problem)
    return DecodeError(name, problem or "cannot be decoded", remedy)


def _environment(options: str) -> dict[str, str]:
    """All of the child's: nothing of the parent's, which may hold secrets."""
    return {
        "PYTHONPATH": str(Path(fakeface_jax.__file__).parent.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUTF8": "1",
        "LC_ALL": "C.UTF-8",
        # One thread until FFmpeg makes its own: what a process gives up, only the thread that says so gives up.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",  # each would take 64 MiB of the address space that is limited
        "OPENCV_FFMPEG_CAPTURE_OPTIONS": options,
        "OPENCV_FFMPEG_LOGLEVEL": "-8",
        "OPENCV_LOG_LEVEL": "SILENT",
    }
