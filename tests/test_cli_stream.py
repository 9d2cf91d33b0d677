"""`fakeface stream` as people and programs use it: against a camera on this machine, and its webhook and evidence."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from mjpeg_server import MjpegServer
from PIL import Image

from fakeface_jax.cli.main import main
from fakeface_jax.cli.stream_alerts import QUEUE, Webhook, save_evidence
from fakeface_jax.errors import ConfigError
from fakeface_jax.video.live.scorer import Evidence

FAKEFACE = Path(sys.executable).with_name("fakeface")
SECRET = "hunter2"


class Receiver:
    """Takes alerts, and answers with the statuses that the test lists; the last one is repeated."""

    def __init__(self, *statuses):
        self.statuses, self.got, self.headers = list(statuses), [], []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, json.loads(body)))
                receiver.headers.append(self.headers)
                status = receiver.statuses.pop(0) if len(receiver.statuses) > 1 else receiver.statuses[0]
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815 - what a redirect would lead to

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook/{SECRET}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def sure_bundle(tiny_bundle, tmp_path_factory):
    """The tiny model, with a calibration by which everybody is fake."""
    import dataclasses

    from fakeface_jax.bundle import load_bundle, save_bundle
    from fakeface_jax.decision import Calibration

    tiny = load_bundle(tiny_bundle)
    spec = dataclasses.replace(tiny.spec, calibration=Calibration(scale=1e-3, bias=5.0))
    path = tmp_path_factory.mktemp("bundle") / "sure"
    save_bundle(path, spec, tiny.weights, card="A test bundle.\n")
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory, face_picture):
    """4 seconds at 10 per second: a photograph with one face."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    picture = cv2.cvtColor(face_picture[:256, 96:352], cv2.COLOR_RGB2BGR)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (256, 256))
    for _ in range(40):
        writer.write(picture)
    writer.release()
    return path


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_a_fake_file_is_told_saved_and_posted(clip, sure_bundle, tmp_path, capfd):
    with Receiver(200) as receiver:
        words = ["stream", str(clip), "--format", "jsonl", "--mode", "lossless", "--hold", "1"]
        words += ["--alert-url", receiver.url, "--save-evidence", str(tmp_path / "evidence")]
        code = main([*words, "--model", str(sure_bundle)])
    out, err = capfd.readouterr()
    assert (code, err) == (0, "")
    records = lines(out)
    summary = records[-1]
    assert (summary["type"], summary["verdict"], summary["input"]) == ("summary", "fake", str(clip))
    assert summary["counters"]["read"] == summary["counters"]["scored"] == 40
    assert summary["alerts"] == {"sent": 1, "evidence_saved": 1, "evidence_failed": 0, "delivered": 1, "failed": 0}
    states = [record["state"] for record in records if record["type"] == "state"]
    assert states == ["connecting", "live", "ended"]
    assert [record["person"] for record in records if record["type"] == "verdict"] == [1, None]
    assert sum(record["type"] == "second" for record in records) >= 3
    (alert,) = [record for record in records if record["type"] == "alert"]
    assert alert["time"] == pytest.approx(2.0, abs=0.21)  # a second of evidence, a second of patience
    assert [body for _, body in receiver.got] == [alert]
    (folder,) = (tmp_path / "evidence").iterdir()
    assert str(folder) == alert["evidence"]
    saved = json.loads((folder / "alert.json").read_text())
    assert 1 <= len(saved["faces"]) <= 5
    assert {face["file"] for face in saved["faces"]} | {"alert.json"} == {path.name for path in folder.iterdir()}
    crop = np.asarray(Image.open(folder / saved["faces"][0]["file"]))
    assert crop.shape == (64, 64, 3)
    assert crop.std() > 20
    told = out + json.dumps(receiver.got) + (folder / "alert.json").read_text()
    assert SECRET not in told.replace(receiver.got[0][0], "")


def test_a_camera_in_text_and_a_stop_after_seconds(sure_bundle, face_picture, capfd):
    with MjpegServer(fps=10, size=(256, 256), picture=face_picture[:256, 96:352]) as server:
        address = server.url.replace("http://", f"http://admin:{SECRET}@") + f"?key={SECRET}"
        words = ["stream", address, "--hold", "0", "--seconds", "3"]
        code = main([*words, "--model", str(sure_bundle)])
    out, err = capfd.readouterr()
    assert (code, err) == (0, "")
    assert SECRET not in out
    assert "the stream: inconclusive -> fake" in out
    assert "-- live" in out
    assert "http://***@127.0.0.1:" in out
    assert any("person 1 P(fake) 0.99" in line and "read" in line for line in out.splitlines())


