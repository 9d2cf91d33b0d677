"""One contract for all readers of video files, over clips with known truth: backend x clip is the table of what works.

Run it with `pytest tests/test_frame_sources.py -v -k contract` to see the table.
"""

import contextlib
import csv
import gc
import io
import math
import os
import struct
import subprocess
import sys
import types
import weakref
from fractions import Fraction
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import pytest
from clips import (
    CLIPS,
    COUNT,
    FIELDS,
    RATE,
    X264,
    Clip,
    damage,
    encode,
    is_upright,
    number_of,
    numbered_picture,
    packets_at,
)
from PIL import Image

from fakeface_jax.errors import ConfigError, DecodeError, LimitExceeded, MediaError, OpenError
from fakeface_jax.video.reading import reader as walk
from fakeface_jax.video.reading.h264 import UnitReader
from fakeface_jax.video.reading.opencv import Frame, FrameSource, VideoFile, is_interlaced, open_video
from fakeface_jax.video.reading.packet_index import PacketIndex
from fakeface_jax.video.reading.pyav import PyAVFile
from fakeface_jax.video.reading.sampling import Sampling

BACKENDS = ("opencv", "pyav")
READABLE = [(backend, name) for backend in BACKENDS for name, clip in CLIPS.items() if backend not in clip.errors]
SOUND = [name for name, clip in CLIPS.items() if clip.certain is None and not clip.errors]
REFUSED = [name for name, clip in CLIPS.items() if "pyav" in clip.errors]

SAMPLINGS = {
    "every-25th": Sampling(every=25),
    "three-a-second": Sampling(fps=3.0),
    "three-frames": Sampling(frames=3),
    "window": Sampling(every=20, start=0.5, end=2.0),
    "late-window": Sampling(frames=2, start=1.5),
}


@pytest.fixture(scope="session")
def clip_path(tmp_path_factory):
    """Makes a clip when it is first asked for."""
    folder = tmp_path_factory.mktemp("clips")

    def make(name):
        path = folder / CLIPS[name].file
        if not path.exists():
            CLIPS[name].make(path)
            if hasattr(os, "sched_getscheduler"):
                assert os.sched_getscheduler(0) == os.SCHED_OTHER, "an encoder has made this process a real-time one"
        return path

    return make


@pytest.fixture(scope="session")
def decoded(clip_path):
    """All frames of a clip, by a walk that never jumps."""
    known: dict[tuple[str, str], list[Frame]] = {}

    def decode(backend, name):
        if (backend, name) not in known:
            with open_video(clip_path(name), backend) as video:
                known[backend, name] = list(video.frames(Sampling(every=1)))
                assert video.counters.skipped == 0
        return known[backend, name]

    return decode


def ffmpeg(*arguments):
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *arguments], check=True)


def same(frames, others):
    return [(frame.index, frame.time) for frame in frames] == [(other.index, other.time) for other in others] and all(
        np.array_equal(frame.image, other.image) for frame, other in zip(frames, others, strict=True)
    )


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_contract(clip_path, backend, name, capfd):
    clip: Clip = CLIPS[name]
    if backend in clip.errors:
        kind, words = clip.errors[backend]
        with pytest.raises(kind, match=words) as caught:
            open_video(clip_path(name), backend)
        assert str(caught.value).startswith(str(clip_path(name)))
        assert "\n" not in str(caught.value)
    else:
        with open_video(clip_path(name), backend) as video:
            assert isinstance(video, FrameSource)
            assert (video.width, video.height) == clip.size
            assert video.times_from == clip.times_from
            if clip.certain is None:
                assert video.duration == pytest.approx(clip.times[-1] + 1 / RATE, abs=0.25)
                assert video.frame_count == len(clip.times) + video._edited_out
            frames = list(video.frames(Sampling(every=1)))
            check_frames(clip, frames)
            counters = video.counters
            assert counters.sampled == counters.read == len(frames)
            assert counters.skipped == 0
            if clip.certain is None:
                assert len(frames) == len(clip.times)
                assert counters.dropped == 0  # what an edit list hides is not missing
            else:
                assert counters.read + counters.dropped == COUNT
                assert counters.dropped > 0
            again = list(video.frames(Sampling(every=1)))  # each walk begins at the beginning
            assert [(frame.index, frame.time) for frame in again] == [(frame.index, frame.time) for frame in frames]
            # What a decoder's threads make of damage is another thing each time.
            assert clip.certain is not None or same(again, frames)
            assert video.counters == counters
            video.close()
            video.close()
    assert capfd.readouterr() == ("", "")  # neither OpenCV nor FFmpeg writes past Python


