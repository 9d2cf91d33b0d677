"""The web page in a real browser, against the real service with the model that ships."""

import dataclasses
import itertools
import json
import re
import shutil
import time
from pathlib import Path

import pytest
from page_server import REPOSITORY, camera_file, playable_clip, running_service, token
from test_timeline import people_report

from fakeface_jax.decision import Calibration, OperatingPoint, VerdictBands, VideoDecision
from fakeface_jax.errors import printable
from fakeface_jax.labels import Verdict
from fakeface_jax.video.report.explanations import wording
from fakeface_jax.video.report.records import Media
from fakeface_jax.video.report.video_report import ImageReport

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
for _needed in ("fastapi", "uvicorn", "websockets", "av"):
    pytest.importorskip(_needed, reason=f"needs {_needed} (the extra serve)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

expect = playwright.expect
SAMPLES = REPOSITORY / "samples"
HOSTILE = "<img src=x onerror=alert(1)>\u202egnp.mp4"
STORED = HOSTILE.replace("\u202e", "\ufffd")
"""Its name as the service keeps it."""
SLOW = 90_000
"""Milliseconds that a first score or map may take on a busy machine."""
expect.set_options(timeout=SLOW)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def clip(media):
    return playable_clip(media / "clip.mp4")


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def address(state, media):
    source = playable_clip(media / "source.mp4", times=15)
    with running_service(state, media / "service.log", [f"pan={source}"]) as found:
        yield found


@pytest.fixture(scope="module")
def browser(media):
    fake_camera = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera_file(media / 'camera.mjpeg')}",
    ]
    # Stopped with the module: its event loop would be in the way of tests that run their own.
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *fake_camera])
        yield found
        found.close()


@pytest.fixture
def open_page(browser, address):
    """Opens pages; in the end, none of them has logged an error that its test did not ask for.

    Chromium logs every answer that is an error, and every violation of the page's policy.
    """
    contexts, logged, allowed = [], [], []

    def opened(place="", *, statuses=(), **options):
        allowed.extend(statuses)
        context = browser.new_context(base_url=address, permissions=["camera"], **options)
        context.set_default_timeout(SLOW)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: logged.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.goto(f"/{place}")
        expect(page.locator("#limits")).to_contain_text("Pictures up to")
        return page

    yield opened
    for context in contexts:
        context.close()
    left = [text for text in logged if not any(f"status of {status}" in text for status in allowed)]
    assert not left


@pytest.fixture(scope="module")
def scored(browser, address, clip):
    """The clip's job, done once for all tests that only look at it."""
    context = browser.new_context(base_url=address)
    context.set_default_timeout(SLOW)
    body = {"file": {"name": HOSTILE, "mimeType": "video/mp4", "buffer": clip.read_bytes()}, "fps": "5"}
    job = context.request.post("/v1/videos", multipart=body, timeout=SLOW).json()
    deadline = time.monotonic() + SLOW / 1000
    while job["state"] in ("queued", "running") and time.monotonic() < deadline:
        time.sleep(0.2)
        job = context.request.get(f"/v1/jobs/{job['id']}").json()
    assert job["state"] == "done", job
    report = context.request.get(f"/v1/jobs/{job['id']}/report", headers={"Accept": "application/json"}).json()
    context.close()
    return job, report


def give(page, path):
    page.get_by_label("Choose a picture or a video", exact=True).set_input_files(path)


def headline(page):
    return page.locator("#result .headline")


def imported(page, module, script, argument=None):
    """What a function of one of the page's modules returns."""
    code = f"async (argument) => ({script})(await import('/static/{module}'), argument)"
    return page.evaluate(code, argument)


def drawn(page, selector):
    """How many pixels of a canvas are not empty."""
    return page.locator(selector).evaluate(
        """canvas => { const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let count = 0; for (let i = 3; i < data.length; i += 4) count += data[i] > 0; return count; }"""
    )


