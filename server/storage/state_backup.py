"""A copy of the state directory, made while the service works: the database of one moment, with the files it names.

The copy is a state directory itself: to restore it is to put it where the state was. It holds what people sent and who
may ask, as the state does, and is for its owner alone too.

The database is copied first and the files after it, so that no row names a file that came too late. Files that went
meanwhile are those of jobs that ended or were deleted: then both are copied again, which is little by now, and the last
time nobody else may write until that is done.

Example:
    >>> back_up(database, files, Path("/backups/monday"), time.time())
    12
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import shutil
import sqlite3
import tempfile
from pathlib import Path

from fakeface_jax.errors import ConfigError
from fakeface_jax.server.storage.database import Database, check_integrity
from fakeface_jax.server.storage.job_records import ARTEFACTS, Job, JobState
from fakeface_jax.server.storage.state_directory import StateDirectory, sync

_ROUNDS = 3
"""Copies that others may write beside, before the one that they wait for."""


def back_up(database: Database, files: StateDirectory, target: Path, now: float) -> int:
    """Copies database and files; all or nothing. See `Store.back_up`."""
    target = target.absolute()
    if target.is_relative_to(files.path.absolute()):
        raise ConfigError(f"{target}: lies in the state directory itself; put the backup elsewhere, on another disk")
    if target.exists():
        raise ConfigError(f"{target}: is there already; name a new directory for the backup")
    partial = None
    try:
        partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fakeface-backup-"))
        jobs = _copy(database, files, partial)
        partial.replace(target)
        partial = None
        sync(target.parent)
        _note(files, target, now)
    except OSError as error:
        problem = f"{target}: the backup cannot be written: {error.strerror}"
        raise ConfigError(f"{problem}; check path and space") from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
    return jobs


def how_to_restore(state: Path) -> str:
    """What an operator does about a damaged database, in one line.

    Args:
        state: the state directory, of which not all need be readable.
    """
    try:
        when, _, place = (state / "last-backup").read_text(encoding="utf-8").rstrip("\n").partition("\t")
    except (OSError, UnicodeDecodeError):
        when = place = ""
    if not place or not (Path(place) / "state.sqlite3").is_file():
        return (
            f"restore a backup, or move {state} away to begin with an empty state (no backup of it is known here; "
            "`fakeface backup` makes them)"
        )
    here = shlex.quote(str(state))
    return (
        f"the latest backup is {place}, of {when}; to restore it, with the service stopped: "
        f"mv {here} {here}.damaged && cp -a {shlex.quote(place)} {here}"
    )


def _copy(database: Database, files: StateDirectory, folder: Path) -> int:
    """The number of jobs in the copy."""
    jobs: list[Job] = []
    (folder / "jobs").mkdir(mode=0o700)
    for rounds in range(_ROUNDS + 1):
        last = rounds == _ROUNDS
        with database.writing() if last else contextlib.nullcontext():
            database.copy_to(folder / "state.sqlite3")
            jobs = _jobs(folder / "state.sqlite3")
            whole = [_copy_job(files, job, folder / "jobs" / job.id) for job in jobs]
        # What is missing while nobody writes is missing in the state too: whoever starts on the copy says so.
        if all(whole):
            break
    with contextlib.closing(sqlite3.connect(folder / "state.sqlite3")) as copy:
        check_integrity(copy, files.database)
    _remove_others(folder / "jobs", jobs)
    for path in (*folder.rglob("*"), folder):
        sync(path)
    return len(jobs)


def _jobs(path: Path) -> list[Job]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [Job.from_row(row) for row in connection.execute("SELECT * FROM jobs")]


def _wanted(job: Job) -> set[str]:
    """The names of the files that belong to a job in its state."""
    if job.state in (JobState.QUEUED, JobState.RUNNING):
        return {"media"}
    wanted = {*ARTEFACTS} if job.state is JobState.DONE else set()
    return wanted | ({"media"} if job.keep_media or job.retry_until is not None else set())


def _copy_job(files: StateDirectory, job: Job, target: Path) -> bool:
    """Copies what is not copied yet; False where something is missing that the job needs."""
    folder = files.job(job.id)
    target.mkdir(mode=0o700, exist_ok=True)
    for name in _wanted(job):
        copy = target / name
        if copy.exists():
            continue  # neither media nor what was made of them is ever changed
        try:
            shutil.copyfile(folder / name, target / ".copying")
        except FileNotFoundError:
            (target / ".copying").unlink(missing_ok=True)
            if name == "media" or not folder.is_dir():
                return False
            continue  # a page or a video that nobody asked for
        (target / ".copying").chmod(0o600)
        (target / ".copying").replace(copy)
    return True


def _remove_others(folder: Path, jobs: list[Job]) -> None:
    """Removes what was copied for an earlier state of a job, or for one that was deleted meanwhile."""
    wanted = {job.id: _wanted(job) for job in jobs}
    for one in folder.iterdir():
        if one.name not in wanted:
            shutil.rmtree(one)
            continue
        for entry in one.iterdir():
            if entry.name not in wanted[one.name]:
                entry.unlink()


def _note(files: StateDirectory, target: Path, now: float) -> None:
    """Notes where the backup is, for the day on which the database cannot be asked."""
    when = datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    note = files.last_backup.with_name(f".{files.last_backup.name}-{os.getpid()}")
    note.write_text(f"{when}\t{target}\n", encoding="utf-8")
    note.replace(files.last_backup)
