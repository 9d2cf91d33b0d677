"""`fakeface token create`, `list` and `revoke`: manage access to the service. A running service sees changes at once.

Example:
    >>> CreateToken(name="newsroom", waiting_jobs=5).run()     # prints the secret, which is not shown again
    >>> RevokeToken(name="newsroom").run()
"""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from fakeface_jax.cli.output import tell
from fakeface_jax.errors import ConfigError
from fakeface_jax.server.storage.state_directory import default_state_directory

if TYPE_CHECKING:
    from fakeface_jax.server.storage.store import Store
    from fakeface_jax.server.storage.tokens import Token

_COLUMNS = ("name", "created", "last used", "requests/min", "waiting jobs", "GB/day", "revoked")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CreateToken:
    """Creates a token and prints its secret. The secret is shown only once; the service stores only a hash of it.

    Attributes:
        name: letters, digits, `-`, `_` and `.`; a name can be used only once, because jobs belong to it.
        state: the service's state directory. If omitted: FAKEFACE_STATE, or the user's state directory.
        requests_per_minute: allowed requests of any kind per minute.
        waiting_jobs: videos of this token that may wait in the queue at the same time.
        bytes_per_day: bytes of pictures and videos accepted per UTC day; 20e9 is 20 GB.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    state: Path | None = None
    requests_per_minute: int = 120
    waiting_jobs: int = 20
    bytes_per_day: float = 20e9

    def run(self) -> int:
        """Creates the token and returns the exit code."""
        from fakeface_jax.server.storage.tokens import TokenLimits

        if not 1 <= self.bytes_per_day < 2**62:
            raise ConfigError(f"--bytes-per-day {self.bytes_per_day:g}: must be 1 or more")
        limits = TokenLimits(
            requests_per_minute=self.requests_per_minute,
            waiting_jobs=self.waiting_jobs,
            bytes_per_day=int(self.bytes_per_day),
        )
        with _store(self.state) as store:
            secret = store.tokens.create(self.name, limits)
        print(secret)
        tell(
            f"fakeface: token {self.name} created; its secret is not shown again. "
            "Send it as: Authorization: Bearer <secret>"
        )
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ListTokens:
    """Lists tokens: their limits, when they were created and last used, and whether they are revoked. Times are UTC.

    Attributes:
        state: the service's state directory. If omitted: FAKEFACE_STATE, or the user's state directory.
    """

    state: Path | None = None

    def run(self) -> int:
        """Lists the tokens and returns the exit code."""
        with _store(self.state) as store:
            tokens = store.tokens.all()
        if not tokens:
            tell("fakeface: there are no tokens; create one: fakeface token create NAME")
            return 0
        rows = [_COLUMNS, *map(_row, tokens)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RevokeToken:
    """Revokes a token from the next request on. Its jobs stay until they expire.

    Attributes:
        name: name of the token.
        state: the service's state directory. If omitted: FAKEFACE_STATE, or the user's state directory.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    state: Path | None = None

    def run(self) -> int:
        """Revokes the token and returns the exit code."""
        with _store(self.state) as store:
            store.tokens.revoke(self.name)
        tell(f"fakeface: token {self.name} revoked")
        return 0


def _store(state: Path | None) -> Store:
    from fakeface_jax.server.storage.store import Store

    return Store(state or default_state_directory())


def _row(token: Token) -> tuple[str, ...]:
    return (
        token.name,
        _time(token.created),
        _time(token.last_used),
        str(token.requests_per_minute),
        str(token.waiting_jobs),
        f"{token.bytes_per_day / 1e9:g}",
        _time(token.revoked),
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M")