def wait_until(page, condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        page.wait_for_timeout(50)


def some_reports():
    """Reports of all verdicts, with and without what a sentence depends on."""
    point = OperatingPoint(
        kind="fpr", rate=0.01, threshold=0.7, rate_low=0.0042, rate_high=0.0251, split="c", samples=418
    )
    missed = dataclasses.replace(point, kind="fnr", rate=0.125, threshold=0.3, rate_low=0.0999, rate_high=0.2)
    bands = VerdictBands(real_below=0.3, fake_from=0.7, reason="by hand")
    video = people_report()
    calibrated = dataclasses.replace(video.model, bands=bands, operating_points=(point, missed))
    decision = VideoDecision(
        rule=video.aggregation,
        calibration=Calibration(),
        bands=bands,
        operating_points=(point, missed),
        fitted_on="clips",
    )
    models = (
        video.model,
        calibrated,
        dataclasses.replace(calibrated, calibration="none"),
        dataclasses.replace(calibrated, video=decision),
        dataclasses.replace(calibrated, video=dataclasses.replace(decision, rule="other", fitted_on="")),
    )
    answers = (
        (Verdict.FAKE, 0.8123),
        (Verdict.REAL, 0.1),
        (Verdict.INCONCLUSIVE, 0.5),
        (Verdict.INCONCLUSIVE, 0.97),
        (Verdict.NO_FACE, None),
    )
    for model, (verdict, p_fake), reason in itertools.product(models, answers, ("", "faces in 2 frames")):
        changes = {"model": model, "verdict": verdict, "p_fake": p_fake, "reason": reason}
        yield dataclasses.replace(video, **changes)
        picture = Media(sha256="0" * 64, width=9, height=9)
        yield ImageReport(input="a.jpg", faces=(), media=picture, seconds=video.seconds, **changes)


def test_words_are_those_of_the_reports(open_page):
    reports = list(some_reports())
    code = "(module, reports) => reports.map((report) => module.wording(report))"
    said = imported(open_page(), "wording.js", code, [json.loads(json.dumps(one.to_dict())) for one in reports])
    assert len(reports) == 100
    for report, one in zip(reports, said, strict=True):
        words = wording(report)
        assert one == {"headline": words.headline, "means": list(words.means), "meansNot": list(words.means_not)}


def test_names_are_escaped_as_on_the_command_line(open_page):
    names = [HOSTILE, "a\nb\tc\x00\x9b", "plain.mp4", "\u2066x\u2069 ünï.mp4"]
    shown = imported(open_page(), "dom.js", "(module, names) => names.map(module.printable)", names)
    assert [re.sub(r"\\x0a", r"\\n", re.sub(r"\\x09", r"\\t", one)) for one in shown] == [
        printable(one) for one in names
    ]


def test_events_are_the_same_however_they_are_cut(open_page):
    text = ': hello\r\n\r\nid: 7\r\nevent: frame\r\ndata: {"a":\r\ndata: 1}\r\n\r\nevent: end\ndata: "é"\n\n: bye\n\n'
    code = """(module, [text, size]) => {
        const found = [];
        const parse = module.eventParser((event) => found.push(event));
        for (let i = 0; i < text.length; i += size) parse(text.slice(i, i + size)); return found; }"""
    page = open_page()
    for size in (1, 2, 3, 7, 1000):
        assert imported(page, "event_stream.js", code, [text, size]) == [
            {"type": "frame", "id": "7", "data": {"a": 1}},
            {"type": "end", "id": None, "data": "é"},
        ]


def test_picture(open_page, tmp_path):
    page = open_page()
    with page.expect_response("**/v1/images/crops") as answered:
        give(page, SAMPLES / "real_hopper.jpg")
    expect(headline(page)).to_be_focused()
    report = answered.value.json()["report"]
    expect(headline(page)).to_have_text(report["verdict"].replace("_", " ").capitalize())
    result = page.locator("#result")
    expect(result).to_contain_text(f"P(fake) {report['p_fake']:.2f}")
    expect(
        page.get_by_role("img", name=f"P(fake) {report['p_fake']:.3f} on a scale from 0 to 1: real below")
    ).to_be_visible()
    expect(result.get_by_role("heading", name="What it does not mean")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile(rf"^1 {report['verdict']}"))).to_contain_text(
        f"{report['faces'][0]['p_fake']:.3f}"
    )
    for alt in (re.compile("^Face, "), "Where its score came from", "The picture, with boxes around the face"):
        image = page.get_by_role("img", name=alt)
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
    assert drawn(page, "#result canvas") > 1000
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as JSON").click()
    assert saved.value.suggested_filename == "real_hopper.json"
    assert json.loads(Path(saved.value.path()).read_text()) == report
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as a page (HTML)").click()
    assert "What it does not mean" in Path(saved.value.path()).read_text()


