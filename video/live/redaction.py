"""Addresses as they may be shown: what could be a secret is replaced by `***`.

Addresses of cameras hold passwords: before the host, as values of the query, in the path of many recorders
(`/user=admin_password=..._channel=1.sdp`), or as a key that is a part of the path. What is no known harmless part is
taken for a secret, so that a display name may say too little and never too much.

Example:
    >>> display_address("rtsp://admin:secret@camera.local/live?token=abc")
    'rtsp://***@camera.local/live?token=***'
"""

from __future__ import annotations

import re

HIDDEN = "***"

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<host>[^/?#]*)(?P<path>[^?#]*)(?P<rest>.*)", re.DOTALL)
_HOST = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.%]+\])(:[0-9]{1,5})?")
_KEY_LENGTH = 16
"""Letters and digits, mixed, of a part of a path that is taken for a key."""


def display_address(address: str) -> str:
    """The address without its secrets; for logs, reports, errors, window titles.

    Hidden are the user and the password, the values of the query, the fragment, values (`name=value`) in the path, and
    parts of the path that look like keys. Where it is not clear what is the host, only the scheme is left.

    Args:
        address: any text; text that is no address is treated as a path.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None:
        # The scheme was forgotten, perhaps, and not the password.
        before, at, behind = address.rpartition("@")
        return (HIDDEN + at if before else at) + _hide_path(behind)
    scheme, host, path, rest = found["scheme"], found["host"], found["path"], found["rest"]
    if "@" in path + rest:
        # A password with a slash, or a harmless sign: the part before the sign may be the one or the other.
        return f"{scheme}://{HIDDEN}"
    user, at, host = host.rpartition("@")
    host = host if is_host(host) else HIDDEN
    return f"{scheme}://{HIDDEN if user else ''}{at}{host}{_hide_path(path)}{_hide_rest(rest)}"


def is_host(text: str) -> bool:
    """Whether this is a host, with a port or not. What follows the colon of `admin:secret` is no port."""
    return _HOST.fullmatch(text) is not None


def display_host(address: str) -> str:
    """Scheme and host alone: the address of a webhook is a secret as a whole."""
    found = _ADDRESS.fullmatch(address)
    if found is None or "@" in found["path"] + found["rest"]:
        return HIDDEN
    host = found["host"].rpartition("@")[2]
    return f"{found['scheme']}://{host if is_host(host) else HIDDEN}/{HIDDEN}"


def _hide_path(path: str) -> str:
    head, question, query = path.partition("?")
    parts = [re.sub(r"=.*", f"={HIDDEN}", part, flags=re.DOTALL) for part in head.split("/")]
    return "/".join(HIDDEN if _is_key(part) else part for part in parts) + _hide_rest(question + query)


def _hide_rest(rest: str) -> str:
    """Of a query and a fragment, the names of the values are left."""
    query, fragment, _ = rest.partition("#")
    fields = [
        f"{name}={HIDDEN}" if equals else (HIDDEN if name else "")
        for name, equals, _ in (field.partition("=") for field in query.removeprefix("?").split("&"))
    ]
    shown = "?" + "&".join(fields) if query.startswith("?") else ""
    return shown + (f"#{HIDDEN}" if fragment else "")


def _is_key(part: str) -> bool:
    return (
        len(part) >= _KEY_LENGTH
        and re.fullmatch(r"[\w-]+", part) is not None
        and any(sign.isdigit() for sign in part)
        and any(sign.isalpha() for sign in part)
    )
