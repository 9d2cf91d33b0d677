"""Fetching from servers on the loopback, whose names a fake resolver knows."""

import asyncio
import contextlib
import hashlib
import shutil
import socket
import ssl
import subprocess
import threading
import time

import pytest

from fakeface_jax.errors import ConfigError, LimitExceeded, OpenError
from fakeface_jax.server.url_policy import UNREACHABLE, AllowList

httpcore = pytest.importorskip("httpcore", reason="the service's extra is not installed")

from fakeface_jax.server.url_fetch import Timeouts, fetch  # noqa: E402 - needs httpcore


class Server:
    """Answers each request with what `answers` says for its path: bytes, or a function of the socket."""

    def __init__(self, address="127.0.0.1", context=None):
        self.answers, self.requests, self.ended = {}, [], False
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = socket.socket(family)
        try:
            self._socket.bind((address, 0))
        except OSError:
            self._socket.close()
            pytest.skip(f"this system has no address {address}")
        self._socket.listen()
        self.port = self._socket.getsockname()[1]
        self._context = context
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                if self.ended:
                    connection.close()
                    return
                thread = threading.Thread(target=self._answer, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _answer(self, connection):
        connection.settimeout(5)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            if self._context is not None:
                connection = stack.enter_context(self._context.wrap_socket(connection, server_side=True))
            request = b""
            while b"\r\n\r\n" not in request:
                more = connection.recv(65536)
                if not more:
                    return
                request += more
            self.requests.append(request.decode("latin-1"))
            answer = self.answers[request.split(b" ")[1].decode()]
            if callable(answer):
                answer(connection)
            else:
                connection.sendall(answer)

    def close(self):
        self.ended = True
        with contextlib.suppress(OSError), socket.create_connection(self._socket.getsockname()[:2], timeout=1):
            pass
        self._threads[0].join(5)
        self._socket.close()
        for thread in self._threads[1:]:
            thread.join(5)


@pytest.fixture
def serve():
    with contextlib.ExitStack() as stack:

        def start(*args, **settings):
            server = Server(*args, **settings)
            stack.callback(server.close)
            return server

        yield start


def ok(body=b"film", *headers):
    lines = [b"HTTP/1.1 200 OK", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def redirect(to, code=302):
    return f"HTTP/1.1 {code} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")


class Names:
    """A resolver: for each name a list of answers, the last of which is given again and again."""

    def __init__(self, **answers):
        self.answers = {name.replace("_", "."): list(given) for name, given in answers.items()}
        self.asked = []

    async def __call__(self, host, port):
        self.asked.append(host)
        given = self.answers.get(host)
        if not given:
            raise socket.gaierror("no such name, says the server 10.0.0.53")
        return given.pop(0) if len(given) > 1 else given[0]


def get(tmp_path, url, names, *ports, max_bytes=10**6, timeouts=Timeouts(connect=2, read=2, total=5), **more):
    settings = {"hosts": ("a.test", "b.test"), "schemes": ("http",), "allow_networks": ("127.0.0.1/32",)}
    allow = AllowList(**settings | {"ports": ports} | more.pop("allow", {}))
    target = tmp_path / "target"
    try:
        return asyncio.run(
            fetch(url, target, allow=allow, max_bytes=max_bytes, timeouts=timeouts, resolver=names, **more)
        )
    except BaseException:
        assert not target.exists()
        raise


def test_a_file_is_fetched(tmp_path, serve, monkeypatch):
    # Neither is heeded: both would lead the connection elsewhere.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    server = serve()
    body = bytes(range(256)) * 10_000
    server.answers["/a/clip.mp4?x=1"] = ok(body, b"Set-Cookie: a=b")
    names = Names(a_test=[["127.0.0.1"]])
    file = get(tmp_path, f"http://a.test:{server.port}/a/clip.mp4?x=1#f", names, server.port, max_bytes=len(body))
    assert (file.name, file.bytes, file.sha256) == ("clip.mp4", len(body), hashlib.sha256(body).hexdigest())
    assert (tmp_path / "target").read_bytes() == body
    assert names.asked == ["a.test"]
    request, *headers = server.requests[0].rstrip().split("\r\n")
    assert request == "GET /a/clip.mp4?x=1 HTTP/1.1"
    sent = {line.split(": ")[0].lower(): line.split(": ")[1] for line in headers}
    assert sent["host"] == f"a.test:{server.port}"
    assert sent["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "referer"} & set(sent)


def test_content_without_a_stated_length_is_fetched(tmp_path, serve):
    server = serve()
    server.answers["/chunked"] = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    )
    server.answers["/close"] = b"HTTP/1.1 200 OK\r\n\r\nabcde"
    for path in server.answers:
        file = get(tmp_path, f"http://a.test:{server.port}{path}", Names(a_test=[["127.0.0.1"]]), server.port)
        assert (file.bytes, (tmp_path / "target").read_bytes()) == (5, b"abcde")


def test_the_second_answer_of_a_name_server_has_no_effect(tmp_path, serve):
    """DNS rebinding: public when it is checked, private when it is connected to."""
    server, inside = serve(), serve("127.0.0.2")
    server.answers["/x"] = ok(b"outside")
    inside.answers["/x"] = ok(b"inside")
    names = Names(a_test=[["127.0.0.1"], ["127.0.0.2"]])
    get(tmp_path, f"http://a.test:{server.port}/x", names, server.port)
    assert (tmp_path / "target").read_bytes() == b"outside"
    assert names.asked == ["a.test"]
    # A redirect to the same host asks again, and the new answer is checked like the first.
    server.answers["/again"] = redirect(f"http://a.test:{inside.port}/x")
    names = Names(a_test=[["127.0.0.1"], ["127.0.0.2"]])
    with pytest.raises(OpenError, match=UNREACHABLE):
        get(tmp_path, f"http://a.test:{server.port}/again", names, server.port, inside.port)
    assert inside.requests == []


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1", "127.0.0.2"],
        ["127.0.0.2", "127.0.0.1"],
        ["127.0.0.1", "169.254.169.254"],
        ["127.0.0.1", "::1"],
        ["127.0.0.1", "fe80::1%eth0"],
        ["::ffff:127.0.0.2"],
        ["10.0.0.1"],
        ["nonsense"],
        [],
    ],
)
def test_one_address_inside_refuses_the_host(tmp_path, serve, addresses):
    server = serve()
    server.answers["/x"] = ok()
    with pytest.raises(OpenError, match=UNREACHABLE) as caught:
        get(tmp_path, f"http://a.test:{server.port}/x", Names(a_test=[addresses]), server.port)
    assert server.requests == []
    for secret in addresses:
        assert secret not in str(caught.value)