def test_no_face_is_an_answer_of_its_own(open_page):
    page = open_page()
    give(page, SAMPLES / "no_face_coffee.jpg")
    expect(headline(page)).to_have_text("No face")
    expect(page.locator("#result")).to_contain_text("may be real or fake")
    expect(page.locator("#result .scale")).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "kind", "content"),
    [
        ("notes.txt", "text/plain", b"not a video"),
        ("torn.jpg", "image/jpeg", b"\xff\xd8\xff\xe0 torn"),
        ("none.mp4", "video/mp4", b""),
    ],
)
def test_what_cannot_be_read_is_an_error_and_no_verdict(open_page, name, kind, content):
    page = open_page(statuses=(400, 413, 415, 422))
    give(page, {"name": name, "mimeType": kind, "buffer": content})
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(name)
    expect(headline(page)).to_have_count(0)


def test_video_from_upload_to_timeline(open_page, clip):
    page = open_page()
    page.get_by_text("Options", exact=True).click()
    page.get_by_label("Frames to look at").select_option(label="5 of every second")
    give(page, clip)
    expect(page.get_by_role("progressbar")).to_be_visible()
    expect(headline(page)).to_be_visible()
    expect(page.get_by_role("heading", name="The most and the least suspicious faces")).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_count(0)
    assert re.search(r"#/jobs/\w+$", page.url)
    slider = page.get_by_role("slider", name=re.compile(r"^Person 1, P\(fake\) of 20 faces from 0.0 s to 3.8 s"))
    box = slider.bounding_box()

    def moment():
        return page.locator("#result video").evaluate("video => video.currentTime")

    # A click seeks.
    slider.click(position={"x": box["width"] / 2, "y": 40})
    wait_until(page, lambda: abs(moment() - 2.0) < 0.1)
    expect(page.locator(".readout")).to_contain_text("2.0 s person 1 P(fake)")
    # Keys go from sample to sample, and are said.
    slider.press("Home")
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    wait_until(page, lambda: abs(moment() - 0.4) < 0.05)
    expect(slider).to_have_attribute(
        "aria-valuetext", re.compile(r"^0\.4 s: P\(fake\) 0\.\d\d, (real|inconclusive|fake)$")
    )
    slider.press("ArrowLeft")
    wait_until(page, lambda: abs(moment() - 0.2) < 0.05)
    # Boxes lie over the video; the cursor moves with playback.
    wait_until(page, lambda: drawn(page, "#result .player canvas") > 500)
    before = page.locator(".timeline .cursor").evaluate("cursor => parseFloat(cursor.style.left)")
    page.locator("#result video").evaluate("video => { video.muted = true; return video.play(); }")
    wait_until(
        page,
        lambda: page.locator(".timeline .cursor").evaluate("cursor => parseFloat(cursor.style.left)") > before + 10,
    )
    page.locator("#result video").evaluate("video => video.pause()")
    # So does a suspicious face.
    button = page.get_by_role("button", name=re.compile("^Show at")).first
    button.click()
    wanted = float(button.text_content().removeprefix("Show at ").removesuffix(" s"))
    wait_until(page, lambda: abs(moment() - wanted) < 0.1)
    # All of it is there as text.
    page.get_by_text("All 20 scores as a table").click()
    expect(page.get_by_role("region", name="All scores").get_by_role("row")).to_have_count(21)


