"""`fakeface score` on several videos and `fakeface verify`, as people and programs use them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fakeface_jax.cli.main import main
from fakeface_jax.video.report.video_report import FRAME_COLUMNS

CLIP = Path(__file__).parent.parent / "samples" / "real_collins_pan.mp4"


@pytest.fixture
def clips(tmp_path):
    """Two videos of the same name in two folders, and one that is none."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    shutil.copy(CLIP, tmp_path / "a" / "clip.mp4")
    (tmp_path / "b" / "clip.mp4").write_bytes(CLIP.read_bytes() + b"\0" * 16)
    (tmp_path / "broken.mp4").write_bytes(b"\0" * 2000)
    return tmp_path


@pytest.fixture
def score(tiny_bundle, capfd):
    def call(*words, command="score"):
        code = main([command, *map(str, words), "--model", str(tiny_bundle)])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def test_one_failure_never_stops_the_rest_and_the_summary_has_all(score, clips):
    code, out, err = score(clips / "a" / "clip.mp4", clips / "broken.mp4", clips / "b" / "clip.mp4", "--frames", 6)
    assert code == 3
    assert "3 inputs: 1 error, 2 inconclusive" in out
    assert "because" in out
    assert "person 1" in out
    assert "broken.mp4" in err


def test_parquet_and_csv_hold_the_same_rows(score, clips):
    for name in ("faces.csv", "faces.parquet"):
        assert score(clips / "a" / "clip.mp4", "--frames", 6, "--frame-table", clips / name)[0] == 0
    table = pq.read_table(clips / "faces.parquet")
    assert tuple(table.schema.names) == FRAME_COLUMNS
    with (clips / "faces.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = table.to_pylist()
    assert len(rows) == len(columns) == 6
    for row, other in zip(rows, columns, strict=True):
        assert int(row["index"]) == other["index"]
        assert int(row["person"]) == other["person"] == 1
        assert float(row["logit"]) == pytest.approx(other["logit"])
        assert row["verdict"] == other["verdict"]


def test_resume_skips_what_is_done_and_nothing_else(score, clips):
    reports = clips / "reports"
    words = (clips / "a" / "clip.mp4", "--frames", 6, "--reports", reports)
    assert score(*words)[0] == 0
    (first,) = reports.iterdir()
    before = first.stat().st_mtime_ns
    code, out, err = score(
        clips / "a" / "clip.mp4", clips / "b" / "clip.mp4", *words[1:], "--resume", "--format", "jsonl"
    )
    assert code == 0
    assert err.count("has a report already") == 1
    records = [json.loads(line) for line in out.splitlines()]
    assert [Path(record["input"]).parent.name for record in records] == ["a", "b"]
    assert records[0] == json.loads(first.read_text())
    assert first.stat().st_mtime_ns == before
    assert len(list(reports.iterdir())) == 2
    # Other settings, other bytes, a damaged report: scored again.
    assert "not scored again" not in score(*words, "--resume", "--rule", "worst_window")[2]
    assert "not scored again" not in score(words[0], "--frames", 7, *words[3:], "--resume")[2]
    first.write_text("{")
    assert "has a report already" not in score(*words, "--resume")[2]
    (clips / "a" / "clip.mp4").write_bytes(CLIP.read_bytes() + b"\0")
    assert "has a report already" not in score(*words, "--resume")[2]


def test_resume_without_reports_is_refused(score, clips):
    code, _, err = score(clips / "a" / "clip.mp4", "--resume")
    assert code == 2
    assert "--resume needs --reports" in err


def test_an_unknown_rule_is_refused_before_scoring(score, clips):
    code, _, err = score(clips / "a" / "clip.mp4", "--rule", "best")
    assert code == 2
    assert "known: worst_person, worst_window" in err


def test_verify_says_whether_a_report_is_reproduced(score, clips):
    report = clips / "report.json"
    video = clips / "a" / "clip.mp4"
    assert score(video, "--frames", 6, "--format", "json", "--output", report)[0] == 0
    code, out, _ = score(report, video, command="verify")
    assert code == 0
    assert out.startswith("reproduced: ")
    assert "6 faces in 6 frames" in out
    code, out, _ = score(report, clips / "b" / "clip.mp4", command="verify")
    assert code == 1
    assert "is not about the bytes of" in out
    record = json.loads(report.read_text())
    record[0]["frames"][0]["faces"][0]["logit"] += 1.0
    report.write_text(json.dumps(record))
    code, out, _ = score(report, video, command="verify")
    assert code == 1
    assert "not reproduced" in out


def test_verify_refuses_another_model(score, clips):
    report, video = clips / "report.json", clips / "a" / "clip.mp4"
    assert score(video, "--frames", 6, "--format", "json", "--output", report)[0] == 0
    record = json.loads(report.read_text())
    record[0]["model"]["id"] = "0" * 64
    report.write_text(json.dumps(record))
    code, _, err = score(report, video, command="verify")
    assert code == 2
    assert "name the report's model with --model" in err


def test_pages_are_written_for_each_video(score, clips):
    code, _, _ = score(clips / "a" / "clip.mp4", clips / "b" / "clip.mp4", "--frames", 6, "--html", clips / "pages")
    assert code == 0
    pages = sorted((clips / "pages").iterdir())
    assert [page.name for page in pages] == ["clip-scored-2.html", "clip-scored.html"]
    text = pages[0].read_text(encoding="utf-8")
    assert text.lower().startswith("<!doctype html>")
    assert "http://" not in text.replace("http://www.w3.org/", "")


def test_the_answer_of_verify_is_its_exit_code_whoever_reads_it(score, clips, tiny_bundle):
    report, video = clips / "report.json", clips / "a" / "clip.mp4"
    assert score(video, "--frames", 6, "--format", "json", "--output", report)[0] == 0
    record = json.loads(report.read_text())
    report.write_text(json.dumps([record[0] | {"verdict": "fake", "reason": "P(fake) 0.999 reaches 0.855"}]))
    words = [str(Path(sys.executable).with_name("fakeface")), "verify", str(report), str(video)]
    words += ["--model", str(tiny_bundle)]
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")
