"""Which URLs an operator allows, and which addresses of the network may be connected to at all.

A URL is taken apart once, strictly, and what was taken apart is what is connected to: no second parser can read it
differently. Names resolve to anything, so addresses are checked too. Only those that the whole Internet can reach are
allowed; what lies inside (this machine, its network, a cloud's metadata service) is not, however it is spelled.

Example:
    >>> allow = AllowList(hosts=("media.example.org", "*.cdn.example.org"))
    >>> parse_url("https://media.example.org/clip.mp4", allow).host
    'media.example.org'
    >>> allow.permits("169.254.169.254")
    False
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from urllib.parse import unquote, urlsplit

from fakeface_jax.errors import ConfigError, OpenError, printable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

PORTS = {"https": 443, "http": 80}
"""Schemes that can be allowed, with the port that each has if none is given."""

UNREACHABLE = "the host cannot be reached, or may not be"
"""One line for a name that does not exist, one inside, and one that does not answer: the difference would map the
operator's network."""

_LONGEST = 4096
_NAME_SHOWN = 200
_TEXT = re.compile(r"[!-\[\]-~]+")  # printable ASCII without blank and backslash, which others read as a slash
_NETLOC = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that was given out so far
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_REFUSED = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # the metadata of Azure, at a public address
            "192.0.0.0/24",  # protocols; the metadata of Oracle's cloud; public to some Pythons
            "192.88.99.0/24",  # relays of 6to4, withdrawn
            "3fff::/20",  # documentation, newer than some Pythons
        ),
    )
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllowList:
    """What an operator allows to be fetched.

    Attributes:
        hosts: names, exact or as `*.example.org`, which stands for all names below it and not for itself; or addresses.
        schemes: https, and http only where it is named.
        ports: numbers; those of the schemes if not given.
        allow_networks: that may be connected to although they are not public, as `10.1.0.0/16`. Handle with care:
            whoever sends URLs, and whoever answers for the hosts, reaches them.

    Raises:
        ConfigError: a scheme, host, port or network that cannot be.
    """

    hosts: tuple[str, ...]
    schemes: tuple[str, ...] = ("https",)
    ports: tuple[int, ...] | None = None
    allow_networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for scheme in self.schemes:
            if scheme not in PORTS:
                raise ConfigError(f"scheme {scheme!r} cannot be fetched from; name https or http")
        for port in self.ports or ():
            if not 0 < port < 2**16:
                raise ConfigError(f"port {port} is not in 1 to 65535")
        for host in self.hosts:
            if _host(host.removeprefix("*.")) != host.removeprefix("*."):
                raise ConfigError(
                    f"host {host!r}: write a name in lower case, *.NAME or an address; other alphabets as xn--"
                )
        for network in self.allow_networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigError(f"network {network!r}: {error}; write 10.1.0.0/16") from error

    def names(self, host: str) -> bool:
        """Whether the host is on the list."""
        return any(
            host.endswith(allowed[1:]) and not _is_address(host) if allowed.startswith("*.") else host == allowed
            for allowed in self.hosts
        )

    def permits(self, address: str) -> bool:
        """Whether an address that a host resolved to may be connected to."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return _permitted(parsed, tuple(map(ipaddress.ip_network, self.allow_networks)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Location:
    """A URL, taken apart.

    Attributes:
        scheme: https or http.
        host: name in lower case without a final dot, or address without brackets.
        port: number.
        target: path and query, as they are sent.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def host_header(self) -> str:
        """As HTTP wants it: brackets around IPv6, the port if it is not the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """Put together again."""
        return f"{self.scheme}://{self.host_header}{self.target}"

    @property
    def shown(self) -> str:
        """For messages: without the query, which may hold a secret."""
        return f"{self.scheme}://{self.host_header}{self.target.partition('?')[0]}"[:_NAME_SHOWN]

    @property
    def name(self) -> str:
        """What the media is called: the end of the path, or the host where it has none. To be shown, never opened."""
        last = unquote(self.target.partition("?")[0].rpartition("/")[2]).replace("\\", "/").rpartition("/")[2]
        return printable(last)[-_NAME_SHOWN:] or self.host


def parse_url(url: str, allow: AllowList) -> Location:
    """A URL that a client sent, or a server redirects to.

    Raises:
        OpenError: no URL, or one that is not allowed.
    """
    # What is wrong with it may hide a password in a place where no program looks for one.
    source = "the URL"
    if len(url) > _LONGEST or not _TEXT.fullmatch(url):
        raise OpenError(source, f"is longer than {_LONGEST} characters or not plain ASCII", "encode it")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise OpenError(source, "is none") from error
    scheme = parts.scheme.lower()
    if scheme not in allow.schemes:
        raise OpenError(source, f"does not begin with {' or '.join(f'{one}://' for one in allow.schemes)}")
    if "@" in parts.netloc:
        raise OpenError(source, "holds a name or a password", "send it without")
    found = _NETLOC.fullmatch(parts.netloc)
    host = _host(found["six"] or found["name"], six=found["six"] is not None) if found else None
    if found is None or host is None:
        raise OpenError(source, "has no valid host")
    if not allow.names(host):
        raise OpenError(source, "is of a host that this service does not fetch from", "send the file instead")
    port = int(found["port"] or PORTS[scheme])
    if port not in (allow.ports or [PORTS[one] for one in allow.schemes]):
        raise OpenError(source, f"names port {port}, which this service does not fetch from")
    query = f"?{parts.query}" if parts.query else ""
    return Location(scheme=scheme, host=host, port=port, target=(parts.path or "/") + query)


def _host(text: str, *, six: bool = False) -> str | None:
    """A host in its one spelling; None if it is none, or an address in a spelling that programs read differently."""
    if six or ":" in text:
        try:
            return str(ipaddress.IPv6Address(text))
        except ValueError:
            return None
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        return None
    # 2130706433, 0177.0.0.1 and 0x7f.1 are 127.0.0.1 to some.
    if _NUMERIC.fullmatch(labels[-1]):
        return host if _is_address(host) else None
    return host


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _permitted(address: Address, networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return False
    if any(address in network for network in networks):
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return _is_public(address)
    inside = _inside(address)
    if inside:
        return all(_permitted(one, networks) for one in inside)
    return address in _GLOBAL_UNICAST and _is_public(address)


def _is_public(address: Address) -> bool:
    return (
        address.is_global
        and not (address.is_multicast or address.is_reserved or address.is_unspecified)
        and not any(address in network for network in _REFUSED)
    )


def _inside(address: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """IPv4 addresses that a packet to this one may end at."""
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address.sixtofour is not None:
        return [address.sixtofour]
    if address.teredo is not None:
        return list(address.teredo)
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return []
