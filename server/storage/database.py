"""The SQLite file behind the store: connections, transactions, and its tables from version to version.

One SQLite connection serves one thread at a time, so each use takes an idle one or opens another. Readers never wait
for a writer (write-ahead log). Writers of one process queue at a lock, which is fair and wakes at once; SQLite's own
waiting, which other processes get, sleeps and tries again. A commit is on the disk when it returns (synchronous=FULL).

Example:
    >>> with database.writing() as connection:      # BEGIN IMMEDIATE ... COMMIT, or ROLLBACK after any exception
    ...     connection.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from fakeface_jax.errors import ConfigError, FakeFaceError

_APPLICATION = 0x46464A58  # "FFJX", so that another program's file is not taken for ours
_WAIT = 15.0  # seconds for other processes that write
_IDLE = 8  # connections kept open while nobody uses them

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # A report is shared by the jobs that were answered from it.
        "CREATE TABLE reports (id INTEGER PRIMARY KEY, compressed BLOB NOT NULL) STRICT",
        """CREATE TABLE jobs (
            number INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order in which they came
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            name TEXT NOT NULL,
            state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed')),
            created REAL NOT NULL,
            started REAL,
            finished REAL,
            expires REAL,
            attempt INTEGER NOT NULL DEFAULT 0,
            interrupted INTEGER NOT NULL DEFAULT 0,    -- attempts that ended with the death of the service
            settings TEXT NOT NULL,
            media_sha256 TEXT NOT NULL,
            media_bytes INTEGER NOT NULL,
            model_id TEXT NOT NULL,
            verdict TEXT,
            p_fake REAL,
            reason TEXT,
            error TEXT,
            cached INTEGER NOT NULL DEFAULT 0,
            report_id INTEGER REFERENCES reports (id),
            CHECK ((state = 'done') = (report_id IS NOT NULL))
        ) STRICT""",
        "CREATE INDEX jobs_waiting ON jobs (owner, number) WHERE state = 'queued'",
        "CREATE INDEX jobs_running ON jobs (number) WHERE state = 'running'",
        "CREATE INDEX jobs_listed ON jobs (owner, created, id)",
        "CREATE INDEX jobs_by_media ON jobs (owner, media_sha256)",
        "CREATE INDEX jobs_by_expiry ON jobs (expires) WHERE expires IS NOT NULL",
        "CREATE INDEX jobs_by_report ON jobs (report_id) WHERE report_id IS NOT NULL",
        # Whose turn it is: the owner with the lowest number.
        "CREATE TABLE turns (owner TEXT PRIMARY KEY, turn INTEGER NOT NULL) STRICT, WITHOUT ROWID",
        """CREATE TABLE idempotency (
            owner TEXT NOT NULL,
            key TEXT NOT NULL,
            fingerprint TEXT NOT NULL,
            job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
            created REAL NOT NULL,
            PRIMARY KEY (owner, key)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX idempotency_by_job ON idempotency (job_id)",
        """CREATE TABLE tokens (
            name TEXT PRIMARY KEY,
            secret_sha256 TEXT NOT NULL UNIQUE,
            created REAL NOT NULL,
            last_used REAL,
            revoked REAL,
            requests_per_minute INTEGER NOT NULL,
            waiting_jobs INTEGER NOT NULL,
            bytes_per_day INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE received (
            owner TEXT NOT NULL,
            day INTEGER NOT NULL,  -- days since 1970, UTC
            bytes INTEGER NOT NULL,
            PRIMARY KEY (owner, day)
        ) STRICT, WITHOUT ROWID""",
        "CREATE TABLE written (one INTEGER PRIMARY KEY CHECK (one = 1), at REAL NOT NULL) STRICT",
    ),
    (
        # Why a job was run again; `attempt` counts its runs, whatever ended them, and so marks each of them.
        "ALTER TABLE jobs ADD COLUMN failures INTEGER NOT NULL DEFAULT 0",  # by its own decoder or scoring
        "ALTER TABLE jobs ADD COLUMN wants INTEGER NOT NULL DEFAULT 0",  # for want of space, memory or descriptors
        "ALTER TABLE jobs ADD COLUMN apart INTEGER",  # its place among those that run last and alone; see fair_queue
        "ALTER TABLE jobs ADD COLUMN retry_until REAL",  # of a failed job: how long its media stay
        "CREATE INDEX jobs_retryable ON jobs (retry_until) WHERE retry_until IS NOT NULL",
        # The order of each owner's jobs, whatever the clock said meanwhile, and without telling of the jobs of others.
        "ALTER TABLE jobs ADD COLUMN owner_number INTEGER NOT NULL DEFAULT 0",
        """UPDATE jobs SET owner_number = counted.place FROM (
            SELECT number, row_number() OVER (PARTITION BY owner ORDER BY number) AS place FROM jobs
        ) AS counted WHERE counted.number = jobs.number""",
        "DROP INDEX jobs_listed",
        "CREATE UNIQUE INDEX jobs_listed ON jobs (owner, owner_number)",
        "CREATE INDEX jobs_apart ON jobs (apart) WHERE state = 'queued' AND apart IS NOT NULL",
    ),
)
"""What makes version n of the tables out of version n - 1. Never edit one that was released: add another."""


_LACK_SPACE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
"""What SQLite answers on a full disk, depending on which of its files has to grow."""

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class StoreError(FakeFaceError):
    """The store cannot be read or written: disk full, no permission, damaged.

    Attributes:
        no_space: it may be for want of space.
    """

    def __init__(self, message: str, *, no_space: bool = False) -> None:
        super().__init__(message)
        self.no_space = no_space