def check_frames(clip, frames):
    width, height = clip.size
    numbers = clip.numbers or tuple(range(len(clip.times)))
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    assert set(clip.certain or range(len(clip.times))) <= set(indices)
    for frame in frames:
        assert frame.image.shape == (height, width, 3)
        assert frame.image.dtype == np.uint8
        certain = clip.certain is None or frame.index in clip.certain
        if certain or not clip.cut:  # at a cut, frames are missing between others that were coded before them
            assert frame.time == pytest.approx(clip.times[frame.index], abs=2e-3)
        if certain:
            assert number_of(frame.image) == numbers[frame.index]
            assert is_upright(frame.image)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize(("backend", "name"), READABLE)
def test_sampling_is_decoding_everything_and_picking(clip_path, decoded, monkeypatch, backend, name, sampling):
    sampling, everything = SAMPLINGS[sampling], decoded(backend, name)
    with open_video(clip_path(name), backend) as video:
        window = video.window(sampling)
        choose = sampling.chooser(len(window))
        inside = [f for f in everything if not (sampling.before_window(f.time) or sampling.after_window(f.time))]
        if not inside:
            with pytest.raises(DecodeError, match="no frame could be sampled"):
                list(video.frames(sampling))
            return
        start = window.start if video._packets.ordered else inside[0].index
        picked = [frame for frame in inside if choose(frame.index - start, frame.time)]
        assert picked
        # Never jumps; jumps wherever that gets it forward.
        for margin in (10**6, 0) if video._can_seek and video._packets.ordered else (0,):
            monkeypatch.setattr(walk, "SEEK_MARGIN", margin)
            frames = list(video.frames(sampling))
            if CLIPS[name].depends and margin == 0:
                certain = [frame for frame in frames if frame.index in CLIPS[name].certain]
                assert len(certain) > len(frames) / 3
                assert same(certain, [frame for frame in everything if frame.index in [one.index for one in certain]])
            elif CLIPS[name].certain is not None:
                # What a decoder's threads make of damage is another thing each time.
                assert [frame.index for frame in frames] == [frame.index for frame in picked]
                sure = [[one for one in some if one.index in CLIPS[name].certain] for some in (frames, picked)]
                assert same(*sure)
            else:
                assert same(frames, picked)
            assert video.counters.sampled == len(frames)
            assert video.counters.read + video.counters.skipped <= video.frame_count


@pytest.mark.parametrize(("backend", "name"), READABLE)
def test_frames_at(clip_path, decoded, monkeypatch, backend, name):
    monkeypatch.setattr(walk, "SEEK_MARGIN", 0)
    everything, asked = decoded(backend, name), (0, 2, 3, 30, 31, 58, 59, 1000)
    with open_video(clip_path(name), backend) as video:
        # 30 and 31 are in the damaged part of those clips that have one
        compared = [index for index in asked if not CLIPS[name].depends or index in CLIPS[name].certain]
        frames = [frame for frame in video.frames_at(asked) if frame.index in compared]
        assert same(frames, [frame for frame in everything if frame.index in compared])
        assert list(video.frames_at(())) == []
        seek, jumps, jumped = video._seek, [], False
        monkeypatch.setattr(video, "_seek", lambda rank: jumps.append(rank) or seek(rank))
        for index in (30, 55):
            jumps.clear()
            list(video.frames_at((0, index)))
            jumped |= bool(jumps) and video.counters.skipped > 0
        assert CLIPS[name].seeks in (None, jumped)
        for wrong in ((3, 3), (5, 2), (-1, 4)):
            with pytest.raises(ConfigError, match="ascending"):
                list(video.frames_at(wrong))


