"""Media fetched from a URL, where an operator turned that on: from allowed hosts, over checked connections.

A service that fetches what it is told to is a way into its own network (server-side request forgery). So: the name is
resolved once, every address that it has is checked, and the connection goes to one of those; a second answer of the
name server has no effect. Redirects are followed by hand, with all checks again. No cookies, no proxies, no
compression, and never more bytes or seconds than allowed.

Example:
    >>> allow = AllowList(hosts=("media.example.org",))
    >>> file = await fetch("https://media.example.org/clip.mp4", path, allow=allow, max_bytes=2**30)
    >>> file.sha256, file.bytes
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import urljoin

import httpcore

from fakeface_jax.errors import ConfigError, LimitExceeded, OpenError
from fakeface_jax.server.url_policy import UNREACHABLE, AllowList, Location, parse_url

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""From a name and a port to addresses; raises OSError where there are none."""

_REDIRECTS = {301, 302, 303, 307, 308}
_MOST_REDIRECTS = 3
_MOST_ADDRESSES = 4  # that are tried, one after the other
_AT_ONCE = 2**20  # bytes written to the disk in one go, in a thread


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds.

    Attributes:
        connect: for a connection with TLS.
        read: without a byte.
        total: for everything, from the name to the last byte; what stops a server that sends a byte now and then.
    """

    connect: float = 10.0
    read: float = 20.0
    total: float = 600.0

    def __post_init__(self) -> None:
        if not all(0 < value < float("inf") for value in dataclasses.astuple(self)):
            raise ConfigError(f"timeouts must be above 0 seconds: {self}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchedFile:
    """What was fetched.

    Attributes:
        name: the end of the URL's path; to be shown, never opened.
        sha256: of the content, hexadecimal.
        bytes: size.
    """

    name: str
    sha256: str
    bytes: int


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system knows them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def fetch(
    url: str,
    target: Path,
    *,
    allow: AllowList,
    max_bytes: int,
    timeouts: Timeouts = Timeouts(),
    resolver: Resolve = resolve,
    ssl_context: ssl.SSLContext | None = None,
    on_bytes: Callable[[int], None] = lambda size: None,
) -> FetchedFile:
    """Fetches a file.

    Args:
        url: as the client sent it.
        target: written to; gone after an error.
        allow: hosts, schemes, ports, networks.
        max_bytes: of the content; more ends the transfer.
        timeouts: seconds.
        resolver: from names to addresses.
        ssl_context: what certificates are trusted; those of certifi if not given.
        on_bytes: called with the length of each piece of the content, also of one that is refused in the end.

    Raises:
        OpenError: not allowed, not reachable, no answer in time, no file. The line tells a client nothing of the
            network; `__cause__` has the details for the log.
        LimitExceeded: more than `max_bytes`.
    """
    first = parse_url(url, allow)
    source = first.shown
    try:
        with target.open("wb") as file:
            async with asyncio.timeout(timeouts.total):
                location = first
                for _ in range(_MOST_REDIRECTS + 1):
                    addresses = await _addresses(source, location, allow, resolver)
                    async with _answer(location, addresses, timeouts, ssl_context) as response:
                        if response.status not in _REDIRECTS:
                            digest, size = await _receive(source, response, file, max_bytes, on_bytes)
                            return FetchedFile(name=first.name, sha256=digest, bytes=size)
                        location = _next(source, location, response, allow)
                raise OpenError(source, f"redirects more than {_MOST_REDIRECTS} times")
    except BaseException as error:
        target.unlink(missing_ok=True)
        if (told := _told(source, error, timeouts)) is not None:
            raise told from error
        raise


async def _addresses(source: str, location: Location, allow: AllowList, resolver: Resolve) -> list[str]:
    """Where the host is; one address that is not allowed makes all of them suspect."""
    try:
        addresses = [str(ipaddress.ip_address(location.host))]
    except ValueError:
        try:
            addresses = await resolver(location.host, location.port)
        except (OSError, UnicodeError) as error:
            raise OpenError(source, UNREACHABLE, "check the name") from error
    if refused := [address for address in addresses if not allow.permits(address)]:
        cause = PermissionError(f"{location.host} is at {', '.join(refused)}, which is not public")
        raise OpenError(source, UNREACHABLE, "check the name") from cause
    if not addresses:
        raise OpenError(source, UNREACHABLE, "check the name")
    return addresses[:_MOST_ADDRESSES]


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, whatever name it is asked for."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """The first address that answers; each has its share of the time."""
        share = None if timeout is None else timeout / len(self._addresses)
        *others, last = self._addresses
        for address in others:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._backend.connect_tcp(address, port, share, local_address, socket_options)
        return await self._backend.connect_tcp(last, port, share, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """Between attempts, of which there is one."""
        await self._backend.sleep(seconds)


@contextlib.asynccontextmanager
async def _answer(
    location: Location, addresses: list[str], timeouts: Timeouts, ssl_context: ssl.SSLContext | None
) -> AsyncIterator[httpcore.Response]:
    """The answer of one server, up to its headers. The connection is closed at the end."""
    # The parts, not the text: nothing is parsed a second time. SNI and certificate go by `host`.
    url = httpcore.URL(
        scheme=location.scheme.encode(),
        host=location.host.encode(),
        port=location.port,
        target=location.target.encode(),
    )
    headers = [
        ("Host", location.host_header),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
        ("User-Agent", "fakeface-jax"),
        ("Connection", "close"),
    ]
    timeout = {"connect": timeouts.connect, "read": timeouts.read, "write": timeouts.read, "pool": timeouts.connect}
    async with (
        httpcore.AsyncConnectionPool(
            ssl_context=ssl_context, max_connections=1, network_backend=_Checked(addresses)
        ) as pool,
        pool.stream("GET", url, headers=headers, extensions={"timeout": timeout}) as response,
    ):
        yield response


def _header(response: httpcore.Response, name: str) -> str | None:
    for key, value in response.headers:
        if key.lower() == name.encode():
            return value.decode("latin-1")
    return None


def _next(source: str, location: Location, response: httpcore.Response, allow: AllowList) -> Location:
    """Where a redirect leads to."""
    target = _header(response, "location")
    if not target:
        raise OpenError(source, "redirects to nowhere")
    try:
        new = parse_url(urljoin(location.url, target), allow)
    except (OpenError, ValueError) as error:
        raise OpenError(source, "redirects to where this service does not fetch from") from error
    if location.scheme == "https" and new.scheme != "https":
        raise OpenError(source, "redirects from https to http")
    return new


async def _receive(
    source: str,
    response: httpcore.Response,
    file: IO[bytes],
    max_bytes: int,
    on_bytes: Callable[[int], None],
) -> tuple[str, int]:
    """Writes the content; its SHA-256 and size."""
    too_much = LimitExceeded(source, f"has more than {max_bytes} bytes, the most that this service takes")
    if response.status != 200:
        raise OpenError(source, f"the server answered {response.status}", "check the address")
    if (_header(response, "content-encoding") or "identity").strip().lower() != "identity":
        raise OpenError(source, "the server sends it compressed although it was asked not to")
    stated = _header(response, "content-length") or ""
    # Only digits, and not so many that the conversion is work; what is stated wrongly is caught while receiving.
    if stated.isascii() and stated.isdigit() and len(stated) < 20 and int(stated) > max_bytes:
        raise too_much
    digest, size, waiting = hashlib.sha256(), 0, bytearray()

    def write(data: bytes) -> None:
        digest.update(data)
        file.write(data)

    async for chunk in response.aiter_stream():
        size += len(chunk)
        on_bytes(len(chunk))
        if size > max_bytes:
            raise too_much
        waiting += chunk
        if len(waiting) >= _AT_ONCE:
            await asyncio.to_thread(write, bytes(waiting))
            waiting.clear()
    await asyncio.to_thread(write, bytes(waiting))
    file.flush()
    return digest.hexdigest(), size


def _told(source: str, error: BaseException, timeouts: Timeouts) -> OpenError | None:
    """What a client is told of an error; None for one that is clear already, or none of ours."""
    if isinstance(error, TimeoutError):
        return OpenError(source, f"took longer than {timeouts.total:g} seconds")
    if isinstance(error, httpcore.ConnectError | httpcore.ConnectTimeout):
        # Only of a host that was connected to, so that its address was allowed.
        if any(isinstance(one, ssl.SSLCertVerificationError) for one in _chain(error)):
            return OpenError(source, "the host has no valid certificate")
        return OpenError(source, UNREACHABLE, "check the name")
    if isinstance(error, httpcore.TimeoutException):
        return OpenError(source, f"the server sent nothing for {timeouts.read:g} seconds", "try again later")
    if isinstance(error, httpcore.NetworkError | httpcore.ProtocolError):
        return OpenError(source, "the server broke the transfer off, or does not speak HTTP", "try again later")
    if isinstance(error, OSError):
        return OpenError(source, "could not be stored here", "try again later")
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, through the layers below."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
