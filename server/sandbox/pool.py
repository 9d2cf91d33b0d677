"""Media that strangers send is decoded in processes that can do nothing else, and that are ended when they misbehave.

A crash, a hang or too much of anything in a decoder is an error of the one input that caused it. Children for
pictures live on from one to the next; each video and each live source has one of its own. One more is kept started,
so that nobody waits for Python to load. What a child gives up: `fakeface_jax.server.sandbox.lockdown`.

Example:
    >>> with Decoders() as decoders:
    ...     image = decoders.image(data, "upload.png")
    ...     with decoders.open_video("upload.bin", "clip.mp4") as video:
    ...         report = score_video(classifier, detector, video, sha256=sha256)
    ...     decoders.annotate(report, "upload.bin", "annotated.mp4")
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import os
import pickle
import queue
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import UInt8

from fakeface_jax.errors import LimitExceeded, OpenError
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


class Decoders:
    """Decodes pictures, videos and live sources in other processes. Any thread may call.

    Args:
        limits: of each process.
        images: pictures that are decoded at the same time; others wait.
        spare: whether one more process is kept ready.
    """

    def __init__(self, limits: DecodeLimits = DecodeLimits(), images: int = 2, *, spare: bool = True) -> None:
        self.limits = limits
        self._lock = threading.Lock()
        self._kills: collections.Counter[str] = collections.Counter(dict.fromkeys(REASONS, 0))
        self._isolation: dict[str, bool] = {}
        self._closed = False
        # A child ends with the thread that started it (PR_SET_PDEATHSIG), so that has to be one that lives on.
        self._starter = concurrent.futures.ThreadPoolExecutor(1, "fakeface-decoders")
        self._spare: concurrent.futures.Future[Child] | None = None
        self._keep_spare = spare
        self._live: set[Child] = set()
        self._idle: queue.LifoQueue[Child | None] = queue.LifoQueue()
        for _ in range(images):
            self._idle.put(None)
        if spare:
            self._spare = self._starter.submit(self._start, network=False)

    @property
    def kills(self) -> dict[str, int]:
        """How many decoders ended before their time, by reason; see `REASONS`."""
        with self._lock:
            return dict(self._kills)

    @property
    def isolation(self) -> dict[str, bool]:
        """What this platform enforces on decoders of files; found out by decoding a picture, once.

        Keys: `memory`, `cpu`, `open_files`, `written_files`, `no_new_rights`, `ends_with_parent`, `rights` (no
        capabilities), `files` (it opens no others), `system_calls` (no programs, no sockets), `own_network` (an empty
        one), and `network`: whether it has none, by one way or the other.
        """
        if not self._isolation:
            self.image(_ONE_GREY_PICTURE, "(self test)")
        with self._lock:
            return dict(self._isolation)

    def image(self, data: bytes, name: str) -> UInt8[np.ndarray, "h w 3"]:
        """Decodes a picture; see `fakeface_jax.images.decode_image` for what comes back and what is raised.

        Args:
            data: a whole image file.
            name: what errors call it.

        Raises:
            LimitExceeded: also for a decoder that needed too much.
            DecodeError: also for a decoder that crashed or hung.
            DecoderKilled: somebody else killed the decoder; another try may succeed.
        """
        if len(data) > self.limits.image_bytes:
            problem = f"{len(data)} bytes, more than {self.limits.image_bytes}"
            raise LimitExceeded(name, problem, "make it smaller")
        child = self._idle.get()
        try:
            if child is None or not child.alive:
                self._free(child)
                child = self._take(name)
                child.share(_PICTURE_BYTES, 1)
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
            if child is not None and (not child.alive or child.uses >= self.limits.image_uses):
                self._free(child)
                child = None
            self._idle.put(child)

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
            if source.kind == "file":
                child = self._take(name)
            else:
                child = self._ready(self._starter.submit(self._start, network=True).result(), name)
        except (DecoderUnavailable, RuntimeError) as error:  # RuntimeError: closed meanwhile
            raise ConnectionLost(str(error)) from error
        try:
            return IsolatedCapture(child, source, open_timeout, read_timeout, self.limits)
        except BaseException:
            self._free(child)
            raise

    @contextlib.contextmanager
    def with_room(self) -> Iterator[None]:
        """Ends the decoders that nobody uses, and keeps none ready until the end of the block: for one decoder that
        may need all the memory that can be had."""
        with self._lock:
            keep, self._keep_spare = self._keep_spare, False
            spare, self._spare = self._spare, None
        try:
            if spare is not None:
                with contextlib.suppress(Exception):  # one that could not be started needs no ending
                    self._free(spare.result())
            unused = []
            with contextlib.suppress(queue.Empty):
                while True:
                    unused.append(self._idle.get_nowait())
            for child in unused:
                self._free(child)
                self._idle.put(None)
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
            with contextlib.suppress(Exception):
                spare.result().close()
        with self._lock:
            live = list(self._live)
        for child in live:
            child.kill()  # whoever uses it frees it
        idle = 0
        with contextlib.suppress(queue.Empty):
            while True:
                self._free(self._idle.get_nowait())
                idle += 1
        for _ in range(idle):
            self._idle.put(None)
        self._starter.shutdown()

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self, name: str) -> Child:
        """A child that is ready; the next one begins to start."""
        with self._lock:
            if self._closed:
                raise DecoderUnavailable(f"{name}: the decoders are closed")
            waiting, self._spare = self._spare, None
            if self._keep_spare:
                self._spare = self._starter.submit(self._start, network=False)
        if waiting is not None:
            # It may have died while it waited, or never have started: that is not the fault of this media.
            with contextlib.suppress(DecoderUnavailable):
                return self._ready(waiting.result(), name)
        return self._ready(self._starter.submit(self._start, network=False).result(), name)

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
        child = Child(self.limits, network=network, killed=self._count)
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
        flags["network"] = flags.get("own_network", False) or flags.get("system_calls", False)
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
