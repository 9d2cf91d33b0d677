"""A camera for tests that speaks RTSP 1.0: H.264 over TCP, with failures that can be switched on while it runs.

PyAV encodes the pictures once: numbered pictures in two slices each, of which the larger ones are sent in fragments
(RFC 6184). UDP is refused, as by cameras behind a firewall.

Example:
    >>> with RtspServer(fps=20) as server:
    ...     capture = open(server.url)
    ...     server.mode = "stall"      # the connection stays open, but no more pictures are sent
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
import struct
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from hashlib import md5

import numpy as np
from clips import BITS, numbered_picture

CLOCK = 90_000
"""Ticks of RTP per second."""

COUNT = 2**BITS
"""Pictures that are sent in turn if no others are given; `clips.number_of` reads the number of a picture."""

KEYS = 8
"""Number of pictures from one key frame to the next; a new client begins with a key frame."""

_PAYLOAD = 96
_MOST = 64
"""Largest size of a packet in bytes: small, so that key frames need several."""

_GARBAGE = b"\0\0\3" * 8
"""Bytes that, after a first byte, do not form a slice: the number at its beginning does not end."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Units:
    """The NAL units of pictures, without start codes; those of a key frame begin with the parameter sets."""

    pictures: tuple[tuple[bytes, ...], ...]

    @property
    def parameter_sets(self) -> tuple[bytes, ...]:
        return tuple(unit for unit in self.pictures[0] if unit[0] & 31 in (7, 8))


