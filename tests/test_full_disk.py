"""Deleting on a disk without a free byte: what people do then has to work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stores import create, files, finish

from fakeface_jax.server.storage.database import Database, StoreError
from fakeface_jax.server.storage.store import Store

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "state") as store:
        with store.exclusive():
            store.recover()
        yield store


def full_while(monkeypatch, said):
    """Lets every transaction fail as SQLite does on a full disk, as long as `said` answers True."""
    writing = Database.writing

    def refused(self):
        if said():
            raise StoreError("state.sqlite3: database or disk is full", no_space=True)
        return writing(self)

    monkeypatch.setattr(Database, "writing", refused)


def test_space_is_set_aside_and_given_up_for_a_deletion(store, monkeypatch):
    reserve = store.directory / "reserve"
    assert reserve.stat().st_blocks * 512 >= 2**24  # of the disk, and not a number alone
    job, _ = create(store)
    full_while(monkeypatch, reserve.exists)
    with pytest.raises(StoreError):
        create(store)
    assert store.delete("a", job.id)
    monkeypatch.undo()
    assert store.job("a", job.id) is None
    assert files(store) == []
    assert reserve.stat().st_size == 2**24  # and again


def test_without_a_reserve_the_files_of_the_job_make_room(store, monkeypatch):
    create(store, settings={"keep_media": True})
    job = store.claim()
    finish(store, job, page="page")
    full_while(monkeypatch, store.artefact(job.id, "media").exists)
    assert not store.delete("b", "0" * 32)  # and for nothing else
    assert not store.delete("b", job.id)
    assert store.artefact(job.id, "media").exists()
    assert store.delete("a", job.id)
    monkeypatch.undo()
    assert store.job("a", job.id) is None
    assert files(store) == []


def test_another_error_of_the_store_removes_nothing(store, monkeypatch):
    job, _ = create(store)
    monkeypatch.setattr(Database, "writing", lambda self: (_ for _ in ()).throw(StoreError("locked")))
    with pytest.raises(StoreError, match="locked"):
        store.delete("a", job.id)
    monkeypatch.undo()
    assert store.artefact(job.id, "media").exists()
    assert (store.directory / "reserve").exists()


FULL = """
import contextlib, os, sys
from pathlib import Path
sys.path.insert(0, "tests")
from stores import create, finish
from fakeface_jax.server.storage.database import StoreError
from fakeface_jax.server.storage.store import Store

def fill(path):
    with open(path, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**16))
    with open(path, "ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0")

root = Path(sys.argv[1])
with Store(root / "state") as store, store.exclusive():
    store.recover()
    jobs = []
    for number in range(3):
        jobs.append(create(store, content=os.urandom(3_000_000))[0])
        claimed = store.claim()
        finish(store, claimed, report=os.urandom(2_000_000).hex(), page="page")
    for job in jobs:
        fill(root / "filler")
        assert os.statvfs(root).f_bavail == 0
        with contextlib.suppress(StoreError):  # the log grows until it cannot
            while True:
                store.tokens.create(os.urandom(8).hex())
        fill(root / "filler")
        try:
            assert store.delete("a", job.id)
        except StoreError as error:
            print("not deleted:", error)
            raise SystemExit(1)
        assert store.job("a", job.id) is None
        assert (root / "state" / "reserve").stat().st_size == 2**24
    print("deleted", len(jobs))
"""


def test_on_a_disk_that_is_really_full(tmp_path):
    """On a file system of its own, as large as a few videos."""
    mount = f'mount -t tmpfs -o size=48m none {tmp_path} && exec {sys.executable} -c "$FULL" {tmp_path}'
    space = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*space, f"mount -t tmpfs none {tmp_path}"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine lets nobody mount a file system of their own")
    environment = {**os.environ, "FULL": FULL, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([*space, mount], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "deleted 3\n", done.stdout + done.stderr
