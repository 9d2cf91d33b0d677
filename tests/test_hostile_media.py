"""Media made to harm: bombs, damage by a seeded fuzzer, and files that ask for others. Each is an error of its own."""

import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from clips import encode
from hostile import BOMBS, Canary, avi, mutated, picture, requests, seeds

from fakeface_jax.errors import LimitExceeded, MediaError
from fakeface_jax.server.sandbox.pool import DecodeLimits, Decoders
from fakeface_jax.video.reading.opencv import VideoFile
from fakeface_jax.video.reading.sampling import Sampling

LIMITS = DecodeLimits(
    memory_bytes=2 * 2**30,
    image_seconds=20.0,
    wall_seconds=20.0,
    max_pixels=50_000_000,
    max_frames=5000,
    max_seconds=3600.0,
)
FUZZED_PICTURES, FUZZED_VIDEOS = 80, 18
"""Mutations; FAKEFACE_FUZZ multiplies them."""


@pytest.fixture(scope="module")
def decoders():
    with Decoders(LIMITS) as found:
        yield found
        # The parent is as it was: what is good is still read.
        assert found.image(picture("PNG"), "good").shape == (48, 64, 3)


@pytest.fixture(scope="module")
def canary():
    with Canary() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


def outcome(decoders, data, tmp_path, name):
    """What a file gets, as a picture and as a video: errors that say so, or pictures."""
    answers = []
    try:
        answers.append(decoders.image(data, name).shape)
    except MediaError as error:
        answers.append(error)
    path = tmp_path / "upload.bin"
    path.write_bytes(data)
    answers.append(watched(decoders, path, name))
    return answers


def watched(decoders, path, name, sampling=Sampling(frames=8)):
    try:
        with decoders.open_video(path, name) as video:
            return [frame.image.shape for frame in video.frames(sampling)]
    except MediaError as error:
        return error


# ---- bombs


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_or_read_within_the_limits(decoders, tmp_path, name):
    data = BOMBS[name]()
    began = time.monotonic()
    as_picture, as_video = outcome(decoders, data, tmp_path, name)
    assert time.monotonic() - began < 20
    assert isinstance(as_picture, MediaError) or not name.endswith("-header"), as_picture
    assert isinstance(as_picture, MediaError) or as_picture in ((48, 64, 3), (16, 65_500, 3))
    assert isinstance(as_video, MediaError) or all(shape == (48, 64, 3) for shape in as_video)
    for child in list(decoders._live):
        status = Path(f"/proc/{child.pid}/status")
        if status.exists():
            (high,) = [int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")]
            assert high < 800_000, "kB"


def test_frames_are_counted_and_not_believed(decoders, tmp_path):
    jpeg = picture("JPEG", (16, 16))
    path = tmp_path / "many.avi"
    path.write_bytes(avi([jpeg] * 5001, size=(16, 16), count=3))
    with pytest.raises(LimitExceeded, match="more than 5000 frames"):
        decoders.open_video(path, "many")
    encode(tmp_path / "long.mkv", count=3, times=(0.0, 1.0, 3700.0))
    with pytest.raises(LimitExceeded, match="s long, more than 3600 s"):
        decoders.open_video(tmp_path / "long.mkv", "long")


# ---- damage


def test_damaged_media_gives_frames_or_an_error(decoders, tmp_path):
    chance = random.Random(20_240_607)
    more = int(os.environ.get("FAKEFACE_FUZZ", "1"))
    pictures, videos = seeds(tmp_path)
    work = []
    for number in range(FUZZED_PICTURES * more):
        form = sorted(pictures)[number % len(pictures)]
        work.append(("picture", f"{form} {number}", mutated(pictures[form], chance)))
    for number in range(FUZZED_VIDEOS * more):
        form = sorted(videos)[number % len(videos)]
        work.append(("video", f"{form} {number}", mutated(videos[form], chance)))

    def judge(one):
        kind, name, data = one
        if kind == "picture":
            try:
                image = decoders.image(data, name)
            except MediaError as error:
                return error
            assert image.dtype == np.uint8
            return image.shape
        path = tmp_path / f"fuzzed-{name.split()[1]}"
        path.write_bytes(data)
        return watched(decoders, path, name, Sampling(every=1))

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(judge, work))
    errors = [answer for answer in answers if isinstance(answer, MediaError)]
    # Some are read all the same, most are not, and nothing hangs.
    assert 0.2 * len(work) < len(errors) < 0.98 * len(work)
    assert decoders.kills["timeout"] == decoders.kills["protocol"] == decoders.kills["start"] == 0