def test_scores_come_while_the_job_runs_and_a_broken_connection_goes_on(open_page, clip):
    page = open_page()
    face = {
        "box": [100, 50, 200, 170],
        "p_fake": 0.5,
        "verdict": "inconclusive",
        "confidence": 0.9,
        "logit": 0.0,
        "person": 1,
    }
    frames = [{"index": i, "time": i / 5, "faces": [face]} for i in range(6)]
    asked = []

    def events(route):
        asked.append(route.request.headers.get("last-event-id"))
        first = len(asked) == 1
        some = frames[:3] if first else frames[2:]  # one comes twice
        text = "".join(f"id: p-{one['index']}\nevent: frame\ndata: {json.dumps(one)}\n\n" for one in some)
        text += f"event: progress\ndata: {json.dumps({'done': len(some), 'total': 6})}\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=text)

    page.route("**/v1/jobs/*/events", events)
    give(page, clip)
    slider = page.get_by_role("slider", name=re.compile(r"^Person 1, P\(fake\) of 6 faces"))
    expect(slider).to_be_visible()
    assert asked[:2] == [None, "p-2"]
    expect(headline(page)).to_have_count(0)
    # Where no event comes at all, as through some proxies, the job is asked for.
    page.unroute("**/v1/jobs/*/events")
    page.route("**/v1/jobs/*/events", lambda route: asked.append(route))
    expect(headline(page)).to_be_visible()
    expect(page.get_by_role("progressbar")).to_have_count(0)


def test_a_video_that_the_browser_cannot_play_comes_back_annotated(open_page):
    page = open_page()
    give(page, SAMPLES / "real_collins_pan.mp4")
    expect(headline(page)).to_be_visible()
    expect(page.locator(".player .note")).to_contain_text(
        "cannot play this video. Shown is the service's annotated copy."
    )
    assert page.locator("#result video").evaluate("video => [video.videoWidth, video.videoHeight > 480]") == [640, True]
    slider = page.get_by_role("slider").first
    slider.press("End")
    wait_until(page, lambda: page.locator("#result video").evaluate("video => video.currentTime") > 3.5)
    expect(page.get_by_role("button", name="Save the annotated video")).to_be_visible()


def test_a_failed_job_says_why(open_page, clip):
    page = open_page()
    broken = clip.read_bytes()[:3000]
    give(page, {"name": HOSTILE, "mimeType": "video/mp4", "buffer": broken})
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("could not be checked")
    expect(alert).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("#result img").count() == 0
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    # It is run again with the copy that the service keeps, and ends as it did.
    with page.expect_response("**/retry") as answer:
        page.get_by_role("button", name="Run it again").click()
    assert answer.value.status == 202
    expect(page.get_by_role("alert")).to_contain_text("could not be checked")


def test_uploads_and_jobs_can_be_stopped(open_page, clip):
    page = open_page()
    held = []
    page.route("**/v1/videos", lambda route: held.append(route))
    give(page, clip)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#result")).to_have_text("Stopped. Nothing is kept.")
    page.unroute("**/v1/videos")
    page.route("**/events", lambda route: held.append(route))
    with page.expect_response("**/v1/videos") as answered:
        give(page, {"name": "stopped.mp4", "mimeType": "video/mp4", "buffer": clip.read_bytes() + bytes(8)})
    job = answered.value.json()
    page.get_by_role("button", name="Stop and delete").click()
    expect(page.locator("#result")).to_have_text("Stopped and deleted: nothing of it is kept.")
    assert page.request.get(f"/v1/jobs/{job['id']}").status == 404


