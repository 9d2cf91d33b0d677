"""The child process of the sandbox, run as `python -m fakeface_jax.server.sandbox.worker_main`: it only decodes.

It speaks with its parent over one socket (`protocol.Channel`), is given the media as an open descriptor, and hands
pictures out as raw bytes, through memory that both have mapped where that is possible. Its first piece of work decides
what it is for the rest of its life: pictures, one video, one annotated video, or one live source.

Example:
    >>> python -m fakeface_jax.server.sandbox.worker_main '{"channel": 5, ...}'
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
import mmap
import os
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fakeface_jax.server.sandbox.lockdown import FOR_NAMES, allow_writing, before_imports, before_media, limit_cpu
from fakeface_jax.server.sandbox.protocol import BrokenChannel, Channel, DecodeLimits

if TYPE_CHECKING:
    import numpy as np

    from fakeface_jax.server.sandbox.limits import GuardedVideo
    from fakeface_jax.video.live.capture import Capture
    from fakeface_jax.video.reading.source import Frame

_BEAT = 0.5
"""Seconds between signs of life while nothing is handed out."""

_FROM_PARENT = 2**40
"""Bytes: what the parent sends is trusted."""


class Interrupted(Exception):
    """The parent wants something else, and the walk in progress ends."""


def main(arguments: str) -> None:
    """Serves one parent until it is gone.

    Args:
        arguments: JSON; see `fakeface_jax.server.sandbox.child`.
    """
    given = json.loads(arguments)
    limits = DecodeLimits(**given["limits"])
    channel = Channel(socket.socket(fileno=given["channel"]))
    enforced = before_imports(limits, network=given["network"], parent=given["parent"])
    with contextlib.suppress(BrokenChannel):
        try:
            # What most of them need, while nobody waits for it. The rest (sound, drawing) when it is asked for.
            importlib.import_module("fakeface_jax.server.sandbox.limits")
            channel.send({"ready": True, "isolation": enforced})
            _Decoder(channel, limits, network=given["network"]).serve()
        except BrokenChannel:
            raise
        except BaseException as error:
            # Whatever it is, the parent has a log and this process has none.
            channel.send({"bug": f"{type(error).__name__}: {error}"[:2000]})


class _Decoder:
    """Answers the parent's messages, one after the other."""

    def __init__(self, channel: Channel, limits: DecodeLimits, *, network: bool) -> None:
        self._channel, self._limits, self._network = channel, limits, network
        self._memory: mmap.mmap | None = None
        self._slot_size = 0
        self._free: list[int] = []
        self._slot: int | None = None
        self._placed = self._walking = self._locked = False
        self._video: GuardedVideo | None = None
        self._capture: Capture | None = None
        self._beaten = time.monotonic()
        self._done = 0

    def serve(self) -> None:
        """Ends by `BrokenChannel` when the parent is gone."""
        while True:
            message, payload, files = self._channel.receive_with_files(max_bytes=_FROM_PARENT, max_header=_FROM_PARENT)
            try:
                getattr(self, f"_do_{message['do']}")(message, payload, files)
            except Interrupted:
                self._channel.send({"end": True, "interrupted": True})
            except MemoryError:
                self._channel.send({"memory": True})
            except Exception as error:
                self._channel.send(_described(error))

    # ---- what the parent can ask for

    def _do_memory(self, message: dict[str, Any], _: bytearray, files: list[int]) -> None:
        """Maps the memory that pictures are handed out in."""
        self._memory = mmap.mmap(files[0], message["size"])
        os.close(files[0])
        self._slot_size = message["size"] // message["slots"]
        self._free = list(range(message["slots"]))

    def _do_picture(self, message: dict[str, Any], payload: bytearray, _: list[int]) -> None:
        from fakeface_jax.errors import LimitExceeded
        from fakeface_jax.images import decode_image, open_picture

        self._lock([])
        limit_cpu(self._limits.image_cpu_seconds)
        name, most = message["name"], self._limits.max_pixels
        data = bytes(payload)
        with contextlib.suppress(Exception):  # what is wrong with it, decode_image says
            width, height = open_picture(data).size
            if width * height > most:
                problem = f"{width} x {height} pixels, more than {most / 1e6:g} megapixels"
                self._channel.send(_described(LimitExceeded(name, problem, "make it smaller")))
                return
        self._hand_out(decode_image(data, source=name), {}, slot=0)

    def _do_video(self, message: dict[str, Any], _: bytearray, files: list[int]) -> None:
        video = self._open(message["name"], files[0])
        self._channel.send(
            {
                "width": video.width,
                "height": video.height,
                "fps": video.fps,
                "frame_count": video.frame_count,
                "frame_count_stated": video.frame_count_stated,
                "times_from": video.times_from,
                "duration": video.duration,
            }
        )

    def _do_samples(self, message: dict[str, Any], _: bytearray, __: list[int]) -> None:
        from fakeface_jax.video.reading.sampling import Sampling

        assert self._video is not None
        self._channel.send({"samples": self._video.expected_samples(Sampling(**message["sampling"]))})

    def _do_window(self, message: dict[str, Any], _: bytearray, __: list[int]) -> None:
        from fakeface_jax.video.reading.sampling import Sampling

        assert self._video is not None
        window = self._video.window(Sampling(**message["sampling"]))
        self._channel.send({"start": window.start, "stop": window.stop})

    def _do_frames(self, message: dict[str, Any], _: bytearray, __: list[int]) -> None:
        from fakeface_jax.video.reading.sampling import Sampling

        assert self._video is not None
        self._walk(self._video.frames(Sampling(**message["sampling"])), message["slots"])

    def _do_frames_at(self, message: dict[str, Any], _: bytearray, __: list[int]) -> None:
        assert self._video is not None
        self._walk(self._video.frames_at(message["indices"]), message["slots"])

    def _do_free(self, message: dict[str, Any], _: bytearray, __: list[int]) -> None:
        """Comes late, after the end of a walk."""

    def _do_stop(self, message: dict[str, Any], _: bytearray, __: list[int]) -> None:
        """Comes late, after the end of a walk."""

    def _do_annotate(self, message: dict[str, Any], payload: bytearray, files: list[int]) -> None:
        import pickle

        from fakeface_jax.video.render.annotate import save_annotated_video

        # From the parent, which is trusted; the other way round nothing is unpickled.
        report = pickle.loads(payload)
        allow_writing(self._limits)
        video = self._open(message["name"], files[0], writable=[message["directory"]])
        target = Path(message["directory"]) / message["file"]
        save_annotated_video(report, target, source=f"/proc/self/fd/{files[0]}", video=video)
        self._channel.send({"done": True})

    def _do_live(self, message: dict[str, Any], _: bytearray, __: list[int]) -> None:
        from fakeface_jax.video.live.capture import ConnectionLost, StreamSource, open_capture

        source = StreamSource(kind=message["kind"], place=message["place"])
        # A camera is a device, and a driver may need any file.
        readable = {"camera": None, "address": FOR_NAMES, "file": (source.place,)}[source.kind]
        self._lock(readable, cpu=None)
        try:
            self._capture = open_capture(source, message["open_timeout"], message["read_timeout"])
        except ConnectionLost as reason:
            self._channel.send({"lost": str(reason)})
        else:
            self._channel.send({"finite": self._capture.finite})

    def _do_read(self, _: dict[str, Any], __: bytearray, ___: list[int]) -> None:
        from fakeface_jax.video.live.capture import ConnectionLost, DamagedPicture

        assert self._capture is not None
        try:
            picture = self._capture.read()
        except DamagedPicture:
            self._channel.send({"damaged": True})
        except ConnectionLost as reason:
            self._channel.send({"lost": str(reason)})
        else:
            if picture is None:
                self._channel.send({"end": True})
            else:
                self._hand_out(picture.image, {"time": picture.time}, slot=0)

    # ---- how

    def _lock(self, readable: Iterable[str] | None, *, writable: Iterable[str] = (), cpu: int | None = -1) -> None:
        """Before the first byte of anything from outside; what it enforces is told to the parent."""
        if self._locked:
            return
        self._locked = True
        enforced = before_media(readable=readable, writable=writable, network=self._network)
        if cpu is not None:
            enforced["cpu"] = limit_cpu(cpu if cpu >= 0 else self._limits.image_cpu_seconds, last=cpu >= 0)
        self._channel.send({"isolation": enforced})

    def _open(self, name: str, file: int, *, writable: Iterable[str] = ()) -> GuardedVideo:
        from fakeface_jax.server.sandbox.limits import GuardedVideo

        path = f"/proc/self/fd/{file}" if sys.platform == "linux" else f"/dev/fd/{file}"
        self._lock([path], writable=writable, cpu=self._limits.cpu_seconds)
        self._video = GuardedVideo(path, name=name, limits=self._limits, alive=self._alive, place=self._place)
        return self._video

    def _alive(self) -> None:
        """Called for every packet: shows the parent that there is progress, and ends a walk it gave up."""
        self._done += 1
        now = time.monotonic()
        if now - self._beaten >= _BEAT:
            self._beaten = now
            self._channel.send({"beat": self._done})
            while self._walking and self._channel.ready():
                self._take_back()

    def _walk(self, frames: Iterator[Frame], slots: int) -> None:
        assert self._video is not None
        self._free = list(range(slots))
        self._slot, self._placed = None, False
        self._done = 0
        self._walking = True
        try:
            for frame in frames:
                counters = dataclasses.astuple(self._video.counters)
                header = {"index": frame.index, "time": frame.time, "counters": counters}
                slot, self._slot = self._free_slot() if self._slot is None else self._slot, None
                self._hand_out(frame.image, header, slot=slot, placed=self._placed)
        finally:
            self._walking = False
        self._channel.send({"end": True, "counters": dataclasses.astuple(self._video.counters)})

    def _place(self, shape: tuple[int, ...]) -> np.ndarray | None:
        """Where the next frame goes: straight into shared memory, which saves copying it there."""
        self._placed = False
        if not self._walking:
            return None
        if self._slot is None:
            self._slot = self._free_slot()
        view = self._view(shape, self._slot)
        self._placed = view is not None
        return view

    def _view(self, shape: tuple[int, ...], slot: int) -> np.ndarray | None:
        """A part of the shared memory; None where there is none, or the picture is too large for it."""
        import numpy as np

        count = math.prod(shape)
        if self._memory is None or count > self._slot_size:
            return None
        return np.frombuffer(self._memory, np.uint8, count, slot * self._slot_size).reshape(shape)

    def _free_slot(self) -> int:
        """One that the parent is done with; waits for it."""
        while not self._free or self._channel.ready():
            self._take_back()
        return self._free.pop(0)

    def _take_back(self) -> None:
        message, _ = self._channel.receive(max_bytes=0)
        if message["do"] != "free":
            raise Interrupted
        self._free.append(message["slot"])

    def _hand_out(self, image: np.ndarray, header: dict[str, Any], *, slot: int, placed: bool = False) -> None:
        import numpy as np

        height, width = image.shape[:2]
        header = {**header, "width": width, "height": height, "slot": slot}
        view = None if placed else self._view(image.shape, slot)
        if view is not None:
            np.copyto(view, image)
        if placed or view is not None:
            self._channel.send(header)
        else:
            self._channel.send(header, np.ascontiguousarray(image).data)
        self._beaten = time.monotonic()


def _described(error: Exception) -> dict[str, Any]:
    """An error as data; the parent makes the same one of it."""
    from fakeface_jax.errors import FakeFaceError, MediaError

    cause: BaseException | None = error
    number = 0
    while cause is not None:
        if isinstance(cause, MemoryError):
            return {"memory": True}
        number = number or (cause.errno or 0 if isinstance(cause, OSError) else 0)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, MediaError):
        said = {"error": type(error).__name__, "problem": error.problem[:2000], "remedy": error.remedy[:500]}
        return {**said, "errno": number}
    if isinstance(error, FakeFaceError):
        return {"error": type(error).__name__, "problem": str(error)[:2000]}
    return {"bug": f"{type(error).__name__}: {error}"[:2000]}


if __name__ == "__main__":
    main(sys.argv[1])
