"""A camera for tests: endless JPEG pictures over HTTP on this machine, with failures that can be switched on.

Example:
    >>> with MjpegServer(fps=20) as server:
    ...     capture = open(server.url)
    ...     server.mode = "stall"      # the connection stays open, but no more data is sent
"""

from __future__ import annotations

import contextlib
import http.server
import threading
from base64 import b64encode

import cv2
import numpy as np

BOUNDARY = b"fakeface"
GARBAGE = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4


class MjpegServer:
    """A server of one endless stream to any number of clients.

    Args:
        fps: pictures per second.
        size: width and height; may be changed while it runs.
        picture: RGB picture to send, scaled to `size`, its corner counting up; None sends a grey level that counts up.

    Attributes:
        mode: `send`; `stall` keeps the connection and sends nothing; `garbage` sends parts that are not JPEG; `close`
            ends connections after the next picture and answers new ones with 503; `silent` accepts and never answers.
        user: `name:password` that clients must send; empty admits everybody.
        requests: request lines of all connections, in order.
        sent: number of pictures sent, over all connections.
    """

    def __init__(self, *, fps: float = 20.0, size: tuple[int, int] = (160, 120), picture=None) -> None:
        self.fps, self.size, self.picture, self.mode = fps, size, picture, "send"
        self.requests: list[str] = []
        self.user = ""
        self.sent = 0
        self._stopped = threading.Event()
        self._port = 0
        self._up()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/live"

    def _up(self) -> None:
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.requests.append(self.path)
                with contextlib.suppress(OSError):
                    camera._answer(self)
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads, block_on_close, allow_reuse_address = True, False, True

            def handle_error(self, *_: object) -> None:
                pass  # clients of these tests disconnect at any moment

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def _answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        if self.mode == "silent":
            self._stopped.wait()
            return
        if self.mode == "close":
            request.send_error(503)
            return
        if self.user and request.headers.get("Authorization") != f"Basic {b64encode(self.user.encode()).decode()}":
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="camera"')
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(200)
        request.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY.decode()}")
        request.end_headers()
        while not self._stopped.wait(1.0 / self.fps) and self.mode != "close":
            if self.mode == "stall":
                continue
            body = GARBAGE if self.mode == "garbage" else self._jpeg()
            head = b"--%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (BOUNDARY, len(body))
            request.wfile.write(head + body + b"\r\n")
            request.wfile.flush()
            self.sent += self.mode != "garbage"

    def _jpeg(self) -> bytes:
        width, height = self.size
        if self.picture is None:
            image = np.full((height, width, 3), self.sent * 8 % 256, np.uint8)
        else:
            image = cv2.cvtColor(cv2.resize(self.picture, (width, height)), cv2.COLOR_RGB2BGR)
            image[:16, :16] = 5 * (self.sent % 50)
        return cv2.imencode(".jpg", image)[1].tobytes()

    def close(self) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> MjpegServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