@pytest.mark.parametrize("name", ["h264-one-key-frame", "h264-open-groups", "variable-rate", "edit-list"])
def test_frames_that_nothing_refers_to_are_not_decoded(clip_path, name):
    sampling = Sampling(every=7)
    with open_video(clip_path(name), "opencv") as plain, open_video(clip_path(name), "pyav") as video:
        everything = list(video.frames(Sampling(every=1)))
        assert video.counters.skipped == 0
        assert same(list(video.frames(sampling)), list(plain.frames(sampling)))
        assert video.counters.read + video.counters.skipped <= plain.counters.read
        assert video.counters.skipped > 5
        assert video.counters.dropped == plain.counters.dropped == 0
        # Those that are asked for are, whether anything refers to them or not.
        few = range(1, len(everything), 5)
        for offset in range(5):
            asked = [index + offset for index in few if index + offset < len(everything)]
            assert same(list(video.frames_at(asked)), [everything[index] for index in asked])


@pytest.mark.parametrize("name", ["damaged-h264", "damaged-key-frame"])
def test_where_something_is_damaged_every_frame_is_decoded(clip_path, monkeypatch, name):
    monkeypatch.setattr(walk, "SEEK_MARGIN", 10**6)
    with open_video(clip_path(name), "pyav") as video:
        frames = list(video.frames(Sampling(every=12)))
        assert video.counters.skipped == 0
        assert video.counters.dropped > 0
        everything = list(video.frames(Sampling(every=1)))
        choose = Sampling(every=12).chooser(COUNT)
        assert [frame.index for frame in frames] == [f.index for f in everything if choose(f.index, f.time)]


def test_what_turns_interlaced_is_read_to_its_end(tmp_path):
    """OpenCV says so too, and hands out the last picture before again and again."""
    first, path = tmp_path / "first.ts", tmp_path / "both.ts"
    encode(first, count=30)
    encode(path, count=30, start=32, options=X264 | FIELDS | {"x264-params": "tff=1"}, woven=True)
    path.write_bytes(first.read_bytes() + path.read_bytes())
    with open_video(path) as video:
        frames = list(video.frames(Sampling(every=1)))
        assert [number_of(frame.image) for frame in frames] == [*range(30), *range(30)]
        assert (video.counters.read, video.counters.dropped) == (60, 0)


@pytest.mark.parametrize(
    ("file", "codec", "options"),
    [
        ("h264.avi", "libx264", X264),
        ("mpeg4.avi", "mpeg4", {"bf": "2", "g": "12", "qscale": "3"}),
        ("mpeg2.mpg", "mpeg2video", {"bf": "2", "g": "12", "qscale": "3"}),
    ],
)
def test_frames_that_are_shown_in_another_order_than_they_are_coded_in(tmp_path, file, codec, options):
    """Of these, OpenCV loses one or two, and misplaces others."""
    path = tmp_path / file
    encode(path, codec, options=options)
    with open_video(path) as video:
        frames = list(video.frames(Sampling(every=1)))
        assert [number_of(frame.image) for frame in frames] == [frame.index for frame in frames] == list(range(COUNT))
        assert [frame.time for frame in frames] == pytest.approx([n / RATE for n in range(COUNT)], abs=1e-6)
        assert (video.counters.read, video.counters.dropped) == (COUNT, 0)
        assert same(list(video.frames(Sampling(every=7))), frames[::7])


def test_an_avi_with_a_gap_keeps_its_times(tmp_path):
    path = tmp_path / "gap.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options=X264)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(numbered_picture(number), "rgb24")
            frame.pts, frame.time_base = number + 50 * (number >= 20), Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with open_video(path) as video:
        frames = list(video.frames(Sampling(every=1)))
        assert [number_of(frame.image) for frame in frames] == list(range(40))
        # The gap lies where it was coded: within the frames that are decoded ahead.
        assert frames[10].time == pytest.approx(10 / RATE)
        assert frames[30].time == pytest.approx(80 / RATE)
        assert video.duration == pytest.approx(90 / RATE)


def test_raw_video_that_is_stored_upside_down(tmp_path):
    path = tmp_path / "raw.avi"
    encode(path, "rawvideo", pix_fmt="bgr24", options={}, count=5)
    with open_video(path) as video:
        frames = [frame.image for frame in video.frames(Sampling(every=1))]
    assert [number_of(image) for image in frames] == [0, 1, 2, 3, 4]
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 16  # the height in its BITMAPINFOHEADER: negative for lines from the top down
    (height,) = struct.unpack_from("<i", data, at)
    assert height == -96
    struct.pack_into("<i", data, at, -height)
    path.write_bytes(data)
    with open_video(path) as video:
        turned = [frame.image for frame in video.frames(Sampling(every=1))]
    assert all(np.array_equal(one, other[::-1]) for one, other in zip(turned, frames, strict=True))