def test_busy_service_is_asked_again_with_the_same_key(open_page, clip):
    page = open_page(statuses=(429,))
    keys = []

    def busy(route):
        keys.append(route.request.headers["idempotency-key"])
        if len(keys) > 1:
            return route.continue_()
        body = json.dumps({"title": "Too Many Requests", "status": 429, "detail": "too many videos wait"})
        headers = {"Retry-After": "30"}
        return route.fulfill(status=429, headers=headers, content_type="application/problem+json", body=body)

    page.route("**/v1/videos", busy)
    give(page, clip)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("too many videos wait")
    expect(alert).to_contain_text("Try again in 30 s, at ")
    page.get_by_role("button", name="Try again").click()
    expect(headline(page)).to_be_visible()
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_own_copy_is_shown_beside_an_old_result(open_page, scored, clip):
    job, _ = scored
    page = open_page(f"#/jobs/{job['id']}")
    expect(headline(page)).to_be_visible()
    field = page.get_by_label(re.compile("^The service did not keep the video"))
    field.set_input_files(SAMPLES / "real_collins_pan.mp4")
    expect(page.locator(".own")).to_contain_text("This is another file")
    field.set_input_files({"name": "same-size.mp4", "mimeType": "video/mp4", "buffer": clip.read_bytes()[:-1] + b"?"})
    expect(page.locator(".own")).to_contain_text("its sha256 is not that")
    field.set_input_files(clip)
    expect(page.locator("#result video")).to_be_visible()
    wait_until(page, lambda: drawn(page, "#result .player canvas") > 500)


def test_history_opens_pages_and_deletes(open_page, scored, clip):
    job, report = scored
    page = open_page(f"#/jobs/{job['id']}")
    # A second job, so that there are two pages of one each.
    body = {"file": {"name": "other.mp4", "mimeType": "video/mp4", "buffer": clip.read_bytes()}, "frames": "6"}
    page.request.post("/v1/videos", multipart=body, timeout=SLOW)
    page.route(
        re.compile(r"/v1/jobs\?limit=20"), lambda route: route.continue_(url=route.request.url.replace("=20", "=1"))
    )
    page.get_by_role("tab", name="History").click()
    items = page.locator("#jobs > li")
    expect(items).to_have_count(1)
    expect(items.first).to_contain_text("other.mp4")
    while items.filter(has_text="onerror").count() == 0:
        count = items.count()
        page.get_by_role("button", name="Show older ones").click()
        expect(items).to_have_count(count + 1)
    hostile = items.filter(has_text="onerror").first
    # The name is text, and does not turn the direction of what follows.
    expect(hostile.get_by_role("heading")).to_have_text(STORED)
    assert hostile.locator("h3 bdi").count() == 1
    assert page.locator("#jobs img").count() == 0
    expect(hostile).to_contain_text(f"P(fake) {report['p_fake']:.2f}")
    with page.expect_download() as saved:
        hostile.get_by_role("button", name="Save as a page (HTML)").click()
    assert re.fullmatch(r"[\w .-]+\.html", saved.value.suggested_filename)
    hostile.get_by_role("button", name="Open").click()
    expect(headline(page)).to_be_visible()
    expect(page.locator("#result .file")).to_contain_text(STORED)
    page.go_back()
    # Deleting is asked about; the focus goes on to what is next.
    first = items.filter(has_text="other.mp4").first
    first.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete it?")
    dialog.get_by_role("button", name="Keep it").click()
    expect(first).to_be_visible()
    before = items.count()
    first.get_by_role("button", name="Delete").click()
    with page.expect_response(lambda answer: answer.request.method == "DELETE") as answered:
        dialog.get_by_role("button", name="Delete it").click()
    assert answered.value.status == 204
    expect(items).to_have_count(before - 1)
    expect(page.locator(":focus")).to_have_count(1)


def test_files_can_be_dropped_and_pasted(open_page):
    page = open_page()
    picture = list((SAMPLES / "no_face_coffee.jpg").read_bytes())
    send = """([kind, bytes]) => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], `${kind}.jpg`, { type: "image/jpeg" }));
        const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
            : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
        document.body.dispatchEvent(event); }"""
    for kind in ("drop", "paste"):
        page.evaluate(send, [kind, picture])
        expect(page.locator("#result")).to_contain_text(f"{kind}.jpg")
        expect(headline(page)).to_have_text("No face")


