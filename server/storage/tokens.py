"""Access tokens: who may use the service, and how much. Only their hashes are stored.

A secret is `ff_` and 32 random bytes. Nobody guesses 256 bits, so one SHA-256 is enough where passwords would need a
slow hash; and a look-up by hash tells nothing of the secret by the time it takes.

Example:
    >>> secret = store.tokens.create("newsroom")          # the only time that it is known
    >>> store.authenticate(secret).name
    'newsroom'
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import re
import secrets
import sqlite3
from collections.abc import Callable

from fakeface_jax.errors import ConfigError
from fakeface_jax.server.storage.database import Database, StoreError

PREFIX = "ff_"
"""By which scanners of published code know a secret that should not be there."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_USE_NOTED_EVERY = 60.0  # seconds: a write for each request would cost more than the request


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenLimits:
    """What a token allows.

    Attributes:
        requests_per_minute: of any kind.
        waiting_jobs: that may wait at the same time.
        bytes_per_day: of media received, by UTC days.
    """

    requests_per_minute: int = 120
    waiting_jobs: int = 20
    bytes_per_day: int = 20_000_000_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(TokenLimits):
            if not 1 <= (value := getattr(self, field.name)) < 2**62:
                raise ConfigError(f"{field.name} is {value}: must be a whole number of 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Token(TokenLimits):
    """A token with what it allows, as it is listed; its secret is not known any more.

    Attributes:
        name: unique, also among revoked ones, because jobs belong to it.
        created, last_used, revoked: seconds since 1970, UTC; None for never. `last_used` is exact to a minute.
    """

    name: str
    created: float
    last_used: float | None
    revoked: float | None


class Tokens:
    """The tokens in the store.

    Args:
        database: of the store.
        clock: seconds since 1970.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def create(self, name: str, limits: TokenLimits | None = None) -> str:
        """Makes a token and returns its secret.

        Raises:
            ConfigError: the name has other characters than letters, digits, `-`, `_` and `.`, or is taken.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"token {name!r}: a name has 1 to 64 letters, digits, '-', '_' or '.'")
        secret = PREFIX + secrets.token_urlsafe(32)
        row = {"name": name, "secret": _hash(secret), "created": self._clock()}
        with self._database.writing() as connection:
            if connection.execute("SELECT 1 FROM tokens WHERE name = ?", (name,)).fetchone():
                # A revoked one too: whoever gets the name would see the jobs of who had it.
                raise ConfigError(f"token {name!r}: there is or was one of this name; take another")
            connection.execute(
                "INSERT INTO tokens (name, secret_sha256, created, requests_per_minute, waiting_jobs, bytes_per_day) "
                "VALUES (:name, :secret, :created, :requests_per_minute, :waiting_jobs, :bytes_per_day)",
                row | dataclasses.asdict(limits or TokenLimits()),
            )
        return secret

    def authenticate(self, secret: str) -> Token | None:
        """The token that has this secret and is not revoked.

        Raises:
            StoreError: the store cannot be read.
        """
        wanted = _hash(secret)
        with self._database.reading() as connection:
            row = connection.execute("SELECT * FROM tokens WHERE secret_sha256 = ?", (wanted,)).fetchone()
        if row is None or not hmac.compare_digest(row["secret_sha256"], wanted) or row["revoked"] is not None:
            return None
        self._note_use(row)
        return _token(row)

    def all(self) -> list[Token]:
        """Every token, revoked ones too, by name."""
        with self._database.reading() as connection:
            return [_token(row) for row in connection.execute("SELECT * FROM tokens ORDER BY name")]

    def exist(self) -> bool:
        """Whether there is or ever was a token: revoking the last one must not open the service to everybody."""
        with self._database.reading() as connection:
            return connection.execute("SELECT 1 FROM tokens LIMIT 1").fetchone() is not None

    def revoke(self, name: str) -> None:
        """Makes the secret worthless from the next request on; the token's jobs stay. Again does no harm.

        Raises:
            ConfigError: no token has this name.
        """
        with self._database.writing() as connection:
            done = connection.execute(
                "UPDATE tokens SET revoked = coalesce(revoked, ?) WHERE name = ?", (self._clock(), name)
            )
            if done.rowcount == 0:
                raise ConfigError(f"token {name!r}: there is none of this name; see `fakeface token list`")

    def _note_use(self, row: sqlite3.Row) -> None:
        now = self._clock()
        if row["last_used"] is not None and abs(now - row["last_used"]) < _USE_NOTED_EVERY:
            return
        # A full disk must not lock those out who come to delete something.
        with contextlib.suppress(StoreError), self._database.writing() as connection:
            connection.execute("UPDATE tokens SET last_used = ? WHERE name = ?", (now, row["name"]))


def _token(row: sqlite3.Row) -> Token:
    return Token(**{field.name: row[field.name] for field in dataclasses.fields(Token)})


def _hash(secret: str) -> str:
    # Headers may hold bytes that are no valid text; they are no token, and no crash either.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
