"""Media made to harm: bombs, damage by a seeded fuzzer, and files that ask for others. Each is an error of its own."""

import dataclasses
import io
import json
import os
import random
import socket
import socketserver
import struct
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from clips import encode
from PIL import Image

from fakeface_jax.errors import LimitExceeded, MediaError
from service.sandbox.decoders import DecodeLimits, Decoders
from video.frames import VideoFile
from video.sampling import Sampling

LIMITS = DecodeLimits(
    memory_bytes=2 * 2**30,
    image_seconds=20.0,
    wall_seconds=20.0,
    max_pixels=50_000_000,
    max_frames=5000,
    max_seconds=3600.0,
)
FUZZED_PICTURES, FUZZED_VIDEOS = 168, 32
"""Mutations; FAKEFACE_FUZZ multiplies them."""


@pytest.fixture(scope="module")
def decoders():
    with Decoders(LIMITS) as found:
        yield found
        # The parent is as it was: what is good is still read.
        assert found.image(picture("PNG"), "good").shape == (48, 64, 3)


class Canary(socketserver.ThreadingTCPServer):
    """Counts whoever connects, whatever they speak."""

    allow_reuse_address = daemon_threads = True

    def __init__(self):
        self.hits = 0
        super().__init__(("127.0.0.1", 0), None)
        self.port = self.server_address[1]

    def finish_request(self, request, client_address):
        self.hits += 1
        request.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")


@pytest.fixture(scope="module")
def canary():
    with Canary() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


def picture(form, size=(64, 48), **settings):
    noise = np.random.default_rng(1).integers(0, 255, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, format=form, **settings)
    return file.getvalue()


def avi(frames, *, size=(64, 48), sub=None, count=None):
    """An AVI of JPEG pictures by hand, with a stream of subtitles where `sub` is given."""

    def chunk(name, data):
        return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def strl(kind, code, form):
        times = struct.pack("<IIIIIIII", 0, 1, 25, 0, count or len(frames), 2**16, 0, 0)
        head = chunk(b"strh", kind + code + bytes(8) + times[:16] + times[16:] + bytes(8))
        return chunk(b"LIST", b"strl" + head + chunk(b"strf", form))

    bitmap = struct.pack("<IiiHH4sIiiII", 40, *size, 1, 24, b"MJPG", 0, 0, 0, 0, 0)
    main = struct.pack("<IIIIIIIIII", 40000, 0, 0, 0x10, count or len(frames), 0, 1 + bool(sub), 2**16, *size) + bytes(
        16
    )
    streams = strl(b"vids", b"MJPG", bitmap) + (strl(b"txts", bytes(4), b"") if sub else b"")
    body = b"".join(chunk(b"00dc", frame) for frame in frames)
    if sub:
        body = chunk(b"01tx", sub) + body
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + streams)
    return chunk(b"RIFF", b"AVI " + header + chunk(b"LIST", b"movi" + body))


