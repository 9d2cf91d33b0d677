"""The state directory and its database: whose they are, which versions, and what happens when they cannot be used."""

import os
import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stores import create

from fakeface_jax.errors import ConfigError
from fakeface_jax.server.storage.database import StoreError
from fakeface_jax.server.storage.state_directory import default_state_directory
from fakeface_jax.server.storage.store import Store


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "state") as store:
        yield store


def test_the_state_is_for_its_owner_alone(tmp_path):
    old = os.umask(0)
    try:
        with Store(tmp_path / "deep" / "state") as store:
            create(store)
            for path in [store.directory, *store.directory.rglob("*")]:
                if path.name != "server.lock" and "media" not in path.name:
                    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
            assert stat.S_IMODE(store.incoming().stat().st_mode) == 0o600
    finally:
        os.umask(old)


def test_a_directory_of_others_is_refused_and_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="holds other files"):
        Store(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot hold the state"):
        Store(tmp_path / "file")


def test_a_newer_store_is_refused(tmp_path):
    Store(tmp_path).close()
    connection = sqlite3.connect(tmp_path / "state.sqlite3")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version = {version + 1}")
    connection.close()
    with pytest.raises(ConfigError, match="newer version"):
        Store(tmp_path)


def test_an_older_store_is_brought_forward(tmp_path, monkeypatch):
    import fakeface_jax.server.storage.database as database

    with Store(tmp_path) as store:
        job, _ = create(store)
    more = ("ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 7",)
    monkeypatch.setattr(database, "_MIGRATIONS", (*database._MIGRATIONS, more))
    with Store(tmp_path) as store:
        assert store.job("a", job.id) is not None
        with store._database.reading() as connection:
            assert connection.execute("SELECT priority FROM jobs").fetchone()[0] == 7
    # A migration that fails changes nothing.
    monkeypatch.setattr(database, "_MIGRATIONS", (*database._MIGRATIONS, ("DROP TABLE jobs", "NONSENSE")))
    with pytest.raises(ConfigError):
        Store(tmp_path)
    monkeypatch.setattr(database, "_MIGRATIONS", database._MIGRATIONS[:-1])
    with Store(tmp_path) as store:
        assert store.job("a", job.id) is not None


def test_files_of_other_programs_are_refused(tmp_path):
    (tmp_path / "state.sqlite3").write_bytes(b"no database at all, but long enough to be looked at " * 100)
    with pytest.raises(ConfigError, match="is no state"):
        Store(tmp_path)
    (tmp_path / "state.sqlite3").unlink()
    connection = sqlite3.connect(tmp_path / "state.sqlite3")
    connection.execute("CREATE TABLE songs (name)")
    connection.commit()
    connection.close()
    before = (tmp_path / "state.sqlite3").read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        Store(tmp_path)
    assert (tmp_path / "state.sqlite3").read_bytes() == before


def test_many_open_a_new_store_at_once(tmp_path):
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: Store(tmp_path / "state"), range(6)))
    jobs = [create(store)[0].id for store in stores]
    assert {job.id for job in stores[0].jobs("a", limit=9)[0]} == set(jobs)
    for store in stores:
        store.close()


def test_health_says_when_nothing_can_be_written(store, monkeypatch):
    store.check_writable()
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("fakeface_jax.server.storage.store.shutil.disk_usage", lambda _: usage)
    with pytest.raises(StoreError, match="MiB are free"):
        store.check_writable()
    monkeypatch.undo()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.check_writable()


def test_a_store_that_others_hold_is_an_error_and_not_a_hang(tmp_path, monkeypatch):
    monkeypatch.setattr("fakeface_jax.server.storage.database._WAIT", 0.05)
    with Store(tmp_path / "state") as store:
        other = sqlite3.connect(tmp_path / "state" / "state.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StoreError, match="locked"):
            store.check_writable()
        assert time.monotonic() - began < 5
        assert store.queue().depth == 0  # reading goes on
        other.execute("ROLLBACK")
        other.close()
        store.check_writable()


def test_where_state_is_kept_if_nobody_says(monkeypatch, tmp_path):
    assert default_state_directory({"FAKEFACE_STATE": "/a/b", "XDG_STATE_HOME": "/c"}) == Path("/a/b")
    assert default_state_directory({"XDG_STATE_HOME": "/c"}) == Path("/c/fakeface")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for environ in ({}, {"XDG_STATE_HOME": "relative"}, {"FAKEFACE_STATE": ""}):
        assert default_state_directory(environ) == tmp_path / ".local" / "state" / "fakeface"
