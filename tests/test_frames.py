"""Frames of real files with known truth: every frame carries its own number in its brightness."""

import csv
import dataclasses
import shutil
import subprocess
import weakref
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from fakeface_jax.errors import ConfigError, DecodeError, LimitExceeded, MediaError, OpenError
from fakeface_jax.video.reading.opencv import Frame, FrameSource, VideoFile
from fakeface_jax.video.reading.sampling import Sampling

WIDTH, HEIGHT, BITS = 128, 96, 8
H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "ultrafast")


def numbered_frame(number: int) -> np.ndarray:
    """RGB; vertical bars are the bits of the number, the lowest on the left; the upper fifth is red."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    grey = np.repeat(np.array(bits, np.uint8), WIDTH // BITS)
    frame = np.broadcast_to(grey[None, :, None], (HEIGHT, WIDTH, 3)).copy()
    frame[: HEIGHT // 5] = (255, 0, 0)
    return frame


def number_of(image: np.ndarray) -> int:
    row = image[image.shape[0] // 2 :].mean((0, 2))
    step = len(row) // BITS
    return sum(int(row[bit * step + step // 2] > 127) << bit for bit in range(BITS))


def ffmpeg(*arguments: str, data: bytes | None = None) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *arguments]
    done = subprocess.run(command, input=data, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def make_clip(path, count: int, *arguments: str, fps: str = "25") -> str:
    raw = b"".join(numbered_frame(number).tobytes() for number in range(count))
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", fps, "-i", "-")
    ffmpeg(*source, *(arguments or H264), str(path), data=raw)
    return str(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The same 100 frames at 25 per second in every container; made once."""
    folder = tmp_path_factory.mktemp("clips")
    make_clip(folder / "h264.mp4", 100, *H264, "-movflags", "+faststart")
    for name in ("h264.mkv", "h264.ts", "h264.mov"):
        ffmpeg("-i", str(folder / "h264.mp4"), "-c", "copy", str(folder / name))
    make_clip(folder / "vp8.webm", 100, "-c:v", "libvpx", "-deadline", "realtime")
    make_clip(folder / "mpeg4.mp4", 100, "-c:v", "mpeg4", "-q:v", "2")
    make_clip(folder / "mjpeg.avi", 100, "-c:v", "mjpeg", "-q:v", "2", "-pix_fmt", "yuvj420p")
    make_clip(folder / "animated.gif", 100, "-c:v", "gif")
    make_clip(folder / "animated.apng", 100, "-c:v", "apng")
    make_clip(folder / "raw.h264", 100)
    return folder


CONTAINERS = ("h264.mp4", "h264.mkv", "h264.ts", "h264.mov", "vp8.webm", "mpeg4.mp4", "mjpeg.avi", "animated.gif")
CONTAINERS += ("animated.apng", "raw.h264")


@pytest.mark.parametrize("name", CONTAINERS)
def test_contract_of_a_frame_source(clips, name):
    with VideoFile(clips / name) as video:
        assert isinstance(video, FrameSource)
        assert (video.width, video.height) == (WIDTH, HEIGHT)
        assert video.fps == pytest.approx(25)
        assert video.frame_count == 100
        assert video.duration == pytest.approx(4.0, abs=0.01)
        for _ in range(2):  # each walk begins at the beginning
            frames = list(video.frames(Sampling(every=1)))
            assert [frame.index for frame in frames] == list(range(100))
            assert [number_of(frame.image) for frame in frames] == list(range(100))
            assert [frame.time for frame in frames] == pytest.approx([n / 25 for n in range(100)], abs=1e-3)
            assert (video.counters.read, video.counters.sampled, video.counters.dropped) == (100, 100, 0)
        first = frames[0].image
        assert first.dtype == np.uint8
        assert first.shape == (HEIGHT, WIDTH, 3)
        red, green, blue = first[:10].mean((0, 1))
        assert red > 200 > 60 > max(green, blue)  # RGB, not BGR