def resized_jpeg(data, width, height):
    """A JPEG whose header says another size."""
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def png(width, height, *extra, data=b""):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [chunk(b"IHDR", header), *(chunk(*one) for one in extra), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def patched(data, at, form, *values):
    return data[:at] + struct.pack(form, *values) + data[at + struct.calcsize(form) :]


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


JPEG, GIF, TIFF, BMP = picture("JPEG"), picture("GIF"), picture("TIFF"), picture("BMP")
WEBP = picture("WEBP", lossless=True)
ROWS = zlib.compress(bytes((1 + 3 * 64) * 48))

BOMBS = {
    "png-header": lambda: png(60_000, 60_000, data=zlib.compress(bytes(1000))),
    "png-overflow-header": lambda: png(2**31 - 1, 2**31 - 1),
    "png-pixels-header": lambda: png(8000, 8000, data=zlib.compress(bytes(24_001 * 8000), 1)),
    "png-text": lambda: png(64, 48, (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26), 1)), data=ROWS),
    "png-profile": lambda: png(64, 48, (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26), 1)), data=ROWS),
    "png-too-much-data": lambda: png(64, 48, data=zlib.compress(bytes(2**26), 1)),
    "jpeg-header": lambda: resized_jpeg(JPEG, 65_500, 65_500),
    "jpeg-flat": lambda: resized_jpeg(JPEG, 65_500, 16),
    "gif-header": lambda: patched(GIF, 6, "<HH", 65_535, 65_535),
    "webp-header": lambda: patched(WEBP, WEBP.index(b"VP8L") + 9, "<I", 0x0FFFFFFF),
    "tiff-header": lambda: patched(TIFF, TIFF.index(struct.pack("<HHI", 256, 4, 1)) + 8, "<I", 2**31 - 1),
    "tiff-directory-header": lambda: patched(TIFF, 4, "<I", len(TIFF) - 2),
    "bmp-header": lambda: patched(BMP, 18, "<ii", 2**31 - 1, 2**31 - 1),
    "ppm-header": lambda: b"P6 100000 100000 255\n" + bytes(100),
    "y4m-header": lambda: b"YUV4MPEG2 W60000 H60000 F25:1 Ip C420jpeg\nFRAME\n" + bytes(1000),
    "avi-frames": lambda: avi([resized_jpeg(JPEG, 65_500, 65_500)] * 8),
    "avi-late-frame": lambda: avi([JPEG] * 4 + [resized_jpeg(JPEG, 65_500, 65_500)] + [JPEG] * 4),
    "avi-header": lambda: avi([JPEG] * 4, size=(65_500, 65_500)),
    "avi-count": lambda: avi([JPEG] * 4, count=2**31 - 1),
}


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