def test_unknown_refused_and_silent_hosts_look_alike(tmp_path):
    lines = set()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for names in (Names(), Names(a_test=[["10.0.0.1"]]), Names(a_test=[["127.0.0.1"]])):
        with pytest.raises(OpenError) as caught:
            get(tmp_path, f"http://a.test:{port}/x?token=secret", names, port)
        lines.add(str(caught.value))
        assert caught.value.__cause__ is not None  # the log can say more
    assert lines == {f"http://a.test:{port}/x: {UNREACHABLE} (check the name)"}


def test_addresses_are_tried_one_after_the_other(tmp_path, serve):
    server = serve()
    server.answers["/x"] = ok()
    names = Names(a_test=[["127.0.0.3", "127.0.0.1"]])
    allow = {"allow_networks": ("127.0.0.0/8",)}
    assert get(tmp_path, f"http://a.test:{server.port}/x", names, server.port, allow=allow).bytes == 4


def test_ipv6(tmp_path, serve):
    server = serve("::1")
    server.answers["/x"] = ok()
    names = Names(a_test=[["::1"]])
    allow = {"hosts": ("a.test", "::1"), "allow_networks": ("::1/128",)}
    assert get(tmp_path, f"http://a.test:{server.port}/x", names, server.port, allow=allow).bytes == 4
    assert get(tmp_path, f"http://[::1]:{server.port}/x", names, server.port, allow=allow).bytes == 4
    assert f"Host: [::1]:{server.port}\r\n" in server.requests[1]
    assert names.asked == ["a.test"]  # an address is no question
    with pytest.raises(OpenError, match=UNREACHABLE):
        get(tmp_path, f"http://[::1]:{server.port}/x", names, server.port, allow={"hosts": ("::1",)})