def test_streams_without_timestamps_say_so(clips):
    with VideoFile(clips / "raw.h264") as video:
        assert video.times_from == "frame rate"
        assert video.frame_count_stated is None
        assert [f.index for f in video.frames(Sampling(every=10, start=1.0, end=2.0))] == [25, 35, 45]
        assert video.expected_samples(Sampling(every=10, start=1.0, end=2.0)) == 3
    with VideoFile(clips / "h264.mp4") as video:
        assert video.times_from == "container"


@pytest.mark.parametrize(
    ("sampling", "indices"),
    [
        (Sampling(every=30), [0, 30, 60, 90]),
        (Sampling(every=30, start=1.0), [25, 55, 85]),
        (Sampling(every=1, start=0.4, end=0.6), [10, 11, 12, 13, 14]),
        (Sampling(fps=1), [0, 25, 50, 75]),
        (Sampling(fps=2.5, start=1.0, end=3.0), [25, 35, 45, 55, 65]),
        (Sampling(fps=1000), list(range(100))),
        (Sampling(fps=10), [-(-sample * 5 // 2) for sample in range(40)]),
        (Sampling(frames=1), [50]),
        (Sampling(frames=4), [12, 37, 62, 87]),
        (Sampling(frames=5), [10, 30, 50, 70, 90]),
        (Sampling(frames=100), list(range(100))),
        (Sampling(frames=1000), list(range(100))),
        (Sampling(frames=2, start=2.0), [62, 87]),
        (Sampling(frames=5, start=2.0, end=2.2), [50, 51, 52, 53, 54]),
    ],
)
def test_sampling_takes_exactly_these_frames(clips, sampling, indices):
    with VideoFile(clips / "h264.mp4") as video:
        frames = list(video.frames(sampling))
        assert [number_of(frame.image) for frame in frames] == [frame.index for frame in frames]
        assert [frame.index for frame in frames] == indices
        assert video.expected_samples(sampling) == pytest.approx(len(frames), abs=1)


def test_default_is_32_evenly_spread_frames(clips):
    with VideoFile(clips / "h264.mp4") as video:
        indices = [frame.index for frame in video.frames(Sampling())]
    assert Sampling().resolved().frames == len(indices) == 32
    assert Sampling(fps=2).resolved() == Sampling(fps=2)
    assert dataclasses.replace(Sampling(), fps=2.0).fps == 2.0  # what a command line does
    assert set(np.diff(indices)) == {3, 4}


def test_times_of_variable_rate_video_come_from_the_container(tmp_path):
    times = "if(lt(N,30),N/25,30/25+(N-30)/5)"
    path = make_clip(tmp_path / "vfr.mp4", 60, "-vf", f"setpts='round(({times})/TB)'", "-fps_mode", "vfr", *H264)
    expected = [n / 25 if n < 30 else 30 / 25 + (n - 30) / 5 for n in range(60)]
    matroska = tmp_path / "vfr.mkv"
    ffmpeg("-i", path, "-c", "copy", str(matroska))
    for file in (path, matroska):
        with VideoFile(file) as video:
            frames = list(video.frames(Sampling(every=1)))
            assert [frame.time for frame in frames] == pytest.approx(expected, abs=2e-3)
            assert [number_of(frame.image) for frame in frames] == list(range(60))
            assert video.frame_count == 60  # Matroska's stated count is an estimate, and wrong here
            assert video.counters.dropped == 0
            at_five = [frame.index for frame in video.frames(Sampling(fps=5))]
            assert at_five == [0, 5, 10, 15, 20, 25, *range(30, 60)]


def test_times_start_at_zero_whatever_the_clock(clips, tmp_path):
    path = tmp_path / "late.mkv"
    ffmpeg("-itsoffset", "3", "-i", str(clips / "h264.mp4"), "-c", "copy", "-copyts", str(path))
    with VideoFile(path) as video:
        frames = list(video.frames(Sampling(every=50)))
        assert [frame.time for frame in frames] == pytest.approx([0.0, 2.0], abs=1e-3)
        assert (video.frame_count, video.counters.dropped) == (100, 0)


def test_packets_that_are_never_shown_are_no_frames(tmp_path):
    source = ("-f", "lavfi", "-i", "testsrc2=s=128x96:r=25:d=3", "-c:v", "libvpx", "-b:v", "60k")
    source += ("-auto-alt-ref", "1", "-lag-in-frames", "25", "-passlogfile", str(tmp_path / "log"))
    ffmpeg(*source, "-pass", "1", "-f", "null", "-")
    ffmpeg(*source, "-pass", "2", str(tmp_path / "hidden.webm"))
    capture = cv2.VideoCapture(str(tmp_path / "hidden.webm"), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    assert sum(1 for _ in iter(capture.grab, False)) > 75  # else this test shows nothing
    capture.release()
    with VideoFile(tmp_path / "hidden.webm") as video:
        assert sum(1 for _ in video.frames(Sampling(every=1))) == video.frame_count == 75
        assert video.counters.dropped == 0


def test_after_a_gap_sampling_does_not_catch_up():
    choose = Sampling(fps=10).chooser(100)
    times = [0.0, 2.0, 2.04, 2.08, 2.12, 2.16, 2.20, 2.24]
    assert [time for time in times if choose(0, time)] == [0.0, 2.0, 2.12, 2.20]


def test_rotated_video_comes_out_upright(clips, tmp_path):
    path = tmp_path / "rotated.mp4"
    ffmpeg("-display_rotation", "90", "-i", str(clips / "h264.mp4"), "-c", "copy", str(path))
    with VideoFile(path) as video:
        assert (video.width, video.height) == (HEIGHT, WIDTH)
        frame = next(iter(video.frames(Sampling(frames=1))))
    assert frame.image.shape == (WIDTH, HEIGHT, 3)
    unturned = np.rot90(frame.image, -1)  # displayed turned counterclockwise
    assert number_of(unturned) == frame.index


def test_undecodable_frame_is_counted_and_is_no_sample(clips, tmp_path):
    data = bytearray((clips / "mjpeg.avi").read_bytes())
    chunks = [
        at for at in range(len(data) - 10) if data[at : at + 4] == b"00dc" and data[at + 8 : at + 10] == b"\xff\xd8"
    ]
    for number in (10, 11, 50):
        length = int.from_bytes(data[chunks[number] + 4 : chunks[number] + 8], "little")
        data[chunks[number] + 8 : chunks[number] + 8 + length] = bytes(length)
    path = tmp_path / "damaged.avi"
    path.write_bytes(data)
    with VideoFile(path) as video:
        frames = list(video.frames(Sampling(every=1)))
        kept = [n for n in range(100) if n not in (10, 11, 50)]
        assert [number_of(frame.image) for frame in frames] == kept
        assert [frame.index for frame in frames] == kept
        assert [frame.time for frame in frames] == pytest.approx([n / 25 for n in kept])
        assert (video.counters.read, video.counters.dropped) == (97, 3)
        # A sample that was due at a damaged frame is taken from the next good one.
        assert [frame.index for frame in video.frames(Sampling(frames=5))] == [12, 30, 51, 70, 90]


@pytest.mark.parametrize(("name", "share"), [("h264.mp4", 0.75), ("h264.mkv", 0.5), ("mjpeg.avi", 0.5)])
def test_truncated_file_gives_what_is_there_and_counts_the_rest(clips, tmp_path, name, share):
    data = (clips / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * share)])
    with VideoFile(path) as video:
        frames = list(video.frames(Sampling(every=1)))
        assert 10 < len(frames) < 90
        assert [frame.index for frame in frames[:-3]] == [number_of(frame.image) for frame in frames[:-3]]
        assert video.counters.read + video.counters.dropped == 100
        assert len(list(video.frames(Sampling(frames=8)))) == 8


def test_walk_holds_one_frame_at_a_time(clips):
    alive: list[weakref.ref] = []
    most = 0
    with VideoFile(clips / "h264.mp4") as video:
        for frame in video.frames(Sampling(every=1)):
            alive.append(weakref.ref(frame.image))
            most = max(most, sum(reference() is not None for reference in alive))
    assert len(alive) == 100
    assert most <= 2


def test_walk_stops_behind_the_last_sample(clips):
    with VideoFile(clips / "h264.mp4") as video:
        list(video.frames(Sampling(every=10, end=1.0)))
        assert video.counters.read <= 26


def test_close_is_idempotent_and_iteration_reopens(clips):
    video = VideoFile(clips / "h264.mp4")
    video.close()
    video.close()
    assert len(list(video.frames(Sampling(frames=2)))) == 2
    video.close()


@pytest.mark.parametrize(
    "name", ["with space.mp4", "видео 視頻 ü.mp4", "a%03d.mp4", "http:x.mp4", "-odd'\".mp4", "noending"]
)
def test_odd_names(clips, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes((clips / "h264.mp4").read_bytes())
    with VideoFile(name) as video:
        assert video.name == name
        assert video.frame_count == 100


def test_number_pattern_names_one_file_not_a_sequence(tmp_path):
    for number in range(3):
        Image.new("RGB", (64, 64)).save(tmp_path / f"a{number:03d}.png")
    with pytest.raises(OpenError, match="no such file"):
        VideoFile(tmp_path / "a%03d.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "a%03d.png")
    with pytest.raises(OpenError, match="use fakeface classify"):
        VideoFile(tmp_path / "a%03d.png")


def _nothing(path):
    pass


def _directory(path):
    path.mkdir()


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("hello, this is no video\n" * 100)


def _playlist(path):
    path.write_text("#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:9/secret.ts\n")


def _concat(path):
    path.write_bytes(b"ffconcat version 1.0\nfile other.mp4\n#\x00\x01")


def _noise(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def _jpeg(path):
    Image.new("RGB", (64, 64)).save(path, "JPEG")


def _one_frame_gif(path):
    Image.new("RGB", (64, 64)).save(path, "GIF")


def _animated_webp(path):
    first, second = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "blue")
    first.save(path, "WEBP", save_all=True, append_images=[second])


def _sound(path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", str(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_nothing, "no such file"),
        (_directory, "is a directory"),
        (_empty, "empty"),
        (_text, "text file"),
        (_playlist, "playlist"),
        (_concat, "playlist"),
        (_noise, "not a video"),
        (_jpeg, "still image"),
        (_one_frame_gif, "still image"),
        (_animated_webp, "cannot decode"),
        (_sound, "not a video"),
    ],
)
def test_what_is_no_video_is_refused_in_one_line(tmp_path, capfd, make, message):
    path = tmp_path / "input.mp4"
    make(path)
    with pytest.raises(OpenError, match=message) as caught:
        VideoFile(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")  # neither OpenCV nor FFmpeg writes past Python


def test_truncated_to_no_frame_is_a_decode_error(clips, tmp_path):
    data = (clips / "h264.mp4").read_bytes()
    path = tmp_path / "head.mp4"
    path.write_bytes(data[: data.index(b"mdat") + 4])
    with pytest.raises(DecodeError, match="zero frames"):
        VideoFile(path)


def test_window_without_frames_is_a_decode_error(clips):
    with VideoFile(clips / "h264.mp4") as video, pytest.raises(DecodeError, match=r"from 100 s \(it is 4.0 s long"):
        list(video.frames(Sampling(fps=1, start=100)))


@pytest.mark.parametrize("size", [(8, 8), (10016, 10000)])
def test_sizes_beyond_the_limits(tmp_path, size):
    path = tmp_path / "size.avi"
    ffmpeg(
        "-f", "lavfi", "-i", f"color=s={size[0]}x{size[1]}:d=0.04", "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", str(path)
    )
    with pytest.raises(LimitExceeded, match=f"{size[0]} x {size[1]}"):
        VideoFile(path)


def test_unreadable_file(clips, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything, so chmod would not show it
    with pytest.raises(OpenError, match=r"cannot be read: Permission denied \(check its permissions\)"):
        VideoFile(clips / "h264.mp4")


@pytest.mark.parametrize(
    "settings",
    [
        {"fps": 2, "every": 3},
        {"frames": 3, "every": 3},
        {"fps": 0},
        {"fps": float("nan")},
        {"fps": -1},
        {"every": 0},
        {"frames": 0},
        {"frames": 2.5},
        {"start": -1},
        {"end": 0},
        {"start": 5, "end": 5},
        {"end": float("inf")},
    ],
)
def test_contradictory_sampling_is_refused(unchecked_types, settings):
    with pytest.raises(ConfigError, match="sampling"):
        Sampling(**settings)


def test_opencv_writer_files_are_read_back(tmp_path):
    for ending, code in ((".avi", "MJPG"), (".mp4", "mp4v"), (".webm", "VP80")):
        path = str(tmp_path / f"clip{ending}")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*code), 10.0, (WIDTH, HEIGHT))
        for number in range(20):
            writer.write(cv2.cvtColor(numbered_frame(number), cv2.COLOR_RGB2BGR))
        writer.release()
        with VideoFile(path) as video:
            frames: list[Frame] = list(video.frames(Sampling(every=1)))
        assert [number_of(frame.image) for frame in frames] == list(range(20))


def test_real_clips_are_read_completely(shared_data):
    with (shared_data / "videos.csv").open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    for path in ("videos/real/videoretalking_face_1.mp4", "videos/fake/fomm_vox1.mp4"):
        with VideoFile(shared_data / path) as video:
            assert sum(1 for _ in video.frames(Sampling(every=1))) == int(rows[path]["frames"])
            assert video.counters.dropped == 0
            assert (video.width, video.height) == (int(rows[path]["width"]), int(rows[path]["height"]))


def test_a_name_that_ffmpeg_would_expand_is_taken_as_it_is(tmp_path):
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"img{number:03d}.jpg"), np.full((64, 64, 3), 40 * number, np.uint8))
    junk = tmp_path / "img%03d.jpg"
    junk.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(MediaError):
        VideoFile(junk)
    clip = tmp_path / "50%d.avi"
    writer = cv2.VideoWriter(str(tmp_path / "plain.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 64))
    for _ in range(7):
        writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    (tmp_path / "plain.avi").rename(clip)
    with VideoFile(clip) as video:
        assert video.frame_count == 7
        assert video.name == str(clip)
        assert [frame.index for frame in video.frames(Sampling(every=3))] == [0, 3, 6]


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x20ftypavif" + b"\x00" * 64,
        b"DDS " + b"\x7c\x00\x00\x00" + b"\xff" * 200,
        b"\x00\x00\x00\x0cjP  \x0d\x0a\x87\x0a" + b"\xff\xff\xff\xf0jp2h" + b"\x00" * 64,
    ],
    ids=["avif", "dds", "jpeg 2000"],
)
def test_damaged_pictures_called_videos_are_one_line_errors(tmp_path, data):
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    with pytest.raises(MediaError) as caught:
        VideoFile(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["bad\udcff.mp4", "bad\udcff/clip.mp4", "clip.m\udcff"])
def test_names_that_are_no_unicode_are_names(clips, tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    shutil.copy(clips / "h264.mp4", path)
    with VideoFile(path) as video:
        for _ in range(2):
            assert [frame.index for frame in video.frames(Sampling(every=30))] == [0, 30, 60, 90]
