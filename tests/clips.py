"""Clips with known truth, made once a session: every frame carries its number and shows which way is up.

`CLIPS` names them all; `Clip.errors` says which backends refuse a clip, and how. PyAV makes them.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

from fakeface_jax.errors import DecodeError, OpenError

WIDTH, HEIGHT, BITS, COUNT, RATE = 128, 96, 6, 60, 25
KEYS = 12
"""Number of frames from one key frame to the next."""

# x265 and SVT-AV1 print information about themselves to stderr.
os.environ.setdefault("SVT_LOG", "1")
X265 = {"x265-params": "log-level=none:keyint=12:min-keyint=12:bframes=3:scenecut=0"}
X264 = {"g": str(KEYS), "bf": "3", "sc_threshold": "0", "preset": "veryfast", "crf": "20"}


def numbered_picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Draws an RGB picture: bars from left to right are the bits of the number, lowest first; top left is red."""
    edges = np.linspace(0, width, BITS + 1).astype(int)
    picture = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        picture[:, edges[bit] : edges[bit + 1]] = 235 if number >> bit & 1 else 20
    picture[: height // 4] = 128
    picture[: height // 4, : width // 2] = (220, 20, 20)
    return picture


def number_of(image: np.ndarray) -> int:
    lower = image[image.shape[0] // 2 :].mean((0, 2))
    edges = np.linspace(0, len(lower), BITS + 1).astype(int)
    return sum(int(lower[edges[bit] + 3 : edges[bit + 1] - 3].mean() > 127) << bit for bit in range(BITS))


def is_upright(image: np.ndarray) -> bool:
    """Tells if the red corner is at the top left; if red and blue are exchanged, it is not red."""
    height, width = image.shape[:2]
    corner = image[2 : height // 4 - 4, 4 : width // 2 - 6].mean((0, 1))
    beside = image[2 : height // 4 - 4, width // 2 + 6 : -4].mean((0, 1))
    return bool(corner[0] > 150 > 90 > corner[2] and abs(beside[0] - beside[2]) < 40)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """The facts about a clip.

    Attributes:
        make: writes the clip.
        file: name of its file.
        times: seconds of each frame after the first one.
        size: width and height, upright.
        certain: indices of the frames that must be decoded correctly; the others are damaged.
        cut: number of frames that the header promises and the file lacks.
        numbers: numbers in the frames; 0, 1, 2, ... by default.
        seeks: True if sparse sampling seeks in it; None if that depends on the backend.
        depends: True if the result in its damaged part depends on where decoding begins.
        times_from: value of the reader's `times_from`.
        errors: backend -> type of the error on opening or reading, and words of its message.
    """

    make: Callable[[Path], None]
    file: str
    times: tuple[float, ...] = tuple(number / RATE for number in range(COUNT))
    size: tuple[int, int] = (WIDTH, HEIGHT)
    certain: tuple[int, ...] | None = None
    cut: bool = False
    numbers: tuple[int, ...] | None = None
    seeks: bool | None = False
    depends: bool = False
    times_from: str = "container"
    errors: dict[str, tuple[type[Exception], str]] = dataclasses.field(default_factory=dict)


def encode(
    path: Path,
    codec: str = "libx264",
    *,
    count: int = COUNT,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    times: tuple[float, ...] | None = None,
    turns: int = 0,
    start: int = 0,
    container_format: str | None = None,
    form: dict[str, str] | None = None,
    woven: bool = False,
) -> None:
    """Writes numbered pictures as a video; `turns` counterclockwise quarter turns make the stored pictures upright.

    In woven pictures every other line belongs to another picture."""
    import av

    with av.open(str(path), "w", format=container_format, options=form or {}) as container:
        stream = container.add_stream(codec, rate=RATE, options=X264 if options is None else options)
        stored = np.rot90(numbered_picture(0, *size), -turns)
        stream.height, stream.width, stream.pix_fmt = stored.shape[0], stored.shape[1], pix_fmt
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if turns:
            stream.set_display_rotation(90 * turns)
        for number in range(count):
            picture = np.ascontiguousarray(np.rot90(numbered_picture(number, *size), -turns))
            if woven:
                picture[1::2] = numbered_picture(2**BITS - 1 - number, *size)[1::2]
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts = start + (number if times is None else round(times[number] * 1000))
            frame.time_base = Fraction(1, RATE) if times is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _made_apart(codec: str, options: dict[str, str]) -> Callable[[Path], None]:
    """Encodes in a process of its own.

    If SVT-AV1 is run by root, it gives its caller and all processes started later the highest real-time priority: a
    browser that spins then has the machine to itself, and other tests stand still until they are killed for it."""
    program = "import sys; from pathlib import Path; from clips import encode; encode(Path(sys.argv[1]), sys.argv[2], "
    program += f"options={options!r})"

    def make(path: Path) -> None:
        command = [sys.executable, "-c", program, str(path), codec]
        subprocess.run(command, cwd=Path(__file__).parent, check=True, timeout=120)

    return make


def packets_at(path: Path) -> list[tuple[int, int]]:
    """Returns offset and length of the packets of a file, in its order."""
    import av

    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def damage(path: Path, numbers: tuple[int, ...]) -> None:
    """Overwrites packets except for the few bytes that tell their length."""
    data, packets = bytearray(path.read_bytes()), packets_at(path)
    for number in numbers:
        at, length = packets[number]
        data[at + 5 : at + length] = b"\xa5" * (length - 5)
    path.write_bytes(data)


def _lie_about_length(path: Path, *numbers: int) -> None:
    """Makes the first part of packets claim to be longer than any file, so that reading them unchanged breaks off."""
    data, packets = bytearray(path.read_bytes()), packets_at(path)
    for number in numbers:
        at, _ = packets[number]
        data[at : at + 4] = b"\x7f\xff\xff\xff"
    path.write_bytes(data)


def _then(change: Callable[[Path], None], **settings: object) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        encode(path, **settings)  # type: ignore[arg-type]
        change(path)

    return make


def _made(codec: str = "libx264", **settings: object) -> Callable[[Path], None]:
    return lambda path: encode(path, codec, **settings)  # type: ignore[arg-type]


def _cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _cut_to_header(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])


def _drop_avi_index(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"idx1")])


def _drop_matroska_index(path: Path) -> None:
    """Overwrites the cues, and the list that leads to them, with an element that readers do not know."""
    data = bytearray(path.read_bytes())
    for name in (b"\x1c\x53\xbb\x6b", b"\x11\x4d\x9b\x74"):
        at = data.find(name)
        assert at > 0
        data[at : at + 4] = b"\x1c\x53\xbb\x6a"
    path.write_bytes(data)


def _joined(path: Path) -> None:
    """Writes two recordings, one after the other: the clock jumps back."""
    encode(path, count=COUNT // 2)
    path.write_bytes(path.read_bytes() * 2)


def _hide_first(path: Path) -> None:
    """Copies the part from frame 5 on as a cut by time does: the frames from the key frame to there are hidden."""
    import av

    whole = path.with_name("whole-" + path.name)
    encode(whole)
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        shift = round(Fraction(5, RATE) / video.time_base)
        for packet in source.demux(video):
            if packet.size:
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                target.mux(packet)
    whole.unlink()


def _sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


VARIABLE = tuple(n / 25 if n < 30 else 1.2 + (n - 30) / 5 for n in range(COUNT))
BURSTS = tuple(n // 6 * 1.0 + n % 6 * 0.01 for n in range(COUNT))
FASTSTART = {"movflags": "+faststart"}
FIELDS = {"flags": "+ildct+ilme"}
BY_PYAV_ALONE: dict[str, tuple[type[Exception], str]] = {"opencv": (OpenError, "interlaced video, which OpenCV")}
UNREADABLE = dict.fromkeys(("opencv", "pyav"), (OpenError, "not a video that can be read"))

CLIPS: dict[str, Clip] = {
    "constant-rate": Clip(make=_made(), file="clip.mp4", seeks=True),
    "variable-rate": Clip(make=_made(times=VARIABLE), file="vfr.mp4", times=VARIABLE, seeks=True),
    "variable-rate-matroska": Clip(make=_made(times=VARIABLE), file="vfr.mkv", times=VARIABLE, seeks=True),
    "bursts": Clip(make=_made(times=BURSTS), file="bursts.mp4", times=BURSTS, seeks=True),
    "portrait": Clip(make=_made(size=(96, 128), turns=1), file="turned.mp4", size=(96, 128), seeks=True),
    "portrait-other-way": Clip(make=_made(size=(96, 128), turns=3), file="turned.mov", size=(96, 128), seeks=True),
    "upside-down": Clip(make=_made(turns=2), file="down.mp4", seeks=True),
    "h264-one-key-frame": Clip(make=_made(options=X264 | {"g": "250"}), file="onekey.mp4"),
    "h264-open-groups": Clip(make=_made(options=X264 | {"x264-params": "open-gop=1"}), file="open.mkv", seeks=True),
    "h264-intra-refresh": Clip(
        make=_made(options=X264 | {"x264-params": "intra-refresh=1"}), file="refresh.mp4", seeks=None
    ),
    "h264-fragmented": Clip(
        make=_made(form={"movflags": "frag_keyframe+empty_moov+default_base_moof"}), file="fragments.mp4", seeks=True
    ),
    "h264-transport-stream": Clip(make=_made(), file="clip.ts"),
    "h264-raw": Clip(make=_made(), file="clip.h264", times_from="frame rate"),
    "hevc-open-groups": Clip(make=_made("libx265", options=X265), file="hevc.mp4", seeks=True),
    "vp9-webm": Clip(
        make=_made("libvpx-vp9", options={"g": "12", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "8"}),
        file="vp9.webm",
        seeks=True,
    ),
    "vp8-webm": Clip(
        make=_made("libvpx", options={"g": "12", "deadline": "realtime", "cpu-used": "8", "b": "2000000"}),
        file="vp8.webm",
        seeks=True,
    ),
    "mpeg4": Clip(make=_made("mpeg4", options={"g": "12", "qscale": "3"}), file="mpeg4.mp4", seeks=True),
    "av1": Clip(
        make=_made_apart("libsvtav1", options={"g": "12", "preset": "12", "crf": "15", "svtav1-params": "lp=1"}),
        file="av1.mp4",
        seeks=True,
    ),
    "mjpeg": Clip(make=_made("mjpeg", pix_fmt="yuvj420p", options={"q": "3"}), file="mjpeg.avi"),
    "ten-bit": Clip(make=_made("libx265", pix_fmt="yuv420p10le", options=X265), file="ten.mkv", seeks=True),
    "ten-bit-h264": Clip(make=_made(pix_fmt="yuv420p10le"), file="ten.mp4", seeks=True),
    "odd-size": Clip(make=_made(size=(97, 63), pix_fmt="yuv444p"), file="odd.mkv", size=(97, 63), seeks=True),
    "gif": Clip(make=_made("gif", pix_fmt="rgb8", options={}), file="clip.gif"),
    "apng": Clip(make=_made("apng", pix_fmt="rgb24", options={}), file="clip.apng"),
    "one-frame": Clip(make=_made(count=1), file="one.mp4", times=(0.0,)),
    "late-clock": Clip(make=_made(start=75), file="late.mkv", seeks=True),
    "edit-list": Clip(
        make=_hide_first,
        file="edited.mp4",
        times=tuple(n / RATE for n in range(COUNT - 5)),
        numbers=tuple(range(5, COUNT)),
        seeks=True,
    ),
    "joined-recordings": Clip(make=_joined, file="joined.ts", numbers=tuple(range(COUNT // 2)) * 2),
    "no-index-avi": Clip(
        make=_then(_drop_avi_index, codec="mjpeg", pix_fmt="yuvj420p", options={"q": "3"}), file="noindex.avi"
    ),
    "no-index-matroska": Clip(make=_then(_drop_matroska_index), file="noindex.mkv", seeks=True),
    "wrong-extension": Clip(make=_made(container_format="mp4"), file="really-mp4.avi", seeks=True),
    "interlaced-h264": Clip(
        make=_made(options=X264 | FIELDS | {"x264-params": "tff=1"}, woven=True),
        file="fields.mp4",
        seeks=True,
        errors=BY_PYAV_ALONE,
    ),
    "interlaced-transport-stream": Clip(
        make=_made(options=X264 | FIELDS | {"x264-params": "bff=1"}, woven=True), file="fields.ts", errors=BY_PYAV_ALONE
    ),
    "interlaced-mpeg2": Clip(
        make=_made("mpeg2video", options=FIELDS | {"g": "12", "qscale": "3"}, woven=True),
        file="fields.mpg",
        errors=BY_PYAV_ALONE,
    ),
    "interlaced-dv": Clip(
        make=_made("dvvideo", options={}, size=(720, 576), woven=True),
        file="dv.avi",
        size=(720, 576),
        errors=BY_PYAV_ALONE,
    ),
    "cut-mp4": Clip(make=_then(_cut(0.7), form=FASTSTART), file="cut.mp4", certain=tuple(range(24)), cut=True),
    "cut-matroska": Clip(make=_then(_cut(0.6)), file="cut.mkv", certain=tuple(range(24)), cut=True),
    "cut-before-its-index": Clip(make=_then(_cut(0.9)), file="lost.mp4", errors=UNREADABLE),
    "damaged-h264": Clip(
        make=_then(lambda path: damage(path, (26, 27, 28))),
        file="damaged.mp4",
        certain=(*range(24), *range(36, COUNT)),
        seeks=None,
    ),
    "lying-length-mp4": Clip(
        make=_then(lambda path: _lie_about_length(path, 26)),
        file="lying.mp4",
        certain=(*range(24), *range(36, COUNT)),
        seeks=None,
    ),
    "damaged-key-frame": Clip(
        make=_then(lambda path: damage(path, (24,))),
        file="nokey.mp4",
        certain=(*range(21), *range(36, COUNT)),
        seeks=None,
        depends=True,
    ),
    "damaged-mjpeg": Clip(
        make=_then(lambda path: damage(path, (10, 11, 50)), codec="mjpeg", pix_fmt="yuvj420p", options={"q": "3"}),
        file="damaged.avi",
        certain=tuple(n for n in range(COUNT) if n not in (10, 11, 50)),
    ),
    "sound-only": Clip(make=_sound, file="sound.mp4", errors=UNREADABLE),
    "text": Clip(
        make=lambda path: path.write_text("a text\n" * 100) and None,
        file="text.mp4",
        errors=dict.fromkeys(("opencv", "pyav"), (OpenError, "is a text file")),
    ),
    "zero-bytes": Clip(
        make=lambda path: path.write_bytes(b"") and None,
        file="zero.mp4",
        errors=dict.fromkeys(("opencv", "pyav"), (OpenError, "the file is empty")),
    ),
    "only-a-header": Clip(
        make=_then(
            lambda path: path.write_bytes(path.read_bytes()[: path.read_bytes().index(b"mdat") + 4]), form=FASTSTART
        ),
        file="head.mp4",
        errors=dict.fromkeys(("opencv", "pyav"), (DecodeError, "zero frames")),
    ),
    "folder-of-pictures": Clip(
        make=lambda path: path.mkdir(),
        file="pictures",
        errors=dict.fromkeys(("opencv", "pyav"), (OpenError, "is a directory")),
    ),
}
