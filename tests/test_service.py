"""The service over HTTP, with the model that ships and real media: what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from running_service import Running, running_service

from fakeface_jax.server.http.file_response import FileAnswer
from fakeface_jax.server.service_config import Limits, ServiceConfig

SAMPLES = Path(__file__).parent.parent / "samples"
PICTURE, CLIP = next(iter(sorted(SAMPLES.glob("*.jpg")))), next(iter(sorted(SAMPLES.glob("*.mp4"))))
SCHEMA = json.loads((Path(__file__).parent.parent / "video" / "report" / "report.schema.json").read_text())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    config = ServiceConfig(
        limits=Limits(
            image_bytes=2**20, video_bytes=8 * 2**20, idle=1.0, streams_at_once=1, event_readers=4, image_wait=60.0
        ),
        streams=(f"clip={CLIP}", "nowhere=http://127.0.0.1:9/secret-path"),
    )
    with running_service(tmp_path_factory.mktemp("state"), config) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as client:
        yield client


def problem(answer: httpx.Response, status: int) -> str:
    """The detail of a problem; everything else about it is checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["instance"] == f"urn:request:{answer.headers['x-request-id']}"
    assert "Traceback" not in answer.text
    return str(body["detail"])


def send_video(
    client: httpx.Client, data: bytes | None = None, name: str = "clip.mp4", **fields: Any
) -> httpx.Response:
    headers = {"Idempotency-Key": fields.pop("key")} if "key" in fields else {}
    content = CLIP.read_bytes() if data is None else data
    return client.post("/v1/videos", files={"file": (name, content)}, data=fields, headers=headers)