def test_redirects_are_followed_with_all_checks(tmp_path, serve):
    server, other = serve(), serve()
    server.answers["/1"] = redirect("/2", 301)
    server.answers["/2"] = redirect(f"//b.test:{other.port}/3", 307)
    other.answers["/3"] = redirect("x/../4?q", 308)
    other.answers["/4?q"] = ok(b"there")
    names = Names(a_test=[["127.0.0.1"]], b_test=[["127.0.0.1"]])
    file = get(tmp_path, f"http://a.test:{server.port}/1", names, server.port, other.port)
    assert (file.name, file.bytes) == ("1", 5)
    assert names.asked == ["a.test", "a.test", "b.test", "b.test"]


@pytest.mark.parametrize(
    "to",
    [
        "http://c.test:{port}/x",
        "http://127.0.0.2:{port}/x",
        "http://127.0.0.1:{port}/x",
        "http://2130706434:{port}/x",
        "http://user@b.test:{port}/x",
        "http://b.test:{port}/ä",
        "http://b.test:1/x",
        "file:///etc/passwd",
        "ftp://b.test/x",
        "http://[::1",
        "",
    ],
)
def test_redirects_elsewhere_are_refused(tmp_path, serve, to):
    server, inside = serve(), serve("127.0.0.2")
    inside.answers["/x"] = ok()
    server.answers["/x"] = redirect(to.format(port=inside.port))
    names = Names(a_test=[["127.0.0.1"]], b_test=[["127.0.0.1"]])
    with pytest.raises(OpenError, match="redirects to") as caught:
        get(tmp_path, f"http://a.test:{server.port}/x", names, server.port, inside.port)
    assert inside.requests == []
    assert "127.0.0" not in str(caught.value)


def test_redirects_to_a_name_inside_are_refused(tmp_path, serve):
    server, inside = serve(), serve("127.0.0.2")
    inside.answers["/x"] = ok()
    server.answers["/x"] = redirect(f"http://b.test:{inside.port}/x")
    names = Names(a_test=[["127.0.0.1"]], b_test=[["127.0.0.2"]])
    with pytest.raises(OpenError, match=UNREACHABLE):
        get(tmp_path, f"http://a.test:{server.port}/x", names, server.port, inside.port)
    assert inside.requests == []


def test_redirects_that_never_end(tmp_path, serve):
    server = serve()
    server.answers["/x"] = redirect("/x")
    with pytest.raises(OpenError, match="more than 3 times"):
        get(tmp_path, f"http://a.test:{server.port}/x", Names(a_test=[["127.0.0.1"]]), server.port)
    assert len(server.requests) == 4


@pytest.mark.parametrize("stated", [True, False])
def test_too_many_bytes(tmp_path, serve, stated):
    server, sent = serve(), []

    def endless(connection):
        length = b"Content-Length: 100000000000\r\n" if stated else b""
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        while True:
            sent.append(connection.send(bytes(65536)))

    server.answers["/x"] = endless
    with pytest.raises(LimitExceeded, match="more than 1000000 bytes"):
        get(tmp_path, f"http://a.test:{server.port}/x", Names(a_test=[["127.0.0.1"]]), server.port)
    server.close()
    assert sum(sent) < 20_000_000  # what the buffers of two sockets hold, at most