def test_no_memory_is_no_damage(clip_path, monkeypatch):
    def decode(packet):
        raise av.error.MemoryError(12, "Cannot allocate memory")

    assert issubclass(av.error.MemoryError, av.FFmpegError)
    with open_video(clip_path("constant-rate")) as video:
        video._restart()
        stream, video._packets_left = video._stream, iter([next(video._packets_left)])
        video._stream = types.SimpleNamespace(codec_context=types.SimpleNamespace(decode=decode), time_base=1)
        with pytest.raises(MemoryError):
            video._grab()
        video._stream = stream


@pytest.mark.parametrize("number", [52, 57, 58, 59])
def test_what_comes_behind_a_damaged_packet_at_the_end(tmp_path, number):
    """Threads that decode several frames at once hand out nothing behind it."""
    path = tmp_path / "end.mp4"
    encode(path)
    damage(path, (number,))
    with open_video(path) as video:
        frames = list(video.frames(Sampling(every=1)))
        assert (video.counters.read, video.counters.dropped) == (COUNT - 1, 1)
        assert sum(number_of(frame.image) == frame.index for frame in frames) >= COUNT - 2
        assert [frame.index for frame in video.frames(Sampling(every=1))] == [frame.index for frame in frames]


def test_flipped_bits_hide_no_frame(tmp_path):
    """Which frames a decoder marks as damaged depends on its threads; they are shown, with the damage covered up."""
    path = tmp_path / "flipped.mp4"
    encode(path)
    data, generator = bytearray(path.read_bytes()), np.random.default_rng(0)
    for at, length in packets_at(path)[13:50:3]:
        data[at + int(generator.integers(length // 2, length))] ^= 4
    path.write_bytes(data)
    for _ in range(3):
        with open_video(path) as video:
            assert [frame.index for frame in video.frames(Sampling(every=1))] == list(range(COUNT))


@pytest.mark.parametrize("file", ["one.h264", "one.avi", "one.mkv"])
def test_one_frame_is_shown_at_once(tmp_path, file):
    encode(tmp_path / file, count=1)
    with open_video(tmp_path / file) as video:
        assert [(frame.index, frame.time) for frame in video.frames(Sampling(every=1))] == [(0, 0.0)]


def test_a_video_that_grows_too_large(tmp_path, monkeypatch):
    small, path = tmp_path / "small.h264", tmp_path / "grows.h264"
    encode(small, count=5)
    encode(path, count=5, size=(256, 192))
    path.write_bytes(small.read_bytes() + path.read_bytes())
    with open_video(path) as video:
        assert [frame.image.shape for frame in video.frames(Sampling(every=1))] == 5 * [(96, 128, 3)] + 5 * [
            (192, 256, 3)
        ]
        monkeypatch.setattr(walk, "MAX_PIXELS", 20_000)
        with pytest.raises(LimitExceeded, match="256 x 192 pixels"):
            list(video.frames(Sampling(every=1)))


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_closing_frees_the_decoder_at_once(clip_path):
    def threads():
        return len(os.listdir("/proc/self/task"))  # noqa: PTH208

    gc.collect()
    before = threads()
    gc.disable()
    try:
        for _ in range(3):
            video = open_video(clip_path("constant-rate"))
            next(video.frames(Sampling(every=1)))
            assert threads() > before
            video.close()
            del video
            assert threads() <= before
    finally:
        gc.enable()


def test_closed_in_the_middle_of_a_walk(clip_path):
    for sampling in (Sampling(every=1), Sampling(frames=2)):
        video = open_video(clip_path("constant-rate"))
        frames = video.frames(sampling)
        next(frames)
        video.close()
        with pytest.raises(OpenError, match="was closed while its frames were being read"):
            next(frames)


def test_one_field_has_the_colours_of_the_whole(tmp_path):
    """Those of high definition are converted otherwise than those of standard definition, if the frame says so."""
    picture = np.zeros((96, 128, 3), np.uint8)
    picture[:, :] = (200, 60, 30)
    shown = []
    for options in ({}, FIELDS | {"x264-params": "tff=1"}):
        path = tmp_path / "colour.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=RATE, options={"qp": "1", **options})
            context = stream.codec_context
            context.width, context.height, context.pix_fmt = 128, 96, "yuv420p"
            context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p", dst_colorspace="ITU709")
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        assert is_interlaced(path) == bool(options)
        with open_video(path) as video:
            shown.append(next(video.frames(Sampling(every=1))).image.astype(int))
    assert np.abs(shown[0] - shown[1]).max() <= 2
    assert np.abs(shown[1] - picture).max() <= 12


def test_units_of_h264():
    sized, annexed = UnitReader.of(bytes((1, 100, 0, 31, 0xFF, 0xE1))), UnitReader.of(None)
    assert (sized.length_size, annexed.length_size) == (4, 0)
    needed, disposable, parameters, information = b"\x41\x9a", b"\x01\x9e", b"\x68\xeb", b"\x06\x05"
    for units, expected in (
        ([disposable], True),
        ([information, disposable, disposable], True),
        ([needed], False),
        ([disposable, needed], False),  # the two fields of a frame
        ([parameters, disposable], False),
        ([information], False),
        ([], False),
    ):
        assert sized.is_disposable(b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)) is expected
        assert annexed.is_disposable(b"".join(b"\0\0\0\1" + unit for unit in units)) is expected
    hidden = disposable + b"\0\0\1" + parameters
    assert not sized.is_disposable(len(hidden).to_bytes(4, "big") + hidden)
    assert sized.is_disposable((256).to_bytes(4, "big") + disposable * 128)  # a length that looks like a start code
    for broken in (b"\0\0\0\x09\x01\x9e", b"\0\0\0\0\x01", b"\0\0", b"\xff\xff\xff\xff"):
        assert not sized.is_disposable(broken)
    assert not annexed.is_disposable(b"\0\0\1")


@pytest.mark.parametrize("name", SOUND)
def test_backends_agree_to_the_pixel(decoded, name):
    ours, theirs = decoded("opencv", name), decoded("pyav", name)
    assert [frame.index for frame in ours] == [frame.index for frame in theirs]
    assert [frame.time for frame in ours] == pytest.approx([frame.time for frame in theirs], abs=1e-9)
    assert all(np.array_equal(one.image, other.image) for one, other in zip(ours, theirs, strict=True))


def test_a_jump_that_leads_elsewhere_is_noticed(clip_path, decoded, monkeypatch):
    monkeypatch.setattr(walk, "SEEK_MARGIN", 0)
    for backend, kind in (("opencv", VideoFile), ("pyav", PyAVFile)):
        expected = [decoded(backend, "constant-rate")[index] for index in (0, 30, 50)]
        jump = kind._seek
        for elsewhere in (59, 5, 0):
            tried = []

            def astray(self, rank, jump=jump, elsewhere=elsewhere, tried=tried):
                tried.append(rank)
                jump(self, max(1, elsewhere))

            monkeypatch.setattr(kind, "_seek", astray)
            with open_video(clip_path("constant-rate"), backend) as video:
                assert same(list(video.frames_at((0, 30, 50))), expected)
                assert tried
                if elsewhere == 59:
                    assert video.counters.skipped == 0  # walked from the beginning
        monkeypatch.setattr(kind, "_seek", jump)


def test_sparse_sampling_says_how_much_was_seen(clip_path, monkeypatch):
    monkeypatch.setattr(walk, "SEEK_MARGIN", 0)
    with open_video(clip_path("constant-rate"), "pyav") as video:
        assert [frame.index for frame in video.frames_at((50,))] == [50]
        assert video.counters == walk.FrameCounters(read=4, sampled=1, dropped=0, skipped=47)


def test_bytes_and_open_files_are_read_by_pyav(clip_path, decoded):
    path = clip_path("hevc-open-groups")
    data = path.read_bytes()
    with path.open("rb") as file:
        for source in (data, io.BytesIO(data), file):
            with open_video(source) as video:
                assert isinstance(video, PyAVFile)
                assert video.name == "<bytes>"
                assert same(list(video.frames(Sampling(every=1))), decoded("pyav", "hevc-open-groups"))
        assert not file.closed
    with PyAVFile(data, name="upload") as video:
        assert video.name == "upload"
    with pytest.raises(ConfigError, match="backend pyav"):
        open_video(data, "opencv")


@pytest.mark.parametrize("name", [name for name in REFUSED if name != "folder-of-pictures"])
def test_bytes_that_are_no_video(clip_path, name):
    kind, words = CLIPS[name].errors["pyav"]
    with pytest.raises(kind, match=words) as caught:
        PyAVFile(clip_path(name).read_bytes(), name="upload")
    assert str(caught.value).startswith("upload: ")


def test_streams_that_cannot_be_rewound(clip_path):
    class Pipe(io.BytesIO):
        def seek(self, *_):
            raise io.UnsupportedOperation("seek")

    with pytest.raises(OpenError, match="cannot be read and rewound"):
        PyAVFile(Pipe(clip_path("constant-rate").read_bytes()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_passes_are_read_one_after_the_other(clip_path, backend):
    with open_video(clip_path("edit-list"), backend) as video:
        sampling = Sampling(faces=4, start=0.4, end=1.2)
        assert video.window(sampling) == range(10, 30)
        read = [[frame.index for frame in video.frames_at(indices)] for indices in video.passes(sampling)]
        assert read == [[12, 17, 22, 27], [10, 15, 20, 25], [11, 14, 16, 19, 21, 24, 26, 29], [13, 18, 23, 28]]
        assert [frame.index for frame in video.frames(sampling)] == read[0]


def test_the_default_backend(clip_path):
    path = clip_path("constant-rate")
    with open_video(path) as video:
        assert isinstance(video, PyAVFile)
        assert video.fps == pytest.approx(RATE)
        assert (video.name, video.frame_count, video.frame_count_stated) == (str(path), COUNT, COUNT)
        assert video.duration == pytest.approx(COUNT / RATE)
        with pytest.raises(DecodeError, match="from 100 s"):
            list(video.frames(Sampling(fps=1, start=100)))


def test_timestamps_name_frames_only_where_they_can():
    plain = PacketIndex.of([0.0, 0.12, 0.04, 0.08, 0.16], [1, 0, 0, 0, 1])
    assert (plain.count, plain.ordered, plain.keys.tolist()) == (5, True, [0, 4])
    assert [plain.rank(stamp) for stamp in (0.0, 0.08, 0.09, 9.0)] == [0, 2, None, None]
    assert [plain.key_before(rank) for rank in (0, 3, 4, 9)] == [0, 0, 4, 4]
    hidden = PacketIndex.of([0.0, 0.04, 0.04, 0.08], [1, 0, 0, 0])
    assert (hidden.count, hidden.ordered) == (3, True)
    open_group = PacketIndex.of([0.0, 0.12, 0.04, 0.08], [1, 1, 0, 0])
    assert open_group.ordered
    jumping = PacketIndex.of([0.0, 0.04, 0.08, 0.0, 0.04, 0.08], [1, 0, 0, 1, 0, 0])
    assert (jumping.count, jumping.timed, jumping.ordered, jumping.rank(0.04)) == (6, True, False, None)
    assert jumping.stamps == pytest.approx([0.0, 0.04, 0.08, 0.12, 0.16, 0.2])
    keyless = PacketIndex.of([0.0, 0.04, 0.08], [0, 0, 0])
    assert (keyless.timed, keyless.ordered) == (True, False)
    for untimed in (PacketIndex.of([0.0] * 4, [1, 0, 0, 0]), PacketIndex.of([math.nan] * 4, [1, 0, 0, 0])):
        assert (untimed.count, untimed.timed, untimed.ordered) == (4, False, False)
    assert PacketIndex.of([], []).count == 0
    assert PacketIndex.of([math.nan], [1]).span == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_during_a_walk_is_an_error_of_its_own(clip_path, backend):
    video = open_video(clip_path("constant-rate"), backend)
    frames = video.frames(Sampling(every=1))
    assert next(frames).index == 0
    video.close()
    with pytest.raises(OpenError, match="was closed while"):
        next(frames)
    assert len(list(video.frames(Sampling(frames=3)))) == 3  # opens it again
    video.close()


def test_unknown_backend(unchecked_types, clip_path):
    with pytest.raises(ConfigError, match="unknown video backend 'vlc'"):
        open_video(clip_path("constant-rate"), "vlc")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "name",
    [
        "with space.mp4",
        "видео 視頻 ü.mp4",
        "http:x.mp4",
        "-odd'\".mp4",
        "noending",
        "a%03d.mp4",
        "bad\udcff.mp4",
        "bad\udcff/clip.mp4",
    ],
)
def test_odd_names(clip_path, tmp_path, monkeypatch, backend, name):
    monkeypatch.chdir(tmp_path)
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(clip_path("constant-rate").read_bytes())
    if backend == "opencv" and ("%" in name or "\udcff" in name):
        with pytest.raises(OpenError, match="use the backend pyav"):
            open_video(path, backend)
        return
    with open_video(path, backend) as video:
        assert video.name == name
        for _ in range(2):
            assert [frame.index for frame in video.frames(Sampling(every=30))] == [0, 30]


def test_a_number_pattern_names_one_file_and_not_a_sequence(tmp_path):
    for number in range(3):
        Image.new("RGB", (64, 64)).save(tmp_path / f"a{number:03d}.png")
    with pytest.raises(OpenError, match="no such file"):
        open_video(tmp_path / "a%03d.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "a%03d.png")
    with pytest.raises(OpenError, match="use fakeface classify"):
        open_video(tmp_path / "a%03d.png")
    (tmp_path / "a%03d.png").write_bytes(bytes(range(256)) * 4)
    with pytest.raises(MediaError):
        open_video(tmp_path / "a%03d.png")


def _still(kind):
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, kind)
    return file.getvalue()


NO_VIDEOS = {
    "playlist": (b"#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/secret.ts\n", "playlist"),
    "ffconcat": (b"ffconcat version 1.0\nfile other.mp4\n#\x00\x01", "playlist"),
    "noise": (np.random.default_rng(0).bytes(5000), "not a video"),
    "jpeg": (_still("JPEG"), "still image"),
    "one-frame-gif": (_still("GIF"), "still image"),
    "damaged-avif": (b"\x00\x00\x00\x20ftypavif" + b"\x00" * 64, "."),
    "damaged-dds": (b"DDS " + b"\x7c\x00\x00\x00" + b"\xff" * 200, "."),
    "damaged-jpeg-2000": (b"\x00\x00\x00\x0cjP  \x0d\x0a\x87\x0a" + b"\xff\xff\xff\xf0jp2h" + b"\x00" * 64, "."),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("data", "words"), NO_VIDEOS.values(), ids=NO_VIDEOS.keys())
def test_what_is_not_a_video_is_refused_in_one_line(tmp_path, capfd, backend, data, words):
    path = tmp_path / "input.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError, match=words) as caught:
        open_video(path, backend)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_missing_or_cannot_be_read(clip_path, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with pytest.raises(OpenError, match="no such file"):
        open_video(tmp_path / "gone.mp4")
    path = clip_path("constant-rate")
    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so chmod would not show it
    with pytest.raises(OpenError, match=r"cannot be read: Permission denied \(check its permissions\)"):
        open_video(path)


@pytest.mark.parametrize("size", [(8, 8), (10016, 10000)])
def test_sizes_beyond_the_limits(tmp_path, size):
    path = tmp_path / "size.avi"
    colour = f"color=s={size[0]}x{size[1]}:d=0.04"
    ffmpeg("-f", "lavfi", "-i", colour, "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", str(path))
    for backend in BACKENDS:
        with pytest.raises(LimitExceeded, match=f"{size[0]} x {size[1]}"):
            open_video(path, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_packets_that_are_never_shown_are_no_frames(tmp_path, backend):
    path = tmp_path / "hidden.webm"
    source = ("-f", "lavfi", "-i", "testsrc2=s=128x96:r=25:d=3", "-c:v", "libvpx", "-b:v", "60k")
    source += ("-auto-alt-ref", "1", "-lag-in-frames", "25", "-passlogfile", str(tmp_path / "log"))
    ffmpeg(*source, "-pass", "1", "-f", "null", "-")
    ffmpeg(*source, "-pass", "2", str(path))
    assert len(packets_at(path)) > 75  # else this test shows nothing
    with open_video(path, backend) as video:
        assert sum(1 for _ in video.frames(Sampling(every=1))) == video.frame_count == 75
        assert video.counters.dropped == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_without_timestamps_is_sampled_by_its_frame_rate(clip_path, backend):
    with open_video(clip_path("h264-raw"), backend) as video:
        assert video.frame_count_stated is None
        sampling = Sampling(every=10, start=0.4, end=1.4)
        assert [frame.index for frame in video.frames(sampling)] == [10, 20, 30]
        assert video.expected_samples(sampling) == 3


@pytest.mark.parametrize(
    ("sampling", "indices"),
    [
        (Sampling(every=30, start=1.0), [25, 55]),
        (Sampling(every=1, start=0.4, end=0.6), [10, 11, 12, 13, 14]),
        (Sampling(fps=1), [0, 25, 50]),
        (Sampling(fps=2.5, start=1.0, end=2.2), [25, 35, 45]),
        (Sampling(fps=1000), list(range(COUNT))),
        (Sampling(fps=10), [-(-sample * 5 // 2) for sample in range(24)]),
        (Sampling(frames=1), [30]),
        (Sampling(frames=4), [7, 22, 37, 52]),
        (Sampling(frames=1000), list(range(COUNT))),
        (Sampling(frames=2, start=1.2), [37, 52]),
        (Sampling(frames=5, start=1.0, end=1.2), [25, 26, 27, 28, 29]),
    ],
)
def test_sampling_takes_exactly_these_frames(clip_path, sampling, indices):
    with open_video(clip_path("constant-rate")) as video:
        frames = list(video.frames(sampling))
        assert [number_of(frame.image) for frame in frames] == [frame.index for frame in frames] == indices
        assert video.expected_samples(sampling) == pytest.approx(len(frames), abs=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_walk_holds_one_frame_at_a_time_and_stops_behind_the_last_sample(clip_path, backend):
    alive: list[weakref.ref] = []
    most = 0
    with open_video(clip_path("constant-rate"), backend) as video:
        for frame in video.frames(Sampling(every=1, end=1.0)):
            alive.append(weakref.ref(frame.image))
            most = max(most, sum(reference() is not None for reference in alive))
        assert video.counters.read <= 26
    assert len(alive) == 25
    assert most <= 2


def test_real_clips_are_read_completely(shared_data):
    with (shared_data / "videos.csv").open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    for path in ("videos/real/videoretalking_face_1.mp4", "videos/fake/fomm_vox1.mp4"):
        with open_video(shared_data / path) as video:
            assert sum(1 for _ in video.frames(Sampling(every=1))) == int(rows[path]["frames"])
            assert video.counters.dropped == 0
            assert (video.width, video.height) == (int(rows[path]["width"]), int(rows[path]["height"]))


def test_every_error_of_a_damaged_file_is_ours(clip_path):
    """Bytes are overwritten all over a file: frames or a MediaError come out, nothing else."""
    random = np.random.default_rng(0)
    for name in ("constant-rate", "vp9-webm", "gif"):
        whole = clip_path(name).read_bytes()
        for _ in range(15):
            data = bytearray(whole)
            for at in random.integers(0, len(data), 20):
                data[at] = random.integers(0, 256)
            with contextlib.suppress(MediaError), PyAVFile(bytes(data)) as video:
                assert all(frame.image.ndim == 3 for frame in video.frames(Sampling(frames=4)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_an_edit_list_cuts_off_the_end_is_not_missing(clip_path, tmp_path, backend):
    path = tmp_path / "trimmed.mp4"
    data = bytearray(clip_path("constant-rate").read_bytes())
    at = data.index(b"elst") + 12  # the duration in its one entry, in milliseconds
    assert struct.unpack_from(">I", data, at) == (1000 * COUNT // RATE,)
    struct.pack_into(">I", data, at, 2000)
    path.write_bytes(data)
    with open_video(path, backend) as video:
        assert [number_of(frame.image) for frame in video.frames(Sampling(every=1))] == list(range(50))
        assert (video.counters.read, video.counters.dropped) == (50, 0)