def test_live_camera(open_page):
    page = open_page()
    page.get_by_role("tab", name="Live").click()
    expect(page.get_by_role("tabpanel", name="Live")).to_contain_text("nothing is stored")
    page.get_by_role("button", name="Start the camera").click()
    live = page.locator("#live")
    expect(live).to_contain_text("Person 1")
    expect(live).to_contain_text("pictures a second")
    expect(live.get_by_role("img", name=re.compile(r"^P\(fake\) of the last .*: now 0\.\d\d"))).to_be_visible()
    expect(live.locator(".headline")).to_have_text(re.compile("^(Real|Fake|Inconclusive)$"))
    wait_until(page, lambda: drawn(page, "#live canvas") > 500)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("button", name="Start the camera")).to_be_focused()
    assert live.locator("video").evaluate(
        "video => video.srcObject.getTracks().every(one => one.readyState === 'ended')"
    )
    # Nothing of it is among the jobs.
    names = {job["name"] for job in page.request.get("/v1/jobs?limit=100").json()["jobs"]}
    assert not {name for name in names if "live" in name or "camera" in name}


def test_streams_of_the_operator(open_page):
    page = open_page("#/live")
    card = page.get_by_role("listitem").filter(has=page.get_by_role("heading", name="pan"))
    card.get_by_role("button", name="Start").click()
    expect(card).to_contain_text(re.compile(r"\d+ pictures read, \d+ scored"))
    # It goes on when the page is closed, and is still known when it is opened anew.
    page.reload()
    card.get_by_role("button", name="Stop").click()
    expect(card.get_by_role("button", name="Start")).to_be_visible()
    expect(card).to_contain_text("Stopped")
    assert all(stream["ended"] for stream in page.request.get("/v1/streams").json()["streams"])