def seeds(folder):
    pictures = {form: picture(form) for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP")}
    pictures["TIFF-LZW"] = picture("TIFF", compression="tiff_lzw")
    pictures["JPEG-progressive"] = picture("JPEG", progressive=True)
    small = {"count": 12, "size": (64, 48)}
    videos = {}
    for name, codec, settings in (
        ("a.mp4", "libx264", {}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx-vp9", {"options": {"deadline": "realtime", "cpu-used": "8"}}),
        ("a.avi", "mjpeg", {"pix_fmt": "yuvj420p", "options": {}}),
        ("a.gif", "gif", {"pix_fmt": "rgb8", "options": {}}),
        ("a.ts", "libx264", {}),
    ):
        encode(folder / name, codec, **small, **settings)
        videos[name] = (folder / name).read_bytes()
    return pictures, videos


def mutated(data, chance):
    data = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 40))):
        at = chance.randrange(max(1, len(data)))
        # Headers are where it hurts.
        at = chance.randrange(min(len(data), 200) or 1) if chance.random() < 0.4 else at
        kind = chance.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 1:
            data[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", bytes(4), b"\x80\0\0\0"))
        elif kind == 2:
            del data[at : at + chance.randrange(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + chance.randrange(1, 64)]
        elif kind == 4:
            data[at:at] = chance.randbytes(chance.randrange(1, 32))
        elif chance.random() < 0.3:
            del data[at:]
    return bytes(data)


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


def boxes(data, *path):
    """Where the boxes on a way into an MP4 begin."""
    places, begin, end = [], 0, len(data)
    for name in path:
        at = begin
        while at < end:
            size = struct.unpack_from(">I", data, at)[0]
            if data[at + 4 : at + 8] == name:
                break
            at += size
        assert at < end, name
        places.append(at)
        begin, end = at + 8, at + struct.unpack_from(">I", data, at)[0]
    return places


def with_reference(data, entry, kind):
    """An MP4 whose video is said to lie elsewhere: its data reference is replaced."""
    places = boxes(data, b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
    at = places[-1] + 16
    old = struct.unpack_from(">I", data, at)[0]
    new = struct.pack(">I", len(entry) + 12) + kind + bytes(4) + entry
    changed = bytearray(data[:at] + new + data[at + old :])
    for place in places:
        size = struct.unpack_from(">I", changed, place)[0]
        struct.pack_into(">I", changed, place, size + len(new) - old)
    return bytes(changed)


def alias(place):
    """A Macintosh alias record with an absolute path, as QuickTime writes it."""
    path = place.encode()
    path += b"\0" * (len(path) % 2)
    record = bytes(10) + b"\x01v" + bytes(26) + bytes(12) + b"\x01f" + bytes(62) + bytes(16) + b"\xff\xff\xff\xff"
    record += bytes(16) + struct.pack(">HH", 2, len(path)) + path + struct.pack(">HH", 0xFFFF, 0)
    return record + bytes(160)


def with_attachment(folder, data):
    """A Matroska file that carries a playlist."""
    import av

    encode(folder / "bare.mkv", count=12)
    with av.open(str(folder / "bare.mkv")) as source, av.open(str(folder / "carrier.mkv"), "w") as target:
        video = source.streams.video[0]
        stream = target.add_stream_from_template(video)
        target.add_attachment("list.m3u8", "application/x-mpegURL", data)
        for packet in source.demux(video):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    carried = (folder / "carrier.mkv").read_bytes()
    assert data in carried
    return carried


def requests(folder, port):
    """Files that name another place, each under a name that looks harmless."""
    place = f"http://127.0.0.1:{port}/canary.mp4"
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{place}\n#EXT-X-ENDLIST\n".encode()
    mpd = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" mediaPresentationDuration="PT9S">'
        f"<Period><AdaptationSet mimeType='video/mp4'><Representation id='1' bandwidth='1'><BaseURL>{place}</BaseURL>"
        "</Representation></AdaptationSet></Period></MPD>"
    ).encode()
    sdp = f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 33\n".encode()
    encode(folder / "secret.mp4", count=3)
    local = folder / "secret.mp4"
    mp4 = folder / "plain.mp4"
    encode(mp4, count=12)
    plain, jpeg = mp4.read_bytes(), picture("JPEG")
    gab2 = b"GAB2\0\x02\0" + bytes(10) + hls
    rmra = struct.pack(">I", 8 + 8 + 20 + len(place)) + b"rmra" + struct.pack(">I", 8 + 20 + len(place)) + b"rmda"
    rmra += struct.pack(">I", 20 + len(place)) + b"rdrf" + bytes(4) + b"url " + struct.pack(">I", len(place))
    rmra += place.encode()
    ftyp = struct.pack(">I", 20) + b"ftypqt  " + bytes(4) + b"qt  "
    yield from {
        "hls": hls,
        "hls-bom": b"\xef\xbb\xbf" + hls,
        "hls-space": b"\n\t  \n" + hls,
        "hls-utf16": hls.decode().encode("utf-16"),
        "hls-null": b"\0" + hls,
        "hls-long-comment": b"#EXTM3U\n" + b"#\xff\xfe\x00\x01" * 500 + b"\n" + hls,
        "hls-local": hls.replace(place.encode(), str(local).encode()),
        "hls-key": hls.replace(b"#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{place}"\n#EXTINF'.encode(), 1),
        "dash": mpd,
        "dash-space": b"   \n" + mpd,
        "concat": f"ffconcat version 1.0\nfile '{place}'\n".encode(),
        "concat-local": f"ffconcat version 1.0\nfile '{local}'\n".encode(),
        "concat-binary": f"ffconcat version 1.0\n# {chr(1)}\nfile '{place}'\n".encode(),
        "sdp": sdp,
        "sdp-binary": sdp + bytes(range(256)),
        "asx": f"<asx version='3.0'><entry><ref href='{place}'/></entry></asx>".encode(),
        "pls": f"[playlist]\nFile1={place}\n".encode(),
        "reference": f"[Reference]\nRef1={place}\n".encode(),
        "avisynth": f'#!AVS\nDirectShowSource("{place}")\n'.encode(),
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{place}"/></svg>'.encode(),
        "postscript": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n({place}) run\n".encode(),
        "address": place.encode(),
        "mov-url": with_reference(plain, place.encode() + b"\0", b"url "),
        "mov-alias": with_reference(plain, alias(place), b"alis"),
        "mov-alias-local": with_reference(plain, alias(str(local)), b"alis"),
        "mov-reference-movie": ftyp + struct.pack(">I", 8 + len(rmra)) + b"moov" + rmra,
        "mkv-attachment": with_attachment(folder, hls),
        "avi-subtitles": avi([jpeg] * 12, sub=gab2),
        "avi-playlist": avi([hls] * 12),
    }.items()  # fmt: skip


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
    from service.sandbox.decoding import DecodeLimits
    from service.sandbox.isolation import before_imports, before_media
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
