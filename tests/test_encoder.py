"""Annotated videos as files: exact times, sound, codecs, sizes."""

import itertools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from fakeface_jax.errors import OpenError
from fakeface_jax.video.reading.opencv import VideoFile, open_video
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.render import encoder as encoders
from fakeface_jax.video.render.encoder import VIDEO_CODECS, Encoder

SIZE = (96, 64)
NTSC = Fraction(30000, 1001)


def picture(number, size=SIZE):
    """Grey that steps with the frame's number."""
    return np.full((size[1], size[0], 3), 40 + 4 * (number % 40), np.uint8)


def make_source(path, *, rate=NTSC, times=None, sound="aac", seconds=2.0, late=0.0):
    """A clip with a beep from 1.0 to 1.2 s of the picture; `times` are of frames, and `late` when pictures begin."""
    times = [float(n / rate) for n in range(int(seconds * rate))] if times is None else times
    with av.open(str(path), "w") as output:
        video = output.add_stream("mpeg4", rate=rate)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        video.codec_context.time_base = Fraction(1, 30_000)  # as cameras write it: a multiple of the rate
        tone = output.add_stream(sound, rate=48_000, layout="mono") if sound else None
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            base = video.codec_context.time_base
            frame.pts, frame.time_base = round((time + late) / base), base
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if tone is not None:
            moments = np.arange(int((seconds + late) * 48_000)) / 48_000
            heard = (moments >= 1.0 + late) & (moments < 1.2 + late)
            wave = (0.5 * np.sin(2 * np.pi * 1000 * moments) * heard * 32767).astype(np.int16)
            for start in range(0, len(wave), 1024):
                part = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="s16", layout="mono")
                part.sample_rate, part.pts, part.time_base = 48_000, start, Fraction(1, 48_000)
                output.mux(tone.encode(part))
            output.mux(tone.encode(None))
    return path


def encode(source, target, size=SIZE):
    """Every frame of the source, written anew; its times, and whether the file is complete."""
    times = []
    with (
        open_video(source) as video,
        Encoder(target, target, size=size, fps=video.fps, source=source) as encoder,
    ):
        for frame in video.frames(Sampling(every=1)):
            encoder.write(picture(len(times), size), frame.time)
            times.append(frame.time)
    return times, encoder.complete()


def beep(path):
    """When the sound begins, in seconds from the first picture."""
    with av.open(str(path)) as file:
        first = min(packet.pts * packet.time_base for packet in file.demux(video=0) if packet.pts is not None)
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            samples = np.abs(frame.to_ndarray().astype(np.float64)).max(axis=0)
            loud = np.flatnonzero(samples > 0.2 * (32768 if samples.max() > 2 else 1))
            if len(loud):
                return float(frame.pts * frame.time_base) + loud[0] / frame.sample_rate - float(first)
    return None


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("encoder") / "source.mp4")


@pytest.mark.parametrize("ending", VIDEO_CODECS)
def test_rate_times_and_sound_are_the_source_s(source, tmp_path, ending):
    target = tmp_path / f"out ü{ending}"
    times, complete = encode(source, target)
    assert complete
    with av.open(str(target)) as written:
        stream = written.streams.video[0]
        assert stream.codec_context.name == ("mjpeg" if ending == ".avi" else "h264")
        assert stream.average_rate == NTSC
        assert [track.codec_context.name for track in written.streams.audio] == ["aac"]
    with VideoFile(target) as video:
        found = [frame.time for frame in video.frames(Sampling(every=1))]
    assert found == pytest.approx(times, abs=1e-6 if ending != ".mkv" else 6e-4)  # Matroska counts milliseconds
    assert beep(target) == pytest.approx(1.0, abs=0.03)


def test_browsers_can_play_it_while_it_loads(source, tmp_path):
    encode(source, tmp_path / "out.mp4")
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(tmp_path / "out.mp4")) as written:
        context = written.streams.video[0].codec_context
        assert (context.pix_fmt, context.colorspace, context.color_range) == ("yuv420p", 1, 1)


def test_every_frame_of_a_variable_rate_keeps_its_time(tmp_path):
    steps = itertools.accumulate([0.04, 0.04, 0.1, 0.02, 0.3] * 6, initial=0.0)
    source = make_source(tmp_path / "vfr.mp4", rate=Fraction(25), times=list(steps), seconds=3.0)
    times, complete = encode(source, tmp_path / "out.mp4")
    assert complete
    assert len(times) == 31
    with VideoFile(tmp_path / "out.mp4") as video:
        found = [frame.time for frame in video.frames(Sampling(every=1))]
    assert found == pytest.approx(times, abs=2e-5)
    assert max(np.diff(found)) == pytest.approx(0.3, abs=1e-3)


