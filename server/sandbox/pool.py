"""Media that strangers send is decoded in processes that can do nothing else, and that are ended when they misbehave.

A crash, a hang or too much of anything in a decoder is an error of the one input that caused it. Children for
pictures live on from one picture of an owner to the next; each video and each live source has one of its own. One more
is kept started, so that nobody waits for Python to load. There are only as many as their memory allows. What a child
gives up: `fakeface_jax.server.sandbox.lockdown`.

Example:
    >>> with Decoders() as decoders:
    ...     image = decoders.image(data, "upload.png", owner="newsroom")
    ...     with decoders.open_video("upload.bin", "clip.mp4") as video:
    ...         report = score_video(classifier, detector, video, sha256=sha256)
    ...     decoders.annotate(report, "upload.bin", "annotated.mp4")
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import functools
import os
import pickle
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import LimitExceeded, OpenError
from fakeface_jax.server.sandbox.budget import DecoderPlaces, default_budget
from fakeface_jax.server.sandbox.child import Child, Stop
from fakeface_jax.server.sandbox.protocol import DecodeLimits, DecoderUnavailable
from fakeface_jax.server.sandbox.remote import IsolatedCapture, IsolatedVideo
from fakeface_jax.video.live.capture import ConnectionLost, StreamSource
from fakeface_jax.video.report.video_report import VideoReport

__all__ = ["DecodeLimits", "Decoders", "IsolatedCapture", "IsolatedVideo"]

REASONS = ("timeout", "crash", "killed", "memory", "cpu", "protocol", "start")
"""Why a decoder was ended, or ended, before its time."""

_PICTURE_BYTES = 3 * 2**24
"""Pictures of up to 16 megapixels come through shared memory, larger ones over the socket."""

_KEPT = 16
"""Processes that have seen pictures and are kept for the next ones of the same owners, where memory allows so many.
Each has some 50 MB to itself; to start one takes half a second of a processor."""


class Decoders:
    """Decodes pictures, videos and live sources in other processes. Any thread may call.

    Args:
        limits: of each process.
        images: pictures that are decoded at the same time; others wait.
        spare: whether one more process is kept ready, where there is room for it.
        memory: bytes that all of them may take together; see `budget.default_budget` if not given.

    Attributes:
        places: counts the processes.
    """

    def __init__(
        self,
        limits: DecodeLimits = DecodeLimits(),
        images: int = 2,
        *,
        spare: bool = True,
        memory: int | None = None,
    ) -> None:
        self.limits = limits
        self.places = DecoderPlaces(default_budget() if memory is None else memory, limits.memory_bytes)
        self._lock = threading.Lock()
        self._kills: collections.Counter[str] = collections.Counter(dict.fromkeys(REASONS, 0))
        self._isolation: dict[str, int] = {}
        self._closed = False
        # A child ends with the thread that started it (PR_SET_PDEATHSIG), so that has to be one that lives on.
        self._starter = concurrent.futures.ThreadPoolExecutor(1, "fakeface-decoders")
        self._spare: concurrent.futures.Future[Child] | None = None
        self._keep_spare = spare
        self._live: set[Child] = set()
        self._at_once = threading.Semaphore(images)
        self._idle: list[Child] = []  # which have seen pictures and wait for more; the one that waits longest first
        self._begin_spare()

    @property
    def kills(self) -> dict[str, int]:
        """How many decoders ended before their time, by reason; see `REASONS`."""
        with self._lock:
            return dict(self._kills)

    @property
    def isolation(self) -> dict[str, int]:
        """What this platform enforces on decoders of files; found out by decoding a picture, once.

        Keys: `landlock_abi`, the version of Landlock's interface that is used, 0 for none. All others are booleans:
        `memory`, `cpu`, `open_files`, `written_files`, `no_new_rights`, `ends_with_parent`, `rights` (no
        capabilities), `files` (it opens no others), `system_calls` (no programs, no sockets), `own_network` (a network
        namespace that is empty), and `network`: whether it has none, by one way or the other.
        """
        if not self._isolation:
            self.image(_ONE_GREY_PICTURE, "(self test)")
        with self._lock:
            return dict(self._isolation)

    def image(self, data: bytes, name: str, *, owner: str | None = None) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes a picture; see `fakeface_jax.images.decode_image` for what comes back and what is raised.

        Args:
            data: a whole image file.
            name: what errors call it.
            owner: whose it is: a process that has seen a picture of one owner never sees one of another. None for a
                picture that is nobody's secret and harms nobody.

        Raises:
            LimitExceeded: also for a decoder that needed too much.
            DecodeError: also for a decoder that crashed or hung.
            DecoderUnavailable: there are as many decoders as their memory allows, and all are at work.
            DecoderKilled: somebody else killed the decoder; another try may succeed.
        """
        if len(data) > self.limits.image_bytes:
            problem = f"{len(data)} bytes, more than {self.limits.image_bytes}"
            raise LimitExceeded(name, problem, "make it smaller")
        with self._at_once:
            child = self._for_pictures_of(owner, name)
            try:
                child.owner = child.owner if owner is None else owner
                child.uses += 1
                child.send({"do": "picture", "name": name}, data)
                header, payload = child.receive(
                    name,
                    seconds=self.limits.image_seconds,
                    at_most=self.limits.image_seconds + 1.0,
                    max_bytes=3 * self.limits.max_pixels,
                )
                image = child.picture(header, payload, name)
                self._learn(child)
                return image
            finally:
                self._put_back(child)

    def image_for(self, owner: str) -> Callable[[bytes, str], UInt8[np.ndarray, "h w 3"]]:
        """What decodes the pictures of one owner; see `image`."""
        return functools.partial(self.image, owner=owner)

    def open_video(
        self, path: str | os.PathLike[str], name: str | None = None, *, stop: Stop | None = None
    ) -> IsolatedVideo:
        """Opens a video, of which a process of its own gets the open file and not the name.

        Args:
            path: of a regular file.
            name: what errors and reports call it; the path by default.
            stop: asked while a frame is waited for; when it answers True, the work ends with `Cancelled`.

        Raises:
            OpenError, DecodeError, LimitExceeded: see `fakeface_jax.video.reading.opencv.VideoFile`.
        """
        name = name or os.fspath(path)
        with _opened(path, name) as file:
            child = self._take(name)
            try:
                video = IsolatedVideo(child, file, name, self.limits, stop)
            except BaseException:
                self._free(child)
                raise
        self._learn(child)
        return video

    def annotate(
        self,
        report: VideoReport,
        source: str | os.PathLike[str],
        target: str | os.PathLike[str],
        *,
        name: str | None = None,
        stop: Stop | None = None,
        progress: Callable[[int], None] = lambda frames: None,
    ) -> None:
        """Writes the annotated video of a report; completely or not at all. See `render.save_annotated_video`.

        The child writes into a directory made for that, and nowhere else.

        Args:
            report: of the video.
            source: its file.
            target: ends in one of `fakeface_jax.video.render.encoder.VIDEO_CODECS`; an existing file is replaced.
            name: what errors call the video; the path by default.
            stop: asked several times a second; when it answers True, the work ends with `Cancelled`.
            progress: called with about how many packets and frames were gone through.

        Raises:
            MediaError: the source cannot be read any more, or the result is too large.
        """
        target, name = Path(target), name or os.fspath(source)
        with (
            _opened(source, name) as file,
            tempfile.TemporaryDirectory(dir=target.parent, prefix=".annotating-") as directory,
        ):
            written = Path(directory) / f"annotated{target.suffix}"
            child = self._take(name)
            try:
                message = {"do": "annotate", "name": name, "directory": directory, "file": written.name}
                child.send(message, pickle.dumps(report), files=[file])
                child.receive(name, seconds=self.limits.wall_seconds, stop=stop, beat=progress)
            finally:
                self._free(child)
            status = written.lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise OpenError(name, "the decoder did not write a file", "try again")
            if status.st_size > self.limits.output_bytes:
                raise LimitExceeded(name, "its annotated video is too large", "score a part of it")
            written.replace(target)

    def open_capture(self, source: StreamSource, open_timeout: float, read_timeout: float) -> IsolatedCapture:
        """Opens a live source in a process of its own; for `fakeface_jax.video.live.stream.Stream(open_source=...)`.

        Raises:
            ConnectionLost, MediaError: see `fakeface_jax.video.live.capture.OpenCapture`.
        """
        name = str(source)
        try:
            child = self._take(name) if source.kind == "file" else self._begin(name, network=True)
        except DecoderUnavailable as error:
            raise ConnectionLost(str(error)) from error
        try:
            return IsolatedCapture(child, source, open_timeout, read_timeout, self.limits)
        except BaseException:
            self._free(child)
            raise

    @contextlib.contextmanager
    def with_room(self) -> Iterator[None]:
        """Ends the decoders that nobody uses, and keeps none ready until the end of the block.

        For one decoder that may need all the memory that can be had.
        """
        with self._lock:
            keep, self._keep_spare = self._keep_spare, False
        try:
            while self._make_room():
                pass
            yield
        finally:
            with self._lock:
                self._keep_spare = keep

    def close(self) -> None:
        """Ends all decoders; twice is no error. What is being decoded fails."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, None
        if spare is not None:
            self._discard(spare)
        with self._lock:
            live = list(self._live)
        for child in live:
            child.kill()  # whoever uses it frees it
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            self._free(child)
        self._starter.shutdown()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _for_pictures_of(self, owner: str | None, name: str) -> Child:
        """A child that has seen no picture of anybody else."""
        with self._lock:
            fitting = [one for one in self._idle if one.owner in (owner, None)]
            # The latest that has seen some of this owner's, so that others stay free for others.
            child = max(fitting, key=lambda one: (one.owner == owner, self._idle.index(one)), default=None)
            if child is not None:
                self._idle.remove(child)
        if child is not None and child.alive:
            return child
        self._free(child)
        child = self._take(name)
        try:
            child.share(_PICTURE_BYTES, 1)
        except BaseException:
            self._free(child)
            raise
        return child

    def _put_back(self, child: Child) -> None:
        over: Child | None = child
        if child.alive and child.uses < self.limits.image_uses:
            with self._lock:
                if not self._closed:
                    self._idle.append(child)
                    over = self._idle.pop(0) if len(self._idle) > _KEPT else None
        self._free(over)

    def _take(self, name: str) -> Child:
        """A child that is ready; the next one begins to start."""
        with self._lock:
            waiting, self._spare = self._spare, None
        if waiting is None:
            return self._begin(name, network=False)
        self._begin_spare()
        # It may have died while it waited, or never have started: that is not the fault of this media.
        with contextlib.suppress(DecoderUnavailable):
            return self._ready(waiting.result(), name)
        return self._begin(name, network=False)

    def _begin(self, name: str, *, network: bool) -> Child:
        """A fresh child that is ready, once there is a place for it."""
        if self._closed:
            raise DecoderUnavailable(f"{name}: the decoders are closed")
        self.places.take(name, self._make_room)
        started = self._submit(network=network)
        if started is None:
            raise DecoderUnavailable(f"{name}: the decoders are closed")
        self._begin_spare()
        return self._ready(started.result(), name)

    def _begin_spare(self) -> None:
        """Starts a child for whoever comes next, where one is wanted and there is a place that nobody else wants."""
        if self._closed or not self._keep_spare or self._spare is not None or not self.places.try_take():
            return
        spare = self._submit(network=False)
        with self._lock:
            if self._spare is None and not self._closed:
                self._spare, spare = spare, None
        if spare is not None:  # another thread was faster, or it was closed meanwhile
            self._discard(spare)

    def _make_room(self) -> bool:
        """Ends a child that does nothing; whether there was one."""
        with self._lock:
            spare, self._spare = self._spare, None
            idle = self._idle.pop(0) if spare is None and self._idle else None
        if spare is not None:
            self._discard(spare)
        self._free(idle)
        return spare is not None or idle is not None

    def _discard(self, started: concurrent.futures.Future[Child]) -> None:
        with contextlib.suppress(DecoderUnavailable, concurrent.futures.CancelledError):
            self._free(started.result())

    def _submit(self, *, network: bool) -> concurrent.futures.Future[Child] | None:
        """Starts a child for which a place was taken; None where the decoders are closed."""
        try:
            return self._starter.submit(self._start, network=network)
        except RuntimeError:
            self.places.give_back()
            return None

    def _ready(self, child: Child, name: str) -> Child:
        try:
            child.wait_until_ready(name)
            if not child.alive:
                raise DecoderUnavailable(f"{name}: the decoder has ended")
        except BaseException:
            self._free(child)
            raise
        return child

    def _start(self, *, network: bool) -> Child:
        try:
            child = Child(self.limits, network=network, killed=self._count, gone=self.places.give_back)
        except BaseException:
            self.places.give_back()
            raise
        with self._lock:
            self._live = {one for one in self._live if one.alive} | {child}
        return child

    def _free(self, child: Child | None) -> None:
        if child is not None:
            child.close()
            with self._lock:
                self._live.discard(child)

    def _count(self, reason: str) -> None:
        with self._lock:
            self._kills[reason] += 1

    def _learn(self, child: Child) -> None:
        flags = dict(child.isolation)
        flags["network"] = bool(flags.get("own_network") or flags.get("system_calls"))
        with self._lock:
            self._isolation = flags


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], name: str) -> Iterator[int]:
    """A descriptor of a regular file."""
    try:
        # Not to wait for whoever writes into a named pipe.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise OpenError(name, "no such file", "check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OpenError(name, f"cannot be read: {reason}", "check its permissions") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OpenError(name, "is not a regular file", "copy it to a file first")
        yield file
    finally:
        os.close(file)


_ONE_GREY_PICTURE = b"P5 16 16 255\n" + bytes(256)
"""A whole picture file, in the PPM family of formats."""
