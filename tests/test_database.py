"""The state directory and its database: whose they are, which versions, and what happens when they cannot be used."""

import os
import shutil
import sqlite3
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from stores import create, finish

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


def test_jobs_of_an_older_store_keep_their_order(tmp_path, monkeypatch):
    import fakeface_jax.server.storage.database as database

    with monkeypatch.context() as older:
        older.setattr(database, "_MIGRATIONS", database._MIGRATIONS[:1])
        old = database.Database(tmp_path / "state.sqlite3")
        with old.writing() as connection:
            for number, owner in enumerate("abaab"):
                connection.execute(
                    "INSERT INTO jobs (id, owner, name, state, created, settings, media_sha256, media_bytes, model_id) "
                    "VALUES (?, ?, '', 'queued', ?, '{}', '0', 1, 'm')",
                    (f"{number:032x}", owner, -number),
                )
        old.close()
    with Store(tmp_path) as store:
        for owner, numbers in (("a", [3, 2, 0]), ("b", [4, 1])):
            assert [int(job.id, 16) for job in store.jobs(owner, limit=9)[0]] == numbers
        assert create(store)[0].id == store.jobs("a", limit=1)[0][0].id


def test_a_damaged_database_is_told_in_one_line_with_the_way_back(tmp_path):
    state, backup = tmp_path / "the state", tmp_path / "backup"
    with Store(state) as store:
        for number in range(50):
            create(store, content=b"%d" % number)
        store.check()
    assert "no backup of it is known here" in damage(state)
    with Store(state) as store:
        assert store.back_up(backup) == 50
    message = damage(state)
    assert f"mv '{state}' '{state}'.damaged && cp -a {backup} '{state}'" in message
    # As it says.
    state.rename(f"{state}.damaged")
    shutil.copytree(backup, state)
    with Store(state) as store:
        store.check()
        assert len(store.jobs("a", limit=99)[0]) == 50


def damage(state):
    """Writes over a part of the database, puts it right again, and gives what a server says in between."""
    database = state / "state.sqlite3"
    whole = database.read_bytes()
    messages = []
    for first, last in ((4096, 3 * 4096), (0, 200), (len(whole) // 2, len(whole))):
        database.write_bytes(whole[:first] + b"\xa5" * (last - first) + whole[last:])
        with pytest.raises(ConfigError, match="damaged") as told, Store(state) as store:
            store.check()
        messages.append(str(told.value))
        database.write_bytes(whole)
    assert all(len(message.splitlines()) == 1 for message in messages)
    return messages[0]


def test_a_report_that_cannot_be_unpacked_is_an_error_of_the_store(store):
    create(store)
    job = store.claim()
    finish(store, job)
    with store._database.writing() as connection:
        connection.execute("UPDATE reports SET compressed = x'00'")
    with pytest.raises(StoreError, match="is damaged"):
        store.report("a", job.id)


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
