"""The store: jobs through their states, the queue, what is shared, what is listed and what is removed."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from stores import Clock, create, files, finish, reports_stored

from fakeface_jax.server.storage.job_records import (
    OPEN_OWNER,
    IdempotencyConflict,
    InvalidCursor,
    JobState,
    NotRetryable,
    QueueFull,
    shown_name,
)
from fakeface_jax.server.storage.store import FAILED_KEPT, Store

DAY = 86_400.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    with Store(tmp_path / "state", clock=clock) as store:
        yield store


# Jobs through their states.


def test_a_job_goes_from_queued_to_done(store, clock):
    job, created = create(store, content=b"film", settings={"fps": 2.0, "keep_media": True})
    assert created
    assert (job.state, job.attempt, job.created, job.started) == (JobState.QUEUED, 0, clock.now, None)
    assert store.artefact(job.id, "media").read_bytes() == b"film"
    assert list((store.directory / "incoming").iterdir()) == []

    clock.now += 5
    running = store.claim()
    assert (running.id, running.state, running.attempt, running.started) == (job.id, "running", 1, clock.now)
    assert running.settings == {"fps": 2.0, "keep_media": True}
    assert store.claim() is None
    assert store.report("a", job.id) is None

    clock.now += 5
    assert finish(store, running, report='{"p": "é"}', expires=clock.now + DAY, page="<html>")
    done = store.job("a", job.id)
    assert (done.state, done.verdict, done.p_fake, done.reason) == ("done", "real", 0.25, "few fakes")
    assert (done.finished, done.expires, done.cached) == (clock.now, clock.now + DAY, False)
    assert store.report("a", job.id) == '{"p": "é"}'
    assert store.has(done) == {"report": True, "page": True, "crops": False, "annotated": False, "media": True}


def test_media_goes_when_the_job_is_done_unless_it_is_kept(store):
    for keep in (False, True):
        create(store, settings={"keep_media": keep})
        job = store.claim()
        assert finish(store, job)
        assert store.artefact(job.id, "media").exists() is keep
        assert store.has(store.job("a", job.id))["media"] is keep


def test_media_of_a_failed_job_stay_for_a_while(store, clock):
    ends = {}
    for keep_media, keep_failed in ((False, DAY), (False, 0.0), (True, DAY)):
        create(store, settings={"keep_media": keep_media})
        job = store.claim()
        assert store.fail(job.id, job.attempt, "clip.mp4: damaged", keep_failed=keep_failed)
        ends[job.id] = store.job("a", job.id).retry_until
        assert store.artefact(job.id, "media").exists() is (ends[job.id] is not None)
    assert list(ends.values()) == [clock.now + DAY, None, clock.now + FAILED_KEPT]
    clock.now += DAY - 1
    assert store.sweep() == 0
    assert [store.artefact(job_id, "media").exists() for job_id in ends] == [True, False, True]
    clock.now += 1
    assert store.sweep() == 0  # they are listed still
    assert [store.artefact(job_id, "media").exists() for job_id in ends] == [False, False, True]
    assert [store.job("a", job_id).retry_until is None for job_id in ends] == [True, True, False]
    clock.now += FAILED_KEPT
    assert store.sweep() == 3
    assert files(store) == []


def test_a_failed_job_is_retried_with_nothing_counted_against_it(store):
    create(store, content=b"film")
    job = store.claim()
    assert store.requeue(job.id, job.attempt, failures=1, wants=1)
    job = store.claim()
    assert (job.failures, job.wants) == (1, 1)
    with pytest.raises(NotRetryable, match="is running"):
        store.retry("a", job.id)
    store.fail(job.id, job.attempt, "clip.mp4: its decoder crashed")
    assert store.retry("b", job.id) is None  # it does not exist for others
    with pytest.raises(QueueFull, match="0 jobs of yours"):
        store.retry("a", job.id, max_waiting=0)
    again = store.retry("a", job.id)
    assert (again.state, again.error, again.finished, again.expires, again.retry_until) == ("queued", *[None] * 4)
    assert (again.failures, again.wants, again.interrupted) == (0, 0, 0)
    with pytest.raises(NotRetryable, match="is queued"):
        store.retry("a", job.id)
    running = store.claim()
    assert (running.id, running.attempt) == (job.id, 3)
    assert not store.fail(job.id, job.attempt, "late")  # of the run before the retry
    assert store.artefact(job.id, "media").read_bytes() == b"film"
    assert finish(store, running)
    with pytest.raises(NotRetryable, match="is done"):
        store.retry("a", job.id)


def test_a_job_whose_media_are_gone_cannot_be_retried(store, clock):
    create(store)
    job = store.claim()
    store.fail(job.id, job.attempt, "damaged", keep_failed=10)
    clock.now += 10
    store.sweep()
    with pytest.raises(NotRetryable, match="was deleted"):
        store.retry("a", job.id)


def test_a_failed_job_says_why_and_stays_a_week(store, clock):
    create(store)
    job = store.claim()
    store.artefact(job.id, "crops.json").write_text("[]")
    assert store.fail(job.id, job.attempt, "clip.mp4: damaged")
    assert not store.artefact(job.id, "crops.json").exists()  # faces that nobody is told of
    failed = store.job("a", job.id)
    assert (failed.state, failed.error, failed.verdict) == ("failed", "clip.mp4: damaged", None)
    assert failed.expires == clock.now + FAILED_KEPT
    create(store)
    job = store.claim()
    store.fail(job.id, job.attempt, "damaged", keep_failed=30 * DAY)
    assert store.job("a", job.id).expires == clock.now + 30 * DAY  # as long as it can be retried
    assert not any(store.has(failed).values())


def test_the_result_of_an_attempt_that_was_given_up_is_refused(store):
    create(store)
    first = store.claim()
    assert store.requeue(first.id, first.attempt)
    assert not finish(store, first)  # it waits
    second = store.claim()
    assert (second.id, second.attempt) == (first.id, 2)
    assert not finish(store, first, report='{"old": 1}')
    assert not store.fail(first.id, first.attempt, "old")
    assert not store.requeue(first.id, first.attempt)
    assert finish(store, second, report='{"new": 1}')
    assert not finish(store, second, report='{"again": 1}')
    assert not store.fail(second.id, second.attempt, "late")
    assert store.report("a", first.id) == '{"new": 1}'
    assert reports_stored(store) == 1


def test_requeued_jobs_keep_their_place_and_lose_half_made_results(store):
    first, _ = create(store)
    create(store)
    running = store.claim()
    store.artefact(running.id, "page.html").write_text("half")
    assert store.requeue(running.id, running.attempt)
    assert store.claim().id == first.id
    assert not store.artefact(first.id, "page.html").exists()
    assert store.artefact(first.id, "media").exists()


def test_a_deleted_job_is_gone_also_while_it_runs(store):
    create(store, content=b"x" * 1000)
    job = store.claim()
    assert not store.delete("b", job.id)
    assert store.delete("a", job.id)
    assert not store.delete("a", job.id)
    assert files(store) == []
    assert list((store.directory / "jobs").iterdir()) == []
    assert store.job("a", job.id) is None
    assert not store.fail(job.id, job.attempt, "late")
    late = {"report_json": "{}", "verdict": "real", "p_fake": None, "reason": "", "expires": None}
    assert not store.finish(job.id, job.attempt, model_id=job.model_id, **late)
    assert reports_stored(store) == 0
    assert list((store.directory / "jobs").iterdir()) == []


def test_what_was_deleted_is_not_left_in_the_files(store):
    secret = "a-name-that-nobody-may-find-again"
    content = b"film"
    media = store.incoming()
    media.write_bytes(content)
    job, _ = store.create_job(
        owner="a", name=secret, media=media, media_sha256="0", media_bytes=4, settings={}, model_id="m"
    )
    store.sweep()
    assert secret.encode() in (store.directory / "state.sqlite3").read_bytes()
    store.delete("a", job.id)
    store.sweep()
    for file in store.directory.glob("state.sqlite3*"):
        assert secret.encode() not in file.read_bytes(), file.name


# The queue.


def test_owners_take_turns(store):
    order = [create(store, owner)[0] for owner in "aaabab"] + [create(store, "c")[0]]
    numbers = {job.id: number for number, job in enumerate(order)}
    expected = {job.id: store.position(job) for job in order}
    claimed = []
    while (job := store.claim()) is not None:
        claimed.append(job)
        assert store.position(job) is None
    assert [(job.owner, numbers[job.id]) for job in claimed] == [
        ("a", 0),
        ("b", 3),
        ("c", 6),
        ("a", 1),
        ("b", 5),
        ("a", 2),
        ("a", 4),
    ]
    assert [expected[job.id] for job in claimed] == [1, 2, 3, 4, 5, 6, 7]


def test_positions_are_right_in_the_middle_of_a_round(store):
    rng = random.Random(1)
    for _ in range(30):
        create(store, rng.choice("abcd"))
    for _ in range(7):
        store.claim()
    create(store, "e")
    waiting = [job for owner in "abcde" for job in store.jobs(owner, limit=50)[0] if job.state == "queued"]
    predicted = {job.id: store.position(job) for job in waiting}
    assert sorted(predicted.values()) == list(range(1, len(waiting) + 1))
    order = []
    while (job := store.claim()) is not None:
        order.append(job.id)
    assert [predicted[job_id] for job_id in order] == list(range(1, len(order) + 1))


def test_a_job_set_apart_runs_after_all_that_waited_and_alone(store):
    first, second, third = (create(store, owner)[0] for owner in "aab")
    suspect = store.claim()
    assert suspect.id == first.id
    assert store.requeue(suspect.id, suspect.attempt, apart=True)
    later, _ = create(store, "c")
    # The owner of the second has had a turn.
    assert [store.position(job) for job in (third, second, first, later)] == [1, 2, 3, 4]
    one, two = store.claim(), store.claim()
    assert {one.id, two.id} == {second.id, third.id}
    assert store.claim() is None  # those that run are waited for, and what came later does not go first
    finish(store, one)
    assert store.claim() is None
    finish(store, two)
    alone = store.claim()
    assert alone.id == first.id
    assert store.claim() is None
    finish(store, alone)
    assert store.claim().id == later.id


def test_jobs_set_apart_again_let_the_others_that_are_go_first(store):
    made = [create(store, owner)[0].id for owner in "ab"]
    for _ in made:
        job = store.claim()
        store.requeue(job.id, job.attempt, apart=True)
    order = []
    for _ in range(4):
        job = store.claim()
        order.append(made.index(job.id))
        store.requeue(job.id, job.attempt, apart=True)
    assert order == [0, 1, 0, 1]


def test_the_queue_is_described(store, clock):
    assert store.queue().oldest_age == 0.0
    create(store)
    clock.now += 10
    create(store)
    clock.now += 5
    assert (store.queue().depth, store.queue().oldest_age, store.queue().running) == (2, 15.0, 0)
    store.claim()
    assert (store.queue().depth, store.queue().oldest_age, store.queue().running) == (1, 5.0, 1)


def test_a_full_queue_takes_no_job_and_keeps_no_file(store):
    create(store, "a", max_waiting=2)
    create(store, "a", max_waiting=2)
    with pytest.raises(QueueFull, match="2 jobs of yours wait") as refused:
        create(store, "a", max_waiting=2)
    assert refused.value.own
    with pytest.raises(QueueFull, match="2 jobs of yours"):
        store.check_room("a", max_waiting=2)
    create(store, "b", max_waiting=2, max_waiting_total=3)
    with pytest.raises(QueueFull, match="the service") as refused:
        create(store, "c", max_waiting_total=3)
    assert not refused.value.own
    store.check_room("c", max_waiting=1)
    assert len(files(store)) == 3
    store.claim()
    create(store, "c", max_waiting_total=3)  # what runs does not wait


def test_many_threads_share_the_work_and_no_job_is_done_twice(store):
    with ThreadPoolExecutor(8) as pool:
        jobs = [job.id for job, _ in pool.map(lambda number: create(store, f"owner-{number % 3}"), range(40))]

        def work(_):
            done = []
            while (job := store.claim()) is not None:
                store.queue()
                assert finish(store, job, report=json.dumps(job.id))
                done.append(job.id)
            return done

        done = [job_id for part in pool.map(work, range(8)) for job_id in part]
    assert sorted(done) == sorted(jobs)
    assert reports_stored(store) == 40


# Keys and answers that are there already.


def test_an_idempotency_key_gives_the_first_job(store, clock):
    first, created = create(store, content=b"film", settings={"fps": 1.0}, idempotency_key="k")
    again, new = create(store, content=b"film", settings={"fps": 1.0}, idempotency_key="k", max_waiting=1)
    assert (created, new, again.id) == (True, False, first.id)
    assert files(store) == [f"jobs/{first.id}/media"]
    with pytest.raises(IdempotencyConflict):
        create(store, content=b"film", settings={"fps": 2.0}, idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        create(store, content=b"other", settings={"fps": 1.0}, idempotency_key="k")
    assert files(store) == [f"jobs/{first.id}/media"]
    assert create(store, "b", content=b"film", settings={"fps": 1.0}, idempotency_key="k")[1]  # keys are the owner's
    clock.now += DAY + 1
    assert create(store, content=b"film", settings={"fps": 2.0}, idempotency_key="k")[1]


def test_a_key_is_free_again_when_its_job_is_deleted(store):
    first, _ = create(store, content=b"film", idempotency_key="k")
    store.delete("a", first.id)
    second, created = create(store, content=b"film", idempotency_key="k")
    assert created
    assert second.id != first.id


def test_a_key_that_comes_many_times_at_once_makes_one_job(store):
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: create(store, content=b"film", idempotency_key="k"), range(12)))
    assert len({job.id for job, _ in made}) == 1
    assert sum(created for _, created in made) == 1
    assert len(files(store)) == 1


def test_the_same_question_is_answered_from_the_stored_report(store, clock):
    create(store, content=b"film", settings={"fps": 1.0, "rule": None})
    first = store.claim()
    assert finish(store, first, report='{"r": 1}', expires=clock.now + 100, page="<html>")
    clock.now += 60
    second, created = create(store, content=b"film", settings={"rule": None, "fps": 1.0}, max_waiting=0)
    assert created
    assert (second.state, second.cached, second.verdict, second.p_fake) == ("done", True, "real", 0.25)
    assert second.expires == clock.now + 100
    assert store.report("a", second.id) == '{"r": 1}'
    assert store.artefact(second.id, "page.html").read_text() == "<html>"
    assert not store.artefact(second.id, "media").exists()
    assert reports_stored(store) == 1
    # Each can be deleted alone.
    assert store.delete("a", first.id)
    assert store.report("a", second.id) == '{"r": 1}'
    assert store.artefact(second.id, "page.html").read_text() == "<html>"
    third, _ = create(store, content=b"film", settings={"fps": 1.0, "rule": None})
    assert third.cached
    store.delete("a", second.id)
    store.delete("a", third.id)
    assert reports_stored(store) == 0
    assert files(store) == []


@pytest.mark.parametrize(
    "change",
    [{"owner": "b"}, {"content": b"other"}, {"settings": {"fps": 2.0}}, {"model": "other"}],
    ids=["owner", "media", "settings", "model"],
)
def test_another_question_is_no_match(store, change):
    create(store, content=b"film")
    assert finish(store, store.claim())
    assert create(store, content=b"film")[0].cached
    assert create(store, **{"content": b"film"} | change)[0].state == "queued"


def test_failed_running_and_expired_jobs_answer_nothing(store, clock):
    create(store, content=b"film")
    assert create(store, content=b"film")[0].state == "queued"
    job = store.claim()
    assert create(store, content=b"film")[0].state == "queued"
    store.fail(job.id, job.attempt, "damaged")
    assert create(store, content=b"film")[0].state == "queued"
    finish(store, store.claim(), expires=clock.now + 10)
    clock.now += 10
    assert create(store, content=b"film")[0].state == "queued"


def test_kept_media_of_a_cached_job_is_its_own(store):
    create(store, content=b"film", settings={"keep_media": True})
    first = store.claim()
    finish(store, first)
    second, _ = create(store, content=b"film", settings={"keep_media": True})
    assert second.cached
    store.delete("a", first.id)
    assert store.artefact(second.id, "media").read_bytes() == b"film"


# Looking at jobs.


def test_jobs_are_listed_newest_first_and_the_list_goes_on_where_it_stopped(store, clock):
    made = []
    for number in range(7):
        clock.now += number % 2  # some at the same moment
        made.append(create(store)[0])
    create(store, "b")
    found, cursor = store.jobs("a", limit=3)
    assert len(found) == 3
    store.delete("a", found[-1].id)  # the cursor does not need its job
    clock.now += 1
    create(store)  # what is new does not shift the list
    more, last = store.jobs("a", limit=3, before=cursor)
    rest, end = store.jobs("a", limit=3, before=last)
    listed = [job.id for job in found + more + rest]
    assert len(listed) == 7
    assert set(listed) == {job.id for job in made}
    assert end is None
    assert listed == [job.id for job in reversed(made)]


def test_the_newest_job_is_first_whatever_the_clock_says(store, clock):
    made = []
    for jump in (0, 400 * DAY, -800 * DAY, 1):
        clock.now += jump
        create(store, "b")
        made.append(create(store)[0].id)
    found, cursor = store.jobs("a", limit=2)
    rest, end = store.jobs("a", limit=2, before=cursor)
    assert [job.id for job in found + rest] == made[::-1]
    assert end is None
    assert cursor == "job_3"  # and nothing of how many jobs others have
    # The order outlives what is deleted.
    store.delete("a", made[3])
    clock.now -= DAY
    last, _ = create(store)
    assert [job.id for job in store.jobs("a", limit=9)[0]] == [last.id, *made[2::-1]]


@pytest.mark.parametrize("cursor", ["", "1", "job_", "job_-1", "job_1.5", "job_1\n", "job_٣", "1'; DROP TABLE jobs"])
def test_a_cursor_of_others_is_refused(store, cursor):
    with pytest.raises(InvalidCursor):
        store.jobs("a", limit=1, before=cursor)


def test_jobs_of_one_do_not_exist_for_another(store):
    create(store, "a", content=b"film")
    job = store.claim()
    finish(store, job)
    assert store.job("b", job.id) is None
    assert store.job(OPEN_OWNER, job.id) is None
    assert store.report("b", job.id) is None
    assert store.jobs("b", limit=5) == ([], None)
    assert not store.delete("b", job.id)
    assert store.job("a", job.id) is not None


@pytest.mark.parametrize("job_id", ["../../etc", "", ".", "a" * 31, "A" * 32, "a" * 32 + "\n"])
def test_no_path_is_made_of_what_is_no_id(store, job_id):
    with pytest.raises(ValueError, match="is no job's id"):
        store.artefact(job_id, "media")
    assert store.job("a", job_id) is None
    assert not store.delete("a", job_id)


def test_no_path_is_made_of_what_is_no_artefact(store):
    with pytest.raises(ValueError, match="is no file of a job"):
        store.artefact("a" * 32, "../x")


def test_names_that_are_no_valid_text_are_stored(store):
    media = store.incoming()
    media.write_bytes(b"x")
    name = "a\udcff\x00\u202e.mp4"
    job, _ = store.create_job(
        owner="a", name=name, media=media, media_sha256="0", media_bytes=1, settings={}, model_id="m"
    )
    assert store.job("a", job.id).name == "a\\udcff\ufffd\ufffd.mp4"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("holiday 2024 – Zürich.mp4", "holiday 2024 – Zürich.mp4"),
        ("a\x1b[2Jb\r\n.mp4", "a\ufffd[2Jb\ufffd\ufffd.mp4"),
        ("\u202e4pm.exe\u2066\u200f", "\ufffd4pm.exe\ufffd\ufffd"),
        ("a" * 5000 + ".mp4", "a" * 196 + ".mp4"),
        ("a" * 5000, "a" * 200),
        ("a." + "b" * 5000, "a." + "b" * 198),
    ],
    ids=["usual", "control", "direction", "long", "no ending", "long ending"],
)
def test_names_are_fit_to_be_shown(name, shown):
    assert shown_name(name) == shown


# Retention.


def test_a_sweep_removes_what_is_expired_and_nothing_else(store, clock):
    for expires in (clock.now + 10, clock.now + 20, None):
        create(store, settings={"keep_media": True})
        assert finish(store, store.claim(), expires=expires, page="x")
    waiting, _ = create(store)
    clock.now += 10
    assert store.sweep() == 1
    assert len(store.jobs("a", limit=9)[0]) == 3
    clock.now += 100 * DAY
    assert store.sweep() == 1
    assert store.sweep() == 0
    kept = [job.id for job in store.jobs("a", limit=9)[0]]
    assert waiting.id in kept
    assert {path.split("/")[1] for path in files(store)} == set(kept)
    assert reports_stored(store) == 1
