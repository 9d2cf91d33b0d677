"""Helpers for tests of the page: the real service in its own process, media for a browser, a fake camera.

Example:
    >>> with running_service(tmp_path / "state", tmp_path / "log", ["pan=clip.mp4"]) as address:
    ...     page.goto(address)
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent

_START = 180.0
"""Seconds in which the service must load and warm up its model; machines that run tests are busy."""


@contextlib.contextmanager
def running_service(state: Path, log: Path, streams: Sequence[str]) -> Iterator[str]:
    """Runs `fakeface serve` with the bundled model and yields its address once it is ready."""
    command = [
        sys.executable,
        "-m",
        "fakeface_jax.cli.main",
        "serve",
        "--port",
        "0",
        "--state",
        str(state),
        "--streams",
        *streams,
    ]
    with log.open("wb") as out, subprocess.Popen(command, cwd=REPOSITORY, stdout=out, stderr=out) as process:
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        found = re.search(r"http://[^/\s]+", log.read_text(errors="replace"))
        if process.poll() is not None:
            break
        if found and _ready(found[0]):
            return found[0]
        time.sleep(0.2)
    raise AssertionError(f"the service did not start: {log.read_text(errors='replace')[-2000:]}")


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/readyz", timeout=10) as answer:
            return answer.status == 200
    except urllib.error.HTTPError as error:
        error.close()
        return False


def token(state: Path, command: str, name: str) -> str:
    """Runs `fakeface token COMMAND NAME` and returns its output."""
    words = [sys.executable, "-m", "fakeface_jax.cli.main", "token", command, name, "--state", str(state)]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def playable_clip(target: Path, times: int = 1) -> Path:
    """Writes the sample video as H.264, which Chromium plays: ten frames a second, four seconds, `times` times."""
    import av

    with av.open(str(REPOSITORY / "samples/real_collins_pan.mp4")) as source:
        frames = [frame.to_ndarray(format="rgb24") for i, frame in enumerate(source.decode(video=0)) if i % 5 in (0, 2)]
    with av.open(str(target), "w") as out:
        stream = out.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for picture in frames * times:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())
    return target


def camera_file(target: Path) -> Path:
    """Writes the sample video as Motion JPEG, which Chromium plays in a loop as its camera."""
    import av

    with av.open(str(REPOSITORY / "samples/real_collins_pan.mp4")) as source, target.open("wb") as out:
        for number, frame in enumerate(source.decode(video=0)):
            if number % 2 == 0:
                picture = io.BytesIO()
                Image.fromarray(frame.to_ndarray(format="rgb24")).save(picture, "JPEG", quality=85)
                out.write(picture.getvalue())
    return target