def ended(client: httpx.Client, job: dict[str, Any], seconds: float = 60) -> dict[str, Any]:
    """The job once it is done or failed."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found = client.get(f"/v1/jobs/{job['id']}").json()
        if found["state"] in ("done", "failed"):
            return found
        time.sleep(0.05)
    raise AssertionError(f"not ended after {seconds} s: {found}")


def events_of(client: httpx.Client, url: str, **headers: str) -> list[tuple[str, Any, str | None]]:
    """Kind, data and id of all events until the stream closes."""
    found = []
    with client.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        kind, data, event_id = "", "", None
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data = value
            elif name == "id":
                event_id = value
            elif not line and kind:
                found.append((kind, json.loads(data), event_id))
                kind, data, event_id = "", "", None
    return found


# ---- pictures


def test_a_picture_is_answered_with_the_report_of_the_command_line(client: httpx.Client) -> None:
    answer = client.post("/v1/images", files={"file": ("portrait.jpg", PICTURE.read_bytes())})
    assert answer.status_code == 200
    report = answer.json()
    jsonschema.validate(report, SCHEMA)
    assert report["input"] == "portrait.jpg"
    assert report["media"]["sha256"] == hashlib.sha256(PICTURE.read_bytes()).hexdigest()
    from running_service import shipped

    from fakeface_jax.detectors import create_detector
    from fakeface_jax.video.scoring import score_image

    direct = score_image(shipped(), create_detector("centerface"), PICTURE).to_dict()
    assert report["verdict"] == direct["verdict"]
    assert report["p_fake"] == pytest.approx(direct["p_fake"], abs=1e-4)
    assert report["faces"][0]["box"] == direct["faces"][0]["box"]


def test_a_picture_as_the_body_and_as_a_form_are_the_same(client: httpx.Client) -> None:
    raw = client.post(
        "/v1/images",
        content=PICTURE.read_bytes(),
        headers={"Content-Type": "image/jpeg"},
        params={"name": "../../etc/passwd"},
    ).json()
    form = client.post("/v1/images", files={"file": ("passwd", PICTURE.read_bytes())}).json()
    for one in (raw, form):
        del one["seconds"]
        for face in one["faces"]:
            face["p_fake"] = round(face["p_fake"], 4)
            face["logit"] = round(face["logit"], 3)
        one["p_fake"] = round(one["p_fake"], 4)
    assert raw == form


def test_a_picture_as_a_page_and_with_crops(client: httpx.Client) -> None:
    files = {"file": ('"><script>alert(1)</script>.jpg', PICTURE.read_bytes())}
    page = client.post("/v1/images", files=files, headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert "script-src" not in page.headers["content-security-policy"]
    crops = client.post("/v1/images/crops", files=files).json()
    jsonschema.validate(crops["report"], SCHEMA)
    assert len(crops["crops"]) == len([face for face in crops["report"]["faces"] if face["p_fake"] is not None])
    assert crops["crops"][0]["heat"].startswith("data:image/jpeg;base64,")


def test_a_picture_without_a_face_is_an_answer(client: httpx.Client) -> None:
    import cv2
    import numpy as np

    data = cv2.imencode(".png", np.full((200, 300, 3), 90, np.uint8))[1].tobytes()
    report = client.post("/v1/images", files={"file": ("grey.png", data)}).json()
    assert (report["verdict"], report["p_fake"], report["faces"]) == ("no_face", None, [])


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"", 422, "empty"),
        (b"hello, this is text", 422, "not an image"),
        (PICTURE.read_bytes()[: len(PICTURE.read_bytes()) // 2], 422, "damaged"),
        (CLIP.read_bytes()[:100_000], 422, "video"),
        (b"\xff\xd8" + bytes(2**20), 413, "1 MiB"),
    ],
    ids=["empty", "text", "truncated", "a video", "too long"],
)
def test_bad_pictures_are_problems(client: httpx.Client, content: bytes, status: int, says: str) -> None:
    assert says in problem(client.post("/v1/images", files={"file": ("x.jpg", content)}), status)


def test_many_pictures_at_once_get_their_own_answers(client: httpx.Client, service: Running) -> None:
    pictures = sorted(SAMPLES.glob("*.jpg"))[:4]
    alone = {
        path.name: client.post("/v1/images", files={"file": (path.name, path.read_bytes())}).json() for path in pictures
    }
    found: list[tuple[str, dict[str, Any]]] = []

    def ask(path: Path) -> None:
        with httpx.Client(base_url=service.url, timeout=60, trust_env=False) as one:
            answer = one.post("/v1/images", files={"file": (path.name, path.read_bytes())})
            found.append((path.name, answer.json()))

    threads = [threading.Thread(target=ask, args=(path,)) for path in pictures * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads)
    for name, report in found:
        assert report["input"] == name
        assert report["p_fake"] == pytest.approx(alone[name]["p_fake"], abs=1e-4)


# ---- malformed requests


def test_malformed_forms_are_problems(client: httpx.Client) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    whole = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jpg"\r\n\r\nabc\r\n--b--\r\n'
    twice = whole[: -len(b"--b--\r\n")] + whole
    for content, headers, status, says in [
        (whole, {"Content-Type": "multipart/form-data"}, 400, "boundary"),
        (whole[:-8], form, 400, "cut off"),
        (b"nonsense", form, 400, "malformed"),
        (b'--b\r\nContent-Disposition: form-data; name="other"\r\n\r\nabc\r\n--b--\r\n', form, 422, "no file"),
        (twice, form, 422, "several"),
        (b"--b\r\n" + b"X" * 9000 + b": y\r\n\r\nabc\r\n--b--\r\n", form, 400, "malformed"),
        (
            b'--b\r\nContent-Disposition: form-data; name="fps"\r\n\r\n' + b"9" * 2000 + b"\r\n--b--\r\n",
            form,
            422,
            "long",
        ),
    ]:
        assert says in problem(client.post("/v1/images", content=content, headers=headers), status)


def test_a_client_that_stops_sending_is_not_waited_for(service: Running) -> None:
    def slowly() -> Iterator[bytes]:
        yield b"\xff\xd8"
        time.sleep(3)
        yield b"never read"

    with httpx.Client(base_url=service.url, timeout=30, trust_env=False) as one:
        began = time.monotonic()
        answer = one.post("/v1/images", content=slowly(), headers={"Content-Type": "image/jpeg"})
        assert "nothing came" in problem(answer, 408)
        assert time.monotonic() - began < 4


def test_unknown_places_and_methods_are_problems(client: httpx.Client) -> None:
    problem(client.get("/v1/nothing"), 404)
    problem(client.put("/v1/images"), 405)
    problem(client.get("/v1/jobs/" + "0" * 32), 404)
    problem(client.get("/v1/jobs/..%2f..%2fetc"), 404)
    problem(client.delete("/v1/jobs/x"), 404)
    problem(client.get("/v1/jobs", params={"limit": "many"}), 422)
    problem(client.get("/v1/jobs", params={"before": "x"}), 422)
    problem(client.get("/static/../app.py"), 404)
    problem(client.get("/static/%2e%2e/http/app.py"), 404)


# ---- videos


def test_a_video_becomes_a_job_whose_events_tell_its_story(client: httpx.Client) -> None:
    answer = send_video(client, frames="8", annotate="true")
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["state"] in ("queued", "running")
    events = events_of(client, f"/v1/jobs/{job['id']}/events")
    kinds = [kind for kind, _, _ in events]
    assert [data["state"] for kind, data, _ in events if kind == "state"][-2:] == ["running", "done"]
    assert kinds.count("frame") == 8
    assert kinds.index("verdict") < kinds.index("end") == len(kinds) - 1
    assert [data for kind, data, _ in events if kind == "progress"][-1] == {"done": 8, "total": 8}
    done = events[-1][1]
    assert (done["state"], done["error"]) == ("done", None)
    assert done["has"] == {"report": True, "page": True, "crops": True, "annotated": True, "media": False}

    report = client.get(f"/v1/jobs/{job['id']}/report").json()
    jsonschema.validate(report, SCHEMA)
    assert report["verdict"] == done["verdict"]
    assert [frame for _, frame, _ in (e for e in events if e[0] == "frame")] == report["frames"]
    page = client.get(f"/v1/jobs/{job['id']}/report", headers={"Accept": "text/html"})
    assert "<html" in page.text
    assert client.get(f"/v1/jobs/{job['id']}/report?format=html").text == page.text
    assert client.get(f"/v1/jobs/{job['id']}/crops").json()["crops"]
    annotated = client.get(f"/v1/jobs/{job['id']}/annotated")
    assert annotated.headers["content-type"] == "video/mp4"
    assert annotated.content[4:8] == b"ftyp"
    part = client.get(f"/v1/jobs/{job['id']}/annotated", headers={"Range": "bytes=0-99"})
    assert (part.status_code, len(part.content)) == (206, 100)
    problem(client.get(f"/v1/jobs/{job['id']}/media"), 404)

    # Who comes later gets the end at once, and who was there before goes on where it was.
    assert [kind for kind, *_ in events_of(client, f"/v1/jobs/{job['id']}/events")] == ["state", "end"]


def test_the_report_is_that_of_the_command_line(client: httpx.Client) -> None:
    from running_service import shipped

    from fakeface_jax.detectors import create_detector
    from fakeface_jax.video.reading.sampling import Sampling
    from fakeface_jax.video.scoring import score_video

    job = ended(client, send_video(client, frames="6", crops="false").json())
    report = client.get(f"/v1/jobs/{job['id']}/report").json()
    scored = score_video(shipped(), create_detector("centerface"), CLIP, Sampling(frames=6))
    direct = json.loads(json.dumps(scored.to_dict()))
    assert report["p_fake"] == pytest.approx(direct["p_fake"], abs=1e-4)
    for key in ("media", "sampling", "evidence", "model", "aggregation", "settings", "frames_read"):
        assert report[key] == direct[key], key
    assert [frame["index"] for frame in report["frames"]] == [frame["index"] for frame in direct["frames"]]
    problem(client.get(f"/v1/jobs/{job['id']}/report?format=html"), 404)  # crops=false made none


def test_the_same_again_is_answered_from_the_stored_report(client: httpx.Client) -> None:
    first = ended(client, send_video(client, frames="5", crops="false").json())
    again = send_video(client, frames="5", crops="false", name="other name.mp4")
    assert again.status_code == 200
    second = again.json()
    assert (second["state"], second["cached"], second["verdict"]) == ("done", True, first["verdict"])
    assert second["id"] != first["id"]
    assert client.delete(f"/v1/jobs/{first['id']}").status_code == 204
    assert client.get(f"/v1/jobs/{second['id']}/report").status_code == 200
    # Other settings are other work.
    assert send_video(client, frames="4", crops="false").status_code == 202


def test_an_idempotency_key_makes_one_job(client: httpx.Client) -> None:
    first = send_video(client, frames="3", crops="false", key="one")
    again = send_video(client, frames="3", crops="false", key="one")
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["id"] == again.json()["id"]
    assert "Key" in problem(send_video(client, frames="2", crops="false", key="one"), 422)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"frames": "3", "fps": "2"}, "one of"),
        ({"frames": "0"}, "frames"),
        ({"frames": "many"}, "frames"),
        ({"rule": "nonsense"}, "nonsense"),
        ({"unknown": "1"}, "unknown"),
        ({"start": "5", "end": "2"}, "end"),
    ],
)
def test_settings_that_cannot_be_used_are_problems(client: httpx.Client, fields: dict[str, str], says: str) -> None:
    assert says in problem(send_video(client, **fields), 422)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"hello, this is text", "text"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n", "playlist"),
        (PICTURE.read_bytes(), "still image"),
        (CLIP.read_bytes()[:2000], ""),
    ],
    ids=["text", "playlist", "a picture", "truncated"],
)
def test_bad_videos_fail_with_a_reason_and_nothing_else_does(client: httpx.Client, content: bytes, says: str) -> None:
    job = ended(client, send_video(client, content, name="bad.mp4").json())
    assert job["state"] == "failed"
    assert job["error"].startswith("bad.mp4: ")
    assert says in job["error"]
    assert "failed" in problem(client.get(f"/v1/jobs/{job['id']}/report"), 409)
    assert client.get("/readyz").status_code == 200


def test_jobs_are_listed_in_pages_the_newest_first(client: httpx.Client) -> None:
    for frames in (11, 12, 13):
        send_video(client, frames=str(frames), crops="false")
    found, before = [], None
    while True:
        page = client.get("/v1/jobs", params={"limit": 2} | ({"before": before} if before else {})).json()
        found += page["jobs"]
        before = page["next"]
        if before is None:
            break
    assert len({job["id"] for job in found}) == len(found) >= 3
    assert [job["created"] for job in found] == sorted((job["created"] for job in found), reverse=True)


def test_deleting_stops_a_job_that_runs_and_removes_everything(client: httpx.Client, service: Running) -> None:
    job = send_video(client, every="1", crops="false").json()
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    problem(client.get(f"/v1/jobs/{job['id']}"), 404)
    problem(client.delete(f"/v1/jobs/{job['id']}"), 404)
    after = ended(client, send_video(client, frames="2", crops="false").json())
    assert after["state"] == "done"
    assert not service.state.store.artefact(job["id"], "media").parent.exists()


def test_media_is_deleted_after_the_job_unless_it_is_to_be_kept(client: httpx.Client, service: Running) -> None:
    gone = ended(client, send_video(client, frames="2", crops="false", start="0.1").json())
    kept = ended(client, send_video(client, frames="2", crops="false", start="0.2", keep_media="true").json())
    assert not service.state.store.artefact(gone["id"], "media").exists()
    media = f"/v1/jobs/{kept['id']}/media"
    assert client.get(media).content == CLIP.read_bytes()
    part = client.get(media, headers={"Range": "bytes=2-9"})
    assert (part.status_code, part.content) == (206, CLIP.read_bytes()[2:10])
    beyond = client.get(media, headers={"Range": f"bytes={10**9}-"})
    assert "no such bytes" in problem(beyond, 416)
    assert beyond.headers["content-range"] == f"bytes */{CLIP.stat().st_size}"
    assert "malformed" in problem(client.get(media, headers={"Range": "bytes=1_0-2_0"}), 400)
    other = client.get(media, headers={"Range": "lines=1-2"})  # of a unit that nobody knows
    assert (other.status_code, other.content) == (200, CLIP.read_bytes())


def test_addresses_are_not_opened_unless_the_operator_says_so(client: httpx.Client) -> None:
    assert "opens no addresses" in problem(client.post("/v1/videos", json={"url": "http://127.0.0.1:9/x.mp4"}), 403)


# ---- live sources


def test_a_named_source_is_watched_followed_and_stopped(client: httpx.Client) -> None:
    assert client.get("/v1/streams").json() == {"streams": [], "sources": ["clip", "nowhere"]}
    problem(client.post("/v1/streams", json={"source": "rtsp://elsewhere/x"}), 404)
    answer = client.post("/v1/streams", json={"source": "clip"})
    assert answer.status_code == 201
    stream = answer.json()
    busy = client.post("/v1/streams", json={"source": "clip"})
    problem(busy, 503)
    assert int(busy.headers["retry-after"]) >= 1
    events = events_of(client, f"/v1/streams/{stream['id']}/events")
    kinds = [kind for kind, *_ in events]
    assert kinds[-1] == "end"
    assert "summary" in kinds
    last = events[-1][1]
    assert last["state"] == "ended"
    assert last["counters"]["scored"] > 0
    assert client.get(f"/v1/streams/{stream['id']}").json()["error"] is None
    assert client.delete(f"/v1/streams/{stream['id']}").status_code == 204
    assert client.get("/v1/streams").json()["streams"] == []


def test_the_address_of_a_source_stays_with_the_operator(client: httpx.Client) -> None:
    stream = client.post("/v1/streams", json={"source": "nowhere"}).json()
    time.sleep(0.5)
    found = client.get(f"/v1/streams/{stream['id']}").text
    assert "secret-path" not in found
    assert client.delete(f"/v1/streams/{stream['id']}").status_code == 204


# ---- what it says of itself


def test_health_readiness_and_facts(client: httpx.Client, service: Running) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    ready = client.get("/readyz").json()
    assert (ready["status"], ready["problems"]) == ("ready", [])
    isolation = ready["isolation"]
    assert isolation["missing"] == [name for name in ("files", "system_calls") if not isolation[name]]
    assert isolation["landlock_abi"] == service.state.decoders.isolation["landlock_abi"]
    assert {"own_network", "network", "memory", "rights"} <= set(isolation)
    info = client.get("/v1/info").json()
    assert info["model"]["name"] == "lite0"
    assert 0 < info["bands"]["real_below"] <= info["bands"]["fake_from"] < 1
    assert info["auth_required"] is False


def test_metrics_count_what_happened(client: httpx.Client) -> None:
    client.post("/v1/images", files={"file": ("portrait.jpg", PICTURE.read_bytes())})
    text = client.get("/metrics").text
    assert 'fakeface_requests_total{code="200",method="POST",route="/v1/images"}' in text
    for name in (
        "fakeface_queue_jobs",
        "fakeface_queue_oldest_seconds",
        "fakeface_batch_faces_bucket",
        'fakeface_stage_seconds_total{kind="image",stage="detect"}',
        'fakeface_score_bucket{kind="image"',
        'fakeface_frames_total{what="read"}',
        "fakeface_model_info{",
        'fakeface_streams{state="live"}',
        "fakeface_decoder_kills",
        "fakeface_decoder_places",
        'fakeface_isolation{what="files"}',
        'fakeface_isolation{what="landlock_abi"}',
        "fakeface_isolation_missing",
        "fakeface_connections ",
    ):
        assert name in text, name


def test_every_answer_has_the_headers_that_browsers_heed(client: httpx.Client) -> None:
    for answer in (client.get("/"), client.get("/v1/info"), client.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "'unsafe-inline'" not in answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_a_page_of_another_site_cannot_ask(client: httpx.Client) -> None:
    for headers in (
        {"Host": "attacker.example"},
        {"Origin": "https://attacker.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"X-Forwarded-For": "203.0.113.7"},
        {"Forwarded": "for=203.0.113.7"},
    ):
        problem(client.get("/v1/jobs", headers=headers), 403)
    assert client.get("/v1/jobs", headers={"Origin": str(client.base_url)}).status_code == 200


def test_files_of_the_page_refuse_ranges_as_all_others(client: httpx.Client) -> None:
    for path in ("/", "/static/app.js"):
        assert "malformed" in problem(client.get(path, headers={"Range": "bytes=9-2"}), 400)
        answer = client.get(path, headers={"Range": f"bytes={10**9}-"})
        assert "no such bytes" in problem(answer, 416)
        assert answer.headers["content-range"].startswith("bytes */")
        assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
def test_whether_it_lives_can_be_asked_without_a_body(client: httpx.Client, path: str) -> None:
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("asked", [{}, {"range": "bytes=0-9"}, {"range": "bytes=0-1,4-5"}])
def test_a_file_that_is_deleted_before_it_is_opened_is_a_problem(tmp_path: Path, asked: dict[str, str]) -> None:
    path = tmp_path / "media"
    path.write_bytes(bytes(100))

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        answer = FileAnswer(path, media_type="application/octet-stream")
        if "gone" in scope["path"]:
            path.unlink()
        await answer(scope, receive, send)

    async def ask(where: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(serve), base_url="http://x") as client:
            return await client.get(where, headers=asked)

    assert asyncio.run(ask("/there")).status_code in (200, 206)
    answer = asyncio.run(ask("/gone"))
    assert (answer.status_code, answer.json()["detail"]) == (404, "it was deleted")