def test_keyboard_and_screen_reader(open_page):
    page = open_page()
    for role, name in (("banner", None), ("main", None), ("contentinfo", None), ("tablist", "What to do")):
        expect(page.get_by_role(role, name=name) if name else page.get_by_role(role)).to_have_count(1)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Tab")
    check, live = page.get_by_role("tab", name="Check"), page.get_by_role("tab", name="Live")
    expect(check).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(live).to_be_focused()
    assert live.evaluate("tab => getComputedStyle(tab).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    expect(live).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("tabpanel", name="Live")).to_be_visible()
    expect(page.get_by_role("tabpanel", name="Check")).to_be_hidden()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    expect(check).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose a picture or a video", exact=True)).to_be_focused()
    assert page.locator("label[for=file]").evaluate("label => getComputedStyle(label).outlineStyle") == "solid"
    # Every control has a name.
    page.get_by_text("Options", exact=True).click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, video, img, [role]")]
        .filter((one) => !(one.labels?.length || one.textContent.trim() || one.ariaLabel || one.hasAttribute("alt")
            || one.hasAttribute("aria-labelledby") || one.id === "announcements")).map((one) => one.outerHTML)"""
    )
    assert nameless == []


CONTRASTS = """() => {
    const channel = (value) => (value <= 10.3 ? value / 3294.6 : ((value / 255 + .055) / 1.055) ** 2.4);
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const colour = parse(getComputedStyle(node).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node; (node = walker.nextNode()); ) {
        const parent = node.parentElement;
        if (!node.data.trim() || !parent.checkVisibility() || parent.closest("option")) continue;
        const style = getComputedStyle(parent);
        const levels = [light(parse(style.color)), light(behind(parent))].sort((a, b) => b - a);
        const size = parseFloat(style.fontSize);
        const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
        const ratio = (levels[0] + .05) / (levels[1] + .05);
        if (ratio < needed) found.push([node.data.trim().slice(0, 40), ratio]);
    }
    return found; }"""
"""Texts whose contrast is less than WCAG's level AA asks for."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_light_and_dark(open_page, scored, scheme):
    job, _ = scored
    phone = {
        "viewport": {"width": 360, "height": 740},
        "is_mobile": True,
        "has_touch": True,
        "reduced_motion": "reduce",
    }
    page = open_page(color_scheme=scheme, **phone)
    expect(page.locator("label[for=camera]")).to_have_text("Take a picture")
    expect(page.locator("label[for=camera]")).to_be_visible()
    ground = page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    assert page.locator("#drop").evaluate("one => getComputedStyle(one).transitionDuration") == "0s"
    for place in ("check", "live", "history", f"jobs/{job['id']}"):
        page.evaluate("place => { location.hash = `#/${place}`; }", place)
        if place == "history":
            expect(page.locator("#jobs > li").first).to_be_visible()
        if place.startswith("jobs"):
            expect(page.locator(".crops").first).to_be_visible()
            for fold in page.locator("#result summary").all():
                fold.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, place
        assert page.evaluate(CONTRASTS) == [], place


def test_answers_of_others_stay_text(open_page, scored):
    """Whatever a name or a reason holds, it makes no element, and nothing is fetched for it."""
    job, report = scored
    page = open_page()
    evil = '<img src="/evil"><script>alert(1)</script>\u202e'
    people = [{**person, "reason": evil} for person in report["people"]]
    changed = {**report, "reason": evil, "people": people, "model": {**report["model"], "name": evil}}
    crop = {"kind": "most", "frame": 0, "time": 0.0, "person": 1, "box": [0, 0, 9, 9], "p_fake": 0.5, "verdict": evil}
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.route("**/report", lambda route: route.fulfill(json=changed))
    page.route(
        "**/crops", lambda route: route.fulfill(json={"crops": [{**crop, "crop": "/evil", "heat": "javascript:0"}]})
    )
    page.evaluate("id => { location.hash = `#/jobs/${id}`; }", job["id"])
    expect(page.locator("#result .verdict")).to_contain_text('<img src="/evil"><script>alert(1)</script>\\u202e')
    expect(page.locator("#result .crops")).to_contain_text("no picture")
    assert page.locator("#result img, #result script").count() == 0
    assert not [url for url in asked if "evil" in url]


# The last one: from then on, this service wants a token.
def test_token_is_asked_for_and_kept_in_this_tab(open_page, state):
    secret = re.search(r"ff_\S+", token(state, "create", "newsroom"))[0]
    page = open_page("#/history", statuses=(401,))
    dialog = page.get_by_role("dialog", name="Access token")
    expect(dialog).to_contain_text("answers only with an access token")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert")).to_contain_text("a token is needed")
    page.get_by_role("button", name="Try again").click()
    dialog.get_by_label("Token").fill("ff_wrong")
    dialog.get_by_role("button", name="Use this token").click()
    expect(dialog).to_contain_text("does not accept this token")
    dialog.get_by_label("Token").fill(secret)
    page.keyboard.press("Enter")
    expect(page.locator("#history-empty")).to_be_visible()  # the jobs so far belong to nobody with a token
    assert page.evaluate("[Object.values(sessionStorage), Object.values(localStorage), document.cookie]") == [
        [secret],
        [],
        "",
    ]
    # Uploads and cameras carry it too.
    page.get_by_role("tab", name="Check").click()
    give(page, SAMPLES / "no_face_coffee.jpg")
    expect(headline(page)).to_have_text("No face")
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("button", name="Start the camera").click()
    expect(page.locator("#live")).to_contain_text("Person 1")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Access token").click()
    dialog.get_by_role("button", name="Forget the token").click()
    page.wait_for_function("Object.values(sessionStorage).length === 0")
    page.get_by_role("button", name="Start the camera").click()
    expect(dialog).to_be_visible()
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("alert").first).to_contain_text("a token is needed")
