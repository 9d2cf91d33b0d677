"""The directory in which the service keeps all that outlives it.

    state.sqlite3          jobs, reports, tokens, quotas
    incoming/              uploads that are being received
    jobs/<id>/             media, page.html, crops.json, annotated.mp4
    server.lock            held by the one server that works here
    reserve                disk space that is given up to delete something when there is no other
    last-backup            where the latest backup was put, and when

Everything is for its owner alone. Names of clients never become names of files.

Example:
    >>> directory = StateDirectory(default_state_directory())
    >>> with directory.exclusive():
    ...     serve()
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from fakeface_jax.errors import ConfigError
from fakeface_jax.server.storage.job_records import is_job_id

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_DELETED = ".deleted-"
_NOT_OURS_BUT_HARMLESS = {"lost+found", ".DS_Store"}
_OURS = {"incoming", "jobs", "server.lock", "reserve", "last-backup"}

_RESERVE_BYTES = 16 * 2**20
"""Enough for SQLite to write down that a job with the longest of reports is gone."""


def default_state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where state is kept if nobody says otherwise.

    FAKEFACE_STATE if that is set; else `fakeface` in the user's state directory ($XDG_STATE_HOME, ~/.local/state; on
    Windows %LOCALAPPDATA%).
    """
    if environ.get("FAKEFACE_STATE"):
        return Path(environ["FAKEFACE_STATE"]).expanduser()
    for variable in ("XDG_STATE_HOME", *(["LOCALAPPDATA"] if sys.platform == "win32" else [])):
        # The specification wants relative paths ignored.
        if (base := Path(environ.get(variable, ""))).is_absolute():
            return base / "fakeface"
    return Path.home() / ".local" / "state" / "fakeface"


class StateDirectory:
    """The layout of the directory, and the few operations on files that have to be safe against a crash.

    Args:
        path: made where it is missing.

    Raises:
        ConfigError: it cannot be made or written, or holds files of something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.database = self.path / "state.sqlite3"
        self._incoming = self.path / "incoming"
        self._jobs = self.path / "jobs"
        self._reserve = self.path / "reserve"
        self.last_backup = self.path / "last-backup"
        self._held = False
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = {entry.name for entry in self.path.iterdir()}
            if self.database.name not in names and names - _NOT_OURS_BUT_HARMLESS - _OURS:
                # It would be closed to others below: not what somebody who names /tmp or a home wants.
                raise ConfigError(f"{self.path}: holds other files; name an empty or a new directory for the state")
            # A volume may belong to somebody else; what is put into it is private in any case.
            with contextlib.suppress(PermissionError):
                self.path.chmod(0o700)
            for folder in (self._incoming, self._jobs):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot hold the state: {error.strerror}; name another --state") from error

    @property
    def held(self) -> bool:
        """This object holds the directory for its server."""
        return self._held

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Holds the directory against other servers; the lock goes with the process, however that ends.

        Raises:
            ConfigError: another server has it, or the system has no such locks.
        """
        if fcntl is None:
            raise ConfigError("the service needs file locks (flock), which this system does not have")
        with (self.path / "server.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"{self.path}: another server works in this state directory; stop it, or name another --state"
                ) from error
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def incoming(self) -> Path:
        """A new empty file for an upload, with a name of its own."""
        path = self._incoming / secrets.token_hex(16)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return path

    def clear_incoming(self) -> None:
        """Removes uploads that nobody receives any more: for the start of a server."""
        for entry in self._incoming.iterdir():
            discard(entry)

    def job(self, job_id: str) -> Path:
        """The job's directory.

        Raises:
            ValueError: no id of ours, so that no path of a client's making is ever opened.
        """
        if not is_job_id(job_id):
            raise ValueError(f"{job_id!r} is no job's id")
        return self._jobs / job_id

    def take_in(self, media: Path, job_id: str) -> None:
        """Moves media into a new directory of the job; content and names are on the disk when it returns."""
        folder = self.job(job_id)
        sync(media)
        folder.mkdir(mode=0o700)
        media.replace(folder / "media")
        sync(folder)
        sync(self._jobs)

    def remove(self, job_id: str) -> None:
        """Removes the job's directory. It is gone at once for all others, whoever writes into it at the moment."""
        gone, folder = self._jobs / f"{_DELETED}{secrets.token_hex(8)}", self.job(job_id)
        try:
            folder.replace(gone)
        except FileNotFoundError:
            return
        except OSError:  # a disk without room for another name
            gone = folder
        shutil.rmtree(gone, ignore_errors=True)

    def make_reserve(self) -> None:
        """Sets some of the disk aside, unless it is already; what cannot be had now may be had later."""
        try:
            if self._reserve.stat().st_size >= _RESERVE_BYTES:
                return
        except OSError:
            pass
        try:
            with self._reserve.open("wb") as file:
                self._reserve.chmod(0o600)
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)
                else:
                    file.write(bytes(_RESERVE_BYTES))
        except OSError:
            self.release_reserve()  # half of it would be taken for all of it

    def release_reserve(self) -> None:
        """Gives the disk back what was set aside."""
        with contextlib.suppress(OSError):
            self._reserve.unlink()

    def entries(self) -> list[Path]:
        """All that lies in jobs/: directories of jobs, known or not, and what a crash left."""
        return list(self._jobs.iterdir())


def discard(path: Path) -> None:
    """Removes a file or a directory with all in it; links are not followed, and what is gone already is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file's content, or a directory's list of names, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def link_or_copy(source: Path, target: Path) -> None:
    """The same content under a second name; removing one leaves the other."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # file systems without hard links
        shutil.copyfile(source, target)
