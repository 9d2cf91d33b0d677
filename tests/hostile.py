"""Harmful media: bombs, damage by a seeded fuzzer, files that request others, and a server that counts requests."""

import io
import socketserver
import struct
import zlib

import numpy as np
from clips import encode
from PIL import Image


class Canary(socketserver.ThreadingTCPServer):
    """Counts all connections, in any protocol."""

    allow_reuse_address = daemon_threads = True

    def __init__(self):
        self.hits = 0
        super().__init__(("127.0.0.1", 0), None)
        self.port = self.server_address[1]

    def finish_request(self, request, client_address):
        self.hits += 1
        request.sendall(b"HTTP/1.0 404 Not Found\r\n\r\n")


def picture(form, size=(64, 48), **settings):
    noise = np.random.default_rng(1).integers(0, 255, (6, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, format=form, **settings)
    return file.getvalue()


def avi(frames, *, size=(64, 48), sub=None, count=None):
    """Builds an AVI of JPEG pictures by hand, with a stream of subtitles if `sub` is given."""

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
    """Returns a JPEG whose header states another size."""
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
        # Damage in headers does the most harm.
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


def boxes(data, *path):
    """Returns the offsets of the boxes on a path in an MP4."""
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
    """Returns an MP4 whose video is said to be in another file: its data reference is replaced."""
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
    """Returns a Macintosh alias record with an absolute path, as QuickTime writes it."""
    path = place.encode()
    path += b"\0" * (len(path) % 2)
    record = bytes(10) + b"\x01v" + bytes(26) + bytes(12) + b"\x01f" + bytes(62) + bytes(16) + b"\xff\xff\xff\xff"
    record += bytes(16) + struct.pack(">HH", 2, len(path)) + path + struct.pack(">HH", 0xFFFF, 0)
    return record + bytes(160)


def with_attachment(folder, data):
    """Writes a Matroska file that contains a playlist."""
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
    """Returns files that name another location, each under a name that looks harmless."""
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