def test_signals_end_it_with_a_summary(sure_bundle, face_picture):
    with MjpegServer(fps=10, size=(256, 256), picture=face_picture[:256, 96:352]) as server:
        words = [str(FAKEFACE), "stream", server.url, "--format", "jsonl"]
        process = subprocess.Popen(
            [*words, "--model", str(sure_bundle)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        read = []
        for line in process.stdout:
            read.append(json.loads(line))
            if read[-1]["type"] == "second":
                process.send_signal(signal.SIGTERM)
                break
        out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == ""
    records = read + lines(out)
    counters = records[-1]["counters"]
    assert records[-1]["type"] == "summary"
    assert counters["waiting"] == 0
    assert counters["read"] == counters["scored"] + sum(counters["skipped"].values())


# In a process of its own: a signal to the process of the tests reaches whatever thread of it, of any library.
INTERRUPTED = """
import signal
from fakeface_jax.cli.stream_command import _signals_that_stop

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts with Ctrl-C ignored
with _signals_that_stop() as stop:
    print(stop.signum)
    signal.raise_signal(signal.SIGINT)
    print(stop.signum == signal.SIGINT)
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        print("interrupted")
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_ctrl_c_stops_the_loop_and_a_second_one_everything():
    process = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (process.stdout.split(), process.stderr) == (["0", "True", "interrupted", "True"], "")


def test_a_source_that_never_answers_is_an_exit_code(tiny_bundle, capfd):
    address = f"http://a:{SECRET}@127.0.0.1:9/live"
    words = ["stream", address, "--give-up", "1", "--model", str(tiny_bundle)]
    assert main(words) == 4
    out, err = capfd.readouterr()
    assert "could not be opened" in out
    assert "no picture was received" in err
    assert SECRET not in out + err


@pytest.mark.parametrize(
    "words",
    [
        [f"rtmp://a:{SECRET}@c/live"],
        [f"rtsp://a:{SECRET}@c/1", f"rtsp://a:{SECRET}@c/2"],
        [],
        ["missing.mp4"],
        ["0", "--alert-url", f"ftp://a:{SECRET}@c/x"],
        ["0", "--alert-url", f"https://[{SECRET}/x"],
        ["0", "--alert-url", f"https:///x?{SECRET}"],
        ["0", "--window", "1"],
        ["0", "--seconds", "0"],
        ["0", "--save-evidence", f"{__file__}/x"],
    ],
)
def test_wrong_settings_are_refused_before_anything_is_opened(words, capfd):
    assert main(["stream", *words]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("fakeface: ")
    assert SECRET not in err
    assert err.count("\n") == 1


def test_show_needs_a_screen(tiny_bundle, clip, monkeypatch, capfd):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert main(["stream", str(clip), "--show", "--model", str(tiny_bundle)]) == 2
    assert "needs a screen" in capfd.readouterr().err


def test_show_draws_what_was_scored(sure_bundle, clip, monkeypatch, capfd):
    shown = []
    monkeypatch.setenv("DISPLAY", ":77")
    monkeypatch.setattr(cv2, "imshow", lambda title, image: shown.append((title, image.shape)))
    monkeypatch.setattr(cv2, "waitKey", lambda _: ord("q") if len(shown) == 3 else -1)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: shown.append("closed"))
    words = ["stream", str(clip), "--show", "--model", str(sure_bundle)]
    assert main(words) == 0
    assert shown == [(str(clip), (256, 256, 3))] * 3 + ["closed"]
    assert "clip.avi: inconclusive" in capfd.readouterr().out


# ---- the webhook


def wait_until(met, seconds=10.0):
    end = time.monotonic() + seconds
    while not met() and time.monotonic() < end:
        time.sleep(0.01)
    assert met()


def test_a_webhook_is_tried_again_and_failures_are_counted_and_told():
    told = []
    with Receiver(500, 429, 200) as receiver, Webhook(receiver.url, tell=told.append, pause=0.01) as webhook:
        webhook.send({"number": 1})
        wait_until(lambda: webhook.delivered == 1)
        assert len(receiver.got) == 3
        receiver.statuses = [404]
        webhook.send({"number": 2})
        wait_until(lambda: webhook.failed == 1)
        assert len(receiver.got) == 4  # a refusal is not repeated
        receiver.statuses = [302]
        webhook.send({"number": 3})
        wait_until(lambda: webhook.failed == 2)
        assert {path for path, _ in receiver.got} == {f"/hook/{SECRET}"}  # nor is a redirect followed
    assert len(told) == 2
    assert "status 404" in told[0]
    assert not [line for line in told if SECRET in line]


def test_a_webhook_never_holds_up_and_its_queue_is_bounded():
    told = []
    with MjpegServer() as silent:
        silent.mode = "silent"
        hook = Webhook(silent.url.replace("http://", f"http://me:{SECRET}@"), tell=told.append, pause=0.01)
        began = time.monotonic()
        for number in range(QUEUE + 10):
            hook.send({"number": number})
        assert time.monotonic() - began < 1.0
        assert hook.failed >= 9
        hook.close(patience=0.2)
        assert time.monotonic() - began < 3.0
    assert hook.delivered + hook.failed == QUEUE + 10
    assert "dropped" in told[0]
    assert not [line for line in told if SECRET in line]


def test_a_webhook_gets_user_and_password_as_a_header():
    with Receiver(200) as receiver:
        address = receiver.url.replace("http://", "http://me:p%40ss@")
        with Webhook(address, tell=print) as webhook:
            webhook.send({"number": 1})
            wait_until(lambda: webhook.delivered == 1)
    assert receiver.headers[0]["Authorization"] == "Basic bWU6cEBzcw=="
    assert receiver.headers[0]["Content-Type"] == "application/json"


@pytest.mark.parametrize("address", [f"file:///{SECRET}", "", f"http://a:{SECRET}@/x", f"http://c:{SECRET}/x", SECRET])
def test_other_webhooks_are_refused_without_their_secrets(address):
    with pytest.raises(ConfigError) as refused:
        Webhook(address, tell=print)
    assert SECRET not in str(refused.value)


def test_two_alerts_of_a_second_have_folders_of_their_own(tmp_path):
    crop = np.zeros((8, 8, 3), np.uint8)
    face = Evidence(crop=crop, logit=1.0, time=2.0, frame=7, box=(0.0, 0.0, 8.0, 8.0))
    record = {"utc": "2026-01-01T00:00:00Z", "input": "camera 0"}
    folders = [save_evidence(tmp_path / "made", record, {1: [face]}) for _ in range(2)]
    assert [folder.name for folder in folders] == ["2026-01-01T000000Z", "2026-01-01T000000Z-2"]
    assert (folders[0] / "person-1-frame-7.png").is_file()
    assert json.loads((folders[1] / "alert.json").read_text())["faces"][0]["person"] == 1