# ---- files that ask for others


def test_the_canary_sings(canary):
    before = canary.hits
    with socket.create_connection(("127.0.0.1", canary.port)) as connection:
        assert connection.recv(100).startswith(b"HTTP/1.0 404")
    assert canary.hits == before + 1


def test_nothing_makes_a_decoder_open_another_place(decoders, canary, tmp_path):
    before = canary.hits
    answers = {}
    files = list(requests(tmp_path, canary.port))

    def judge(one):
        name, data = one
        # What FFmpeg makes of a name is not to help: the decoder gets none.
        path = tmp_path / f"{name}.{('m3u8', 'mp4', 'mpd')[len(name) % 3]}"
        path.write_bytes(data)
        try:
            decoders.image(data, name)
        except MediaError as error:
            return name, error, watched(decoders, path, name)
        raise AssertionError(f"{name} was taken for a picture")

    with ThreadPoolExecutor(2) as pool:
        answers = {name: video for name, _, video in pool.map(judge, files)}
    time.sleep(0.2)
    assert canary.hits == before
    # Media that are there beside what they ask for may be read; what is elsewhere may not.
    with VideoFile(tmp_path / "secret.mp4") as secret:
        assert secret.frame_count == 3
    for name, answer in answers.items():
        if name in ("mov-url", "mov-alias", "mov-alias-local", "mkv-attachment", "avi-subtitles"):
            assert isinstance(answer, MediaError) or len(answer) == 8, name
        else:
            assert isinstance(answer, MediaError), name


WALLS = """
    import json, os, sys
    from fakeface_jax.server.sandbox.protocol import DecodeLimits
    from fakeface_jax.server.sandbox.lockdown import before_imports, before_media
    locked, *paths = json.loads(sys.argv[1])
    if locked:
        before_imports(DecodeLimits(), network=False, parent=os.getppid())
    import cv2
    files = [os.open(path, os.O_RDONLY) for path in paths]
    places = [f"/proc/self/fd/{file}" for file in files]
    if locked:
        assert all(before_media(readable=places, writable=[], network=False).values())
    print(json.dumps([cv2.VideoCapture(place, cv2.CAP_FFMPEG).isOpened() for place in places]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is enforced is Linux's")
@pytest.mark.parametrize("locked", [False, True])
def test_where_ffmpeg_would_open_other_places_the_process_cannot(decoders, canary, tmp_path, locked):
    """The look at the beginning and the list of demuxers are two walls; behind them stands this one."""
    if not (decoders.isolation["network"] and decoders.isolation["files"]):
        pytest.skip("this platform does not keep a decoder from the network and from other files")
    names = ("concat-local", "concat")
    files = dict(requests(tmp_path, canary.port))
    for name in names:
        (tmp_path / name).write_bytes(files[name])
    before = canary.hits
    careless = "protocol_whitelist;file,http,tcp|safe;0"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WALLS), json.dumps([locked, *(str(tmp_path / name) for name in names)])],
        env={**os.environ, "OPENCV_FFMPEG_CAPTURE_OPTIONS": careless, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        cwd=Path(__file__).resolve().parent.parent,
        text=True,
        check=True,
    )
    opened = json.loads(done.stdout)
    assert opened == [not locked, False]
    assert (canary.hits > before) == (not locked)


def test_limits_of_this_file_are_stricter_than_the_defaults():
    for field in dataclasses.fields(LIMITS):
        assert getattr(LIMITS, field.name) <= getattr(DecodeLimits(), field.name), field.name
