import csv
import io
import json

import pytest

from fakeface_jax.decision import OperatingPoint, VerdictBands
from fakeface_jax.labels import Verdict
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.report.video_report import (
    FRAME_COLUMNS,
    SUMMARY_COLUMNS,
    ErrorRecord,
    Evidence,
    FaceRecord,
    FrameRecord,
    ImageReport,
    Media,
    Model,
    StageSeconds,
    VideoReport,
)

MODEL = Model(
    name="tiny",
    id="ab" * 32,
    calibration="platt",
    detector="centerface",
    trained_with_detector="centerface",
    bands=VerdictBands(real_below=0.2, fake_from=0.8, reason="by hand"),
    operating_points=(
        OperatingPoint(kind="fpr", rate=0.05, threshold=0.8, rate_low=0.04, rate_high=0.06, split="valid", samples=900),
    ),
)


def face(p_fake: float | None, logit: float | None, left: float = 10.0) -> FaceRecord:
    verdict = Verdict.INCONCLUSIVE if p_fake is None else MODEL.bands.decide(p_fake)
    box = (left, 20.0, left + 50.0, 80.5)
    return FaceRecord(box=box, p_fake=p_fake, verdict=verdict, confidence=0.9, logit=logit)


def video_report() -> VideoReport:
    frames = (
        FrameRecord(index=0, time=0.0, faces=(face(0.9, 2.2), face(None, None, left=90))),
        FrameRecord(index=15, time=0.5, faces=()),
        FrameRecord(index=30, time=1.0, faces=tuple(face(0.5 + n / 100, n / 25) for n in range(7))),
    )
    evidence = Evidence(
        faces_scored=8, frames_sampled=3, frames_with_face=2, seconds=1.03, faces_too_small=1, frames_dropped=4
    )
    media = Media(sha256="cd" * 32, width=640, height=480, fps=30.0, frames=31, frames_stated=35, duration=1.03)
    return VideoReport(
        input="clip ü.mp4",
        verdict=Verdict.INCONCLUSIVE,
        p_fake=0.6,
        reason="",
        frames=frames,
        evidence=evidence,
        media=media,
        sampling=Sampling(fps=2),
        model=MODEL,
        aggregation="mean_of_logits",
        seconds=StageSeconds(open=0.5, decode=1.0, detect=2.0, classify=1.0, aggregate=0.5),
        frames_read=31,
    )


def image_report(*faces: FaceRecord) -> ImageReport:
    p_fake = max((one.p_fake for one in faces if one.p_fake is not None), default=None)
    return ImageReport(
        input="a.jpg",
        verdict=Verdict.NO_FACE if p_fake is None else MODEL.bands.decide(p_fake),
        p_fake=p_fake,
        reason="",
        faces=faces,
        media=Media(sha256=None, width=200, height=100),
        model=MODEL,
        seconds=StageSeconds(),
    )


def test_video_record_is_json_with_the_keys_of_the_contract():
    record = json.loads(json.dumps(video_report().to_dict(), allow_nan=False))
    assert list(record)[:6] == ["input", "kind", "format", "verdict", "p_fake", "reason"]
    assert record["input"] == "clip ü.mp4"
    assert (record["verdict"], record["p_fake"]) == ("inconclusive", 0.6)
    assert record["operating_points_fitted_on"] == "single faces"
    assert record["operating_points"][0]["threshold"] == 0.8
    assert record["bands"] == {"real_below": 0.2, "fake_from": 0.8, "reason": "by hand"}
    assert record["model"]["id"] == "ab" * 32
    assert record["media"]["sha256"] == "cd" * 32
    assert record["evidence"]["frames_dropped"] == 4
    assert record["sampling"] == {"fps": 2, "every": None, "frames": None, "faces": None, "start": None, "end": None}
    assert record["seconds"]["total"] == pytest.approx(5.0)
    assert record["fps"] == pytest.approx(31 / 5)
    assert [(frame["index"], len(frame["faces"])) for frame in record["frames"]] == [(0, 2), (15, 0), (30, 7)]
    assert record["frames"][0]["faces"][0]["box"] == [10.0, 20.0, 60.0, 80.5]


def test_video_record_lists_the_five_most_suspicious_faces():
    faces = video_report().to_dict()["faces"]
    assert [one["p_fake"] for one in faces] == [0.9, 0.56, 0.55, 0.54, 0.53]
    assert [(one["frame"], one["time"]) for one in faces] == [(0, 0.0)] + [(30, 1.0)] * 4


def test_image_record():
    record = json.loads(json.dumps(image_report(face(0.1, -2.2), face(0.9, 2.2)).to_dict(), allow_nan=False))
    assert (record["verdict"], record["p_fake"], record["kind"]) == ("fake", 0.9, "image")
    assert [one["verdict"] for one in record["faces"]] == ["real", "fake"]
    empty = image_report().to_dict()
    assert (empty["verdict"], empty["p_fake"], empty["faces"]) == ("no_face", None, [])


def test_error_record_has_nothing_but_input_and_error():
    assert ErrorRecord(input="x", error="x: no such file").to_dict() == {"input": "x", "error": "x: no such file"}


def test_rows_have_the_stated_columns():
    reports = (video_report(), image_report(face(0.9, 2.2)), ErrorRecord(input="x", error="gone"))
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, SUMMARY_COLUMNS)
    writer.writeheader()
    for report in reports:
        row = report.summary_row()
        assert tuple(row) == SUMMARY_COLUMNS
        writer.writerow(row)  # raises for a column that is not stated
    lines = list(csv.DictReader(io.StringIO(sheet.getvalue())))
    assert [line["verdict"] for line in lines] == ["inconclusive", "fake", ""]
    assert [line["faces"] for line in lines] == ["9", "1", ""]
    assert lines[2]["error"] == "gone"


def test_frame_rows_are_one_per_face_and_one_for_a_frame_without():
    rows = video_report().frame_rows()
    assert all(set(row) == set(FRAME_COLUMNS) for row in rows)
    assert [(row["index"], row["face"]) for row in rows] == [(0, 0), (0, 1), (15, None)] + [(30, n) for n in range(7)]
    assert rows[0]["x1"] == 60.0
    assert rows[1]["p_fake"] is None
    assert rows[2]["verdict"] == "no_face"