class DamagedDatabase(ConfigError):
    """The file is there, and what is in it cannot be right."""


class Database:
    """A SQLite file with the service's tables; may be used by any number of threads, and processes.

    Args:
        path: the file; made, for its owner alone, where it is missing, and brought to this version where it is older.

    Raises:
        ConfigError: a file of a newer version, or that is no state of this service, or that cannot be opened.
        DamagedDatabase: a file that SQLite cannot read.
    """

    def __init__(self, path: Path) -> None:
        if sqlite3.sqlite_version_info < (3, 37):
            raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old for the service; it needs 3.37 or newer")
        self._path = path
        self._writer = threading.Lock()
        self._guard = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False
        try:
            # Not by SQLite, which would let others read; the files that it puts beside get the same permissions.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            with self._connection() as connection:
                self._migrate(connection)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be opened: {error.strerror}; name another --state") from error
        except sqlite3.Error as error:
            self.close()
            if _primary(error) == sqlite3.SQLITE_CORRUPT:
                raise DamagedDatabase(f"{path}: is damaged: {error}") from error
            if _primary(error) == sqlite3.SQLITE_NOTADB:
                raise DamagedDatabase(f"{path}: is no state of this service, or is damaged: {error}") from error
            raise ConfigError(f"{path}: is no state of this service: {error}; name another --state") from error
        except ConfigError:
            self.close()
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of all tables, whatever is written meanwhile.

        Raises:
            StoreError: it cannot be read.
        """
        with self._translated(), self._connection() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: what is written is on the disk when the block ends, and gone after an exception in it.

        Raises:
            StoreError: it cannot be written.
        """
        with self._writer, self._translated(), self._connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def check(self) -> None:
        """Reads all of the file, and compares its tables with its indices.

        Raises:
            DamagedDatabase: they do not fit together.
            StoreError: it cannot be read now.
        """
        try:
            with self._connection() as connection:
                check_integrity(connection, self._path)
        except sqlite3.Error as error:
            raise self._error(error) from error

    def copy_to(self, target: Path) -> None:
        """Copies the state of one moment into a file, while others read and write.

        Args:
            target: replaced where it exists; for its owner alone.

        Raises:
            StoreError: it cannot be read or written.
        """
        with self._translated(), self._connection() as connection:
            target.unlink(missing_ok=True)
            os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            with contextlib.closing(sqlite3.connect(target)) as copy:
                connection.backup(copy)

    def shrink_log(self) -> None:
        """Moves what was committed into the main file and empties the log, where deleted rows may still stand."""
        with self._writer, self._translated(), self._connection() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Closes what is idle; connections in use are closed when they come back."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._guard:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = self._open()
        try:
            yield connection
        finally:
            with self._guard:
                keep = not self._closed and len(self._idle) < _IDLE and not connection.in_transaction
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreError(f"{self._path}: the store was closed")
        # A URI with mode=rw: a file that vanished is an error, not a new and empty store.
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=_WAIT,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            connection.row_factory = sqlite3.Row
            for setting in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON", "trusted_schema = OFF"):
                connection.execute(f"PRAGMA {setting}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> None:
        self._check_ours(connection)  # before anything is written to it
        self._use_write_ahead_log(connection)
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = self._check_ours(connection)
            for statements in _MIGRATIONS[version:]:
                for statement in statements:
                    connection.execute(statement)
            if version < len(_MIGRATIONS):
                connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _check_ours(self, connection: sqlite3.Connection) -> int:
        """The version of the tables; 0 for a new file."""
        version = _number(connection, "user_version")
        if version == 0 and not connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
            return 0
        if _number(connection, "application_id") != _APPLICATION:
            raise ConfigError(f"{self._path}: belongs to another program; name another --state")
        if version > len(_MIGRATIONS):
            raise ConfigError(
                f"{self._path}: was written by a newer version of this program (tables {version}, this knows "
                f"{len(_MIGRATIONS)}); update it, or name another --state"
            )
        return version

    def _use_write_ahead_log(self, connection: sqlite3.Connection) -> None:
        # The switch does not wait for others that open the same new file, as all else does.
        end = time.monotonic() + _WAIT
        while True:
            try:
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.02)
        if mode != "wal":
            raise ConfigError(
                f"{self._path}: this file system cannot hold the store (no write-ahead log); name a local disk"
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: sqlite3.Error) -> StoreError:
        if _primary(error) in _DAMAGED:
            remedy = "start the service again, which says how to restore a backup"
            return StoreError(f"{self._path.name}: the store is damaged: {error}; {remedy}")
        message = f"{self._path.name}: the store cannot be used: {error}; check disk and space"
        return StoreError(message, no_space=_primary(error) in _LACK_SPACE)


def check_integrity(connection: sqlite3.Connection, path: Path) -> None:
    """Reads all of a database.

    Args:
        connection: to it.
        path: what errors call it.

    Raises:
        DamagedDatabase: its parts do not fit together.
    """
    try:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if _primary(error) not in _DAMAGED:
            raise
        found = str(error)
    if found != "ok":
        raise DamagedDatabase(f"{path}: is damaged: {' '.join(found.split())}")


def _primary(error: sqlite3.Error) -> int:
    """SQLite's code of an error without its details; 0 where the error is none of SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return connection.execute(f"PRAGMA {pragma}").fetchone()[0]