def encode(pictures: Sequence[np.ndarray], fps: float) -> Units:
    """Encodes H.264 as cameras do: baseline profile, no picture depends on a later one."""
    import av

    coder = av.CodecContext.create("libx264", "w")
    coder.height, coder.width = pictures[0].shape[:2]
    coder.pix_fmt, coder.framerate = "yuv420p", round(fps)
    coder.options = {"profile": "baseline", "tune": "zerolatency", "preset": "ultrafast", "crf": "16"}
    coder.options |= {"g": str(KEYS), "x264-params": "slices=2:scenecut=0:keyint-min=1:repeat-headers=1"}
    frames = [av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24") for picture in pictures]
    packets = [packet for frame in frames for packet in coder.encode(frame)]
    assert len(packets) == len(pictures)
    units = [re.split(rb"\0\0\0?\x01", bytes(packet))[1:] for packet in packets]
    # Information that the encoder adds about itself (SEI) is dropped.
    return Units(pictures=tuple(tuple(unit for unit in those if unit[0] & 31 != 6) for those in units))


class RtspServer:
    """A server of one endless stream to any number of clients.

    Args:
        fps: pictures per second.
        pictures: RGB pictures to send in turn; None sends `COUNT` numbered ones. Their number is a multiple of `KEYS`.

    Attributes:
        url: address without a name and a password.
        mode: `send`; `stall` keeps connections and answers, and sends no picture; `garbage` sends pictures that cannot
            be decoded; `close` ends connections after the next picture and answers requests with 503; `silent` accepts
            and never answers.
        user: `name:password` that clients must send; empty admits everybody.
        scheme: `Digest` or `Basic`.
        patience: seconds after which a session ends that is not kept alive.
        requests: method and address of all requests, in order.
        transports: transports that clients asked for, in order.
        admitted, refused: numbers of requests with the right password, and of the others.
        sent: number of pictures sent, over all connections.
        packets: number of RTP packets by type: 1 and 5 are whole units, 7 and 8 parameter sets, 28 fragments.
    """

    def __init__(self, *, fps: float = 20.0, pictures: Sequence[np.ndarray] | None = None) -> None:
        self.fps, self.mode, self.user, self.scheme, self.patience = fps, "send", "", "Digest", 60
        self.requests: list[str] = []
        self.transports: list[str] = []
        self.admitted = self.refused = self.sent = 0
        self.packets: dict[int, int] = {}
        self._units = encode(pictures or [numbered_picture(number) for number in range(COUNT)], fps)
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/live"
        self._clients: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def url_for(self, user: str) -> str:
        """Returns the address with a name and a password."""
        return self.url.replace("rtsp://", f"rtsp://{user}@")

    def close(self) -> None:
        self._stopped.set()
        for one in [self._listener, *self._clients]:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5.0)
        self._listener.close()

    def __enter__(self) -> RtspServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, call, *arguments) -> None:
        self._threads.append(threading.Thread(target=call, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._stopped.is_set():
                client = self._listener.accept()[0]
                self._clients.add(client)
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError, EOFError), client:
            connection = _Connection(client, self)
            for lines in connection.requests():
                if self.mode == "silent":
                    self._stopped.wait()
                    break
                if not connection.answer(lines):
                    break
        self._clients.discard(client)

    def lets_in(self, method: str, given: str) -> bool:
        """Tells if a request has the right name and password."""
        name, _, password = self.user.partition(":")
        scheme, _, rest = given.partition(" ")
        if not self.user or scheme != self.scheme:
            right = not self.user
        elif scheme == "Basic":
            right = b64decode(rest).decode() == self.user
        else:
            said = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            request, secret = _md5(f"{method}:{said['uri']}"), _md5(f"{name}:camera:{password}")
            right = said["response"] == _md5(f"{secret}:nonce:{request}")
        self.admitted, self.refused = self.admitted + right, self.refused + (not right)
        return right

    def pictures(self) -> Iterator[tuple[tuple[bytes, ...], int]]:
        """Yields units and RTP time of each picture when it is due, from a key frame on, until the connection ends."""
        began, start = time.monotonic(), -(-self.sent // KEYS) * KEYS
        self.sent, number = start, 0
        while not self._stopped.wait(max(0.0, began + number / self.fps - time.monotonic())) and self.mode != "close":
            units, stamp = self._units.pictures[(start + number) % len(self._units.pictures)], number * CLOCK / self.fps
            if self.mode == "garbage":
                units = tuple(unit[:1] + _GARBAGE if unit[0] & 31 in (1, 5) else unit for unit in units)
            if self.mode != "stall":
                yield units, round(stamp)
                self.sent += 1
            number += 1

    def sdp(self) -> str:
        sets = self._units.parameter_sets
        return "\r\n".join(
            [
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\na=control:*",
                f"m=video 0 RTP/AVP {_PAYLOAD}\r\na=rtpmap:{_PAYLOAD} H264/{CLOCK}\r\na=control:track1",
                f"a=fmtp:{_PAYLOAD} packetization-mode=1;profile-level-id={sets[0][1:4].hex()};"
                f"sprop-parameter-sets={','.join(b64encode(one).decode() for one in sets)}\r\n",
            ]
        )


class _Connection:
    """One client: requests and answers, with pictures between them once it plays."""

    def __init__(self, client: socket.socket, server: RtspServer) -> None:
        self._client, self._server = client, server
        self._writing = threading.Lock()
        self._sequence = 0

    def requests(self) -> Iterator[list[str]]:
        """Yields the lines of each request; the clients' statistics (RTCP) are skipped."""
        with self._client.makefile("rb") as file:
            while first := file.read(1):
                if first == b"$":
                    file.read(struct.unpack("!BH", file.read(3))[1])
                    continue
                lines = [(first + file.readline()).decode().strip()]
                while line := file.readline().decode().strip():
                    lines.append(line)
                yield lines

    def answer(self, lines: list[str]) -> bool:
        """Handles a request; returns False if the connection should end."""
        server, (method, address, _) = self._server, lines[0].split()
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        server.requests.append(f"{method} {address}")
        session = f"Session: 7;timeout={server.patience}"
        code, more, body = "200 OK", [session], ""
        if server.mode == "close":
            code = "503 Service Unavailable"
        elif method != "OPTIONS" and not server.lets_in(method, headers.get("authorization", "")):
            nonce = ', nonce="nonce"' if server.scheme == "Digest" else ""
            code, more = "401 Unauthorized", [f'WWW-Authenticate: {server.scheme} realm="camera"{nonce}']
        elif method == "OPTIONS":
            more = ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN"]
        elif method == "DESCRIBE":
            more, body = [f"Content-Base: {server.url}/", "Content-Type: application/sdp"], server.sdp()
        elif method == "SETUP":
            server.transports.append(headers["transport"])
            if "/TCP" in headers["transport"]:
                more = [session, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1"]
            else:
                code, more = "461 Unsupported Transport", []
        text = [f"RTSP/1.0 {code}", f"CSeq: {headers['cseq']}", *more, f"Content-Length: {len(body)}", "", body]
        self._write("\r\n".join(text).encode())
        if method == "PLAY" and code == "200 OK":
            threading.Thread(target=self._play, daemon=True).start()
        return server.mode != "close" and method != "TEARDOWN"

    def _write(self, data: bytes) -> None:
        with self._writing:
            self._client.sendall(data)

    def _play(self) -> None:
        with contextlib.suppress(OSError):
            for units, stamp in self._server.pictures():
                payloads = [payload for unit in units for payload in _payloads(unit)]
                self._write(b"".join(self._packet(one, stamp, last=one is payloads[-1]) for one in payloads))
            self._client.shutdown(socket.SHUT_RDWR)

    def _packet(self, payload: bytes, stamp: int, *, last: bool) -> bytes:
        kind, packets = payload[0] & 31, self._server.packets
        packets[kind] = packets.get(kind, 0) + 1
        header = struct.pack("!BBHII", 0x80, last << 7 | _PAYLOAD, self._sequence, stamp, 0xFACE)
        self._sequence = (self._sequence + 1) % 2**16
        return b"$" + struct.pack("!BH", 0, len(header) + len(payload)) + header + payload


def _payloads(unit: bytes) -> list[bytes]:
    """Splits a unit by RFC 6184: the unit itself, or fragments of it (FU-A), the first and last of which are marked."""
    if len(unit) <= _MOST:
        return [unit]
    head, body = unit[0], unit[1:]
    parts = [body[at : at + _MOST - 2] for at in range(0, len(body), _MOST - 2)]
    flags = [0x80, *[0] * (len(parts) - 2), 0x40]
    return [bytes([head & 0xE0 | 28, flag | head & 31]) + part for flag, part in zip(flags, parts, strict=True)]


def _md5(text: str) -> str:
    return md5(text.encode(), usedforsecurity=False).hexdigest()