def test_a_byte_now_and_then_does_not_hold_it(tmp_path, serve):
    server = serve()

    def trickle(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(40):
            connection.sendall(b"x")
            time.sleep(0.05)

    server.answers["/x"] = trickle
    began = time.monotonic()
    names = Names(a_test=[["127.0.0.1"]])
    with pytest.raises(OpenError, match=r"took longer than 0\.4 seconds"):
        get(tmp_path, f"http://a.test:{server.port}/x", names, server.port, timeouts=Timeouts(total=0.4))
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"HTTP/1.1 200"])
def test_a_server_that_says_nothing_more(tmp_path, serve, begin):
    server = serve()

    def silent(connection):
        connection.sendall(begin)
        connection.recv(1)

    server.answers["/x"] = silent
    names = Names(a_test=[["127.0.0.1"]])
    with pytest.raises(OpenError, match=r"sent nothing for 0\.2 seconds"):
        get(tmp_path, f"http://a.test:{server.port}/x", names, server.port, timeouts=Timeouts(read=0.2))


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\nsecret", "answered 404"),
        (b"HTTP/1.1 206 Partial\r\nContent-Length: 1\r\n\r\nx", "answered 206"),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "answered 500"),
        (b"HTTP/1.1 304 Same\r\n\r\n", "answered 304"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak HTTP"),
        (b"", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "broke the transfer off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10, 11\r\n\r\nabc", "broke the transfer off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broke the transfer off"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", "broke the transfer off"),
        (ok(b"x", b"Content-Encoding: gzip"), "compressed"),
        (redirect("").replace(b"Location: \r\n", b""), "redirects to nowhere"),
    ],
)
def test_answers_that_are_no_file(tmp_path, serve, answer, problem):
    server = serve()
    server.answers["/x"] = answer
    with pytest.raises(OpenError, match=problem) as caught:
        get(tmp_path, f"http://a.test:{server.port}/x", Names(a_test=[["127.0.0.1"]]), server.port)
    assert "secret" not in str(caught.value)


def test_a_fetch_that_is_cancelled_leaves_nothing(tmp_path, serve):
    server = serve()
    arrived = threading.Event()

    def slow(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(100_000))
        arrived.set()
        connection.recv(1)

    server.answers["/x"] = slow

    async def run():
        allow = AllowList(hosts=("a.test",), schemes=("http",), ports=(server.port,), allow_networks=("127.0.0.1/32",))
        names = Names(a_test=[["127.0.0.1"]])
        url = f"http://a.test:{server.port}/x"
        task = asyncio.create_task(fetch(url, tmp_path / "x", allow=allow, max_bytes=10**6, resolver=names))
        await asyncio.to_thread(arrived.wait, 5)
        assert (tmp_path / "x").exists()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert not (tmp_path / "x").exists()


def test_a_disk_that_is_full_is_no_news_for_the_client(tmp_path, serve):
    allow = AllowList(hosts=("a.test",))
    target = tmp_path / "missing" / "x"
    with pytest.raises(OpenError, match="could not be stored here") as caught:
        asyncio.run(fetch("https://a.test/x", target, allow=allow, max_bytes=1, resolver=Names()))
    assert str(tmp_path) not in str(caught.value)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of its own for a.test, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=a.test"
    extra = [
        "-addext",
        "subjectAltName=DNS:a.test",
        "-keyout",
        str(folder / "key"),
        "-out",
        str(folder / "certificate"),
    ]
    subprocess.run([*command.split(), *extra], check=True, capture_output=True)
    return folder / "certificate", folder / "key"


def test_https_checks_the_certificate_of_the_name(tmp_path, serve, certificate):
    context, wanted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    context.load_cert_chain(*certificate)
    context.sni_callback = lambda _, name, __: wanted.append(name)
    server = serve(context=context)
    server.answers["/x"] = ok()
    server.answers["/down"] = redirect(f"http://a.test:{server.port}/x")
    trusting = ssl.create_default_context(cafile=str(certificate[0]))
    names = Names(a_test=[["127.0.0.1"]], b_test=[["127.0.0.1"]])

    def secure(url, context=trusting):
        allow = {"schemes": ("https", "http")}
        return get(tmp_path, url.format(server.port), names, server.port, allow=allow, ssl_context=context)

    assert secure("https://a.test:{}/x").bytes == 4
    assert wanted == ["a.test"]  # the name, although an address was connected to
    assert "Host: a.test" in server.requests[0]
    with pytest.raises(OpenError, match="no valid certificate"):
        secure("https://b.test:{}/x")  # another name
    with pytest.raises(OpenError, match="no valid certificate"):
        secure("https://a.test:{}/x", context=None)  # nobody whom certifi knows
    with pytest.raises(OpenError, match="from https to http"):
        secure("https://a.test:{}/down")
    assert len(server.requests) == 2


@pytest.mark.parametrize("settings", [{"connect": 0}, {"read": -1}, {"total": float("inf")}, {"total": float("nan")}])
def test_timeouts_are_above_zero_and_end(settings):
    with pytest.raises(ConfigError):
        Timeouts(**settings)
