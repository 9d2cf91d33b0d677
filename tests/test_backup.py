"""A backup that is made while the service works, and the service that goes on with it."""

import stat
import threading

import pytest
from stores import Clock, create, files, finish

from fakeface_jax.errors import ConfigError
from fakeface_jax.server.storage import state_backup
from fakeface_jax.server.storage.store import Store


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with Store(tmp_path / "state", clock=clock) as store:
        yield store


def contents(store):
    """What lies in the files of jobs, by path."""
    return {name: (store.directory / name).read_bytes() for name in files(store) if name.startswith("jobs")}


def test_a_service_goes_on_with_its_backup(store, tmp_path, clock):
    secret = store.tokens.create("newsroom")
    create(store, content=b"kept", settings={"keep_media": True})
    done = store.claim()
    finish(store, done, report='{"r": 1}', page="<html>")
    create(store, content=b"failed")
    failed = store.claim()
    store.fail(failed.id, failed.attempt, "damaged")
    create(store, content=b"runs")
    running = store.claim()
    store.artefact(running.id, "page.html").write_text("half")
    waiting, _ = create(store, content=b"waits", idempotency_key="k")
    store.incoming().write_bytes(b"half an upload")
    expected = contents(store)
    del expected[f"jobs/{running.id}/page.html"]

    assert store.back_up(tmp_path / "backup") == 4
    store.delete("a", done.id)
    store.delete("a", waiting.id)

    with Store(tmp_path / "backup", clock=clock) as restored, restored.exclusive():
        restored.check()
        assert restored.recover() == (1, 0)
        assert restored.authenticate(secret).name == "newsroom"
        assert contents(restored) == expected
        assert restored.report("a", done.id) == '{"r": 1}'
        assert [job.id for job in restored.jobs("a", limit=9)[0]] == [waiting.id, running.id, failed.id, done.id]
        assert create(restored, content=b"waits", idempotency_key="k")[0].id == waiting.id
        assert restored.retry("a", failed.id).state == "queued"
        while (job := restored.claim()) is not None:
            assert restored.artefact(job.id, "media").is_file()
            assert finish(restored, job)
        assert {str(job.state) for job in restored.jobs("a", limit=9)[0]} == {"done"}


def test_jobs_that_end_meanwhile_are_copied_as_they_are_at_the_end(store, tmp_path, monkeypatch):
    jobs = [create(store)[0] for _ in range(3)]
    copied = state_backup._copy_job
    ended = []

    def ends_before(files, job, target):
        if not ended:
            ended.append(store.claim())
            assert ended[0].id == jobs[0].id
            finish(store, ended[0], report='{"r": 1}', page="<html>")
            store.delete("a", jobs[1].id)
        return copied(files, job, target)

    monkeypatch.setattr(state_backup, "_copy_job", ends_before)
    assert store.back_up(tmp_path / "backup") == 2
    with Store(tmp_path / "backup") as restored:
        assert files(restored) == sorted([f"jobs/{jobs[0].id}/page.html", f"jobs/{jobs[2].id}/media"])
        assert restored.report("a", jobs[0].id) == '{"r": 1}'


def test_where_jobs_end_all_the_time_they_wait_for_the_last_copy(store, tmp_path, monkeypatch):
    first, _ = create(store)
    finish(store, store.claim())
    create(store)
    copied = state_backup._copy_job
    held = []

    def comes_and_ends(files, job, target):
        if job.id == first.id:
            held.append(store._database._writer.locked())
            if not held[-1]:
                create(store)  # it is in the next copy of the database
        elif not held[-1] and job.state == "queued":
            claimed = store.claim()
            assert claimed.id == job.id
            finish(store, claimed)
        return copied(files, job, target)

    monkeypatch.setattr(state_backup, "_copy_job", comes_and_ends)
    count = store.back_up(tmp_path / "backup")
    assert held == [False, False, False, True]
    with Store(tmp_path / "backup") as restored:
        jobs = restored.jobs("a", limit=9)[0]
        assert len(jobs) == count
        assert {job.state for job in jobs} == {"queued", "done"}
        assert files(restored) == sorted(f"jobs/{job.id}/media" for job in jobs if job.state == "queued")


def test_media_that_the_state_lacks_keep_nobody_from_a_backup(store, tmp_path):
    lost, _ = create(store)
    store.drop_media(lost.id)
    assert store.back_up(tmp_path / "backup") == 1


def test_a_backup_is_made_while_others_write(store, tmp_path):
    stop = threading.Event()
    made = []

    def work():
        while not stop.is_set() and len(made) < 60:
            made.append(create(store)[0].id)
            finish(store, store.claim(), page="page")

    worker = threading.Thread(target=work)
    worker.start()
    try:
        while len(made) < 5 and worker.is_alive():
            worker.join(0.01)
        known = set(made[:-1])
        count = store.back_up(tmp_path / "backup")
    finally:
        stop.set()
        worker.join()
    with Store(tmp_path / "backup") as restored:
        restored.check()
        jobs = restored.jobs("a", limit=10_000)[0]
        assert len(jobs) == count
        assert known <= {job.id for job in jobs}
        for job in jobs:
            assert restored.artefact(job.id, "page.html" if job.state == "done" else "media").is_file()


def test_a_backup_is_for_its_owner_alone_and_replaces_nothing(store, tmp_path):
    create(store)
    store.back_up(tmp_path / "backup")
    for path in (tmp_path / "backup", *(tmp_path / "backup").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    with pytest.raises(ConfigError, match="is there already"):
        store.back_up(tmp_path / "backup")
    with pytest.raises(ConfigError, match="lies in the state directory"):
        store.back_up(store.directory / "backup")
    with pytest.raises(ConfigError, match="cannot be written"):
        store.back_up(tmp_path / "none" / "backup")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "state"]


def test_the_command_says_what_it_copied_and_refuses_where_there_is_no_state(store, tmp_path, capsys):
    from fakeface_jax.cli.main import main

    create(store)
    assert main(["backup", str(tmp_path / "backup"), "--state", str(store.directory)]) == 0
    assert "the state with 1 job;" in capsys.readouterr().err
    assert main(["backup", str(tmp_path / "other"), "--state", str(tmp_path / "nothing")]) == 2
    assert "holds no state of the service" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()


def test_a_server_on_a_damaged_database_ends_with_2_and_one_line(store, tmp_path, capsys):
    from fakeface_jax.cli.main import main

    for number in range(50):
        create(store, content=b"%d" % number)
    store.back_up(tmp_path / "backup")
    store.close()
    database = store.directory / "state.sqlite3"
    whole = database.read_bytes()
    database.write_bytes(whole[:4096] + b"\xa5" * 8192 + whole[3 * 4096 :])
    assert main(["serve", "--state", str(store.directory), "--port", "0"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith(f"fakeface: {database}: is damaged: ")
    assert f"cp -a {tmp_path / 'backup'} {store.directory}" in line