def test_sound_stays_beside_pictures_that_begin_late(tmp_path):
    source = make_source(tmp_path / "late.mp4", late=0.5)
    assert beep(source) == pytest.approx(1.0, abs=0.03)
    for ending in (".mp4", ".mkv"):
        times, complete = encode(source, tmp_path / f"out{ending}")
        assert complete
        assert beep(tmp_path / f"out{ending}") == pytest.approx(1.0, abs=0.03)
        with VideoFile(tmp_path / f"out{ending}") as video:
            assert video.duration == pytest.approx(times[-1] + 1 / 29.97, abs=0.01)


def test_sound_that_browsers_do_not_play_becomes_aac(tmp_path):
    source = make_source(tmp_path / "pcm.mkv", sound="pcm_s16le")
    encode(source, tmp_path / "out.mp4")
    encode(source, tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mp4")) as written:
        assert written.streams.audio[0].codec_context.name == "aac"
    with av.open(str(tmp_path / "out.mkv")) as written:
        assert written.streams.audio[0].codec_context.name == "pcm_s16le"
    assert beep(tmp_path / "out.mp4") == pytest.approx(1.0, abs=0.03)


def test_a_silent_source_gives_a_silent_video(tmp_path):
    source = make_source(tmp_path / "silent.mp4", sound=None)
    _, complete = encode(source, tmp_path / "out.mp4")
    assert complete
    with av.open(str(tmp_path / "out.mp4")) as written:
        assert not written.streams.audio


def test_odd_sizes_are_padded_by_repeating_the_edge(source, tmp_path):
    target = tmp_path / "odd.mp4"
    _, complete = encode(source, target, size=(95, 63))
    assert complete
    with VideoFile(target) as video:
        assert (video.width, video.height) == SIZE
        frame = next(iter(video.frames(Sampling(every=1))))
    assert np.abs(frame.image.astype(int) - 40).max() <= 4  # also in the column and the row that were added


def test_frames_of_another_size_are_fitted(source, tmp_path):
    target = tmp_path / "out.mp4"
    with Encoder(target, target, size=SIZE, fps=25.0) as encoder:
        encoder.write(picture(0, (192, 128)), 0.0)
        encoder.write(picture(0), 0.04)
        encoder.write(picture(0), 0.04)  # two at one time are two
    assert encoder.complete()


def test_a_truncated_file_is_not_complete(source, tmp_path):
    target = tmp_path / "out.mkv"
    with Encoder(target, target, size=SIZE, fps=25.0) as encoder:
        for number in range(50):
            encoder.write(np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8), number / 25)
    assert encoder.complete()
    data = target.read_bytes()
    target.write_bytes(data[: len(data) // 2])
    assert not encoder.complete()
    target.write_bytes(b"")
    assert not encoder.complete()


def test_what_goes_wrong_inside_closes_the_file_and_stays_the_error(source, tmp_path):
    target = tmp_path / "out.mp4"

    def interrupted():
        with Encoder(target, target, size=SIZE, fps=25.0, source=source) as encoder:
            encoder.write(picture(0), 0.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    target.unlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
def test_a_full_disk_is_one_line():
    def write():
        with Encoder(FullDisk("/dev/full"), "clip.mkv", size=SIZE, fps=25.0) as encoder:
            for number in range(200):
                noise = np.random.default_rng(number).integers(0, 256, (64, 96, 3), dtype=np.uint8)
                encoder.write(noise, number / 25)

    with pytest.raises(OpenError, match=r"clip\.mkv: cannot be written"):
        write()


class FullDisk(type(Path())):
    """A path that takes no byte, with the ending of a video."""

    suffix = ".mkv"


def test_an_ffmpeg_without_x264_writes_mpeg_4(source, tmp_path, monkeypatch):
    monkeypatch.setitem(encoders.VIDEO_CODECS, ".mp4", "no such codec")
    _, complete = encode(source, tmp_path / "out.mp4")
    assert complete
    with av.open(str(tmp_path / "out.mp4")) as written:
        assert written.streams.video[0].codec_context.name == "mpeg4"
        assert written.streams.audio


def test_a_name_is_no_pattern(source, tmp_path):
    odd = tmp_path / "clip%03d.mp4"
    odd.write_bytes(source.read_bytes())
    _, complete = encode(odd, tmp_path / "out%02d.mp4")
    assert complete
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip%03d.mp4", "out%02d.mp4"]
    assert beep(tmp_path / "out%02d.mp4") == pytest.approx(1.0, abs=0.03)
