"""Reports read again: against the schema, against a new scoring, and against damage."""

import copy
import json
import re
from pathlib import Path

import jsonschema
import pytest

import fakeface_jax.video.report.video_report
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.detectors import create_detector
from fakeface_jax.errors import DataError, OpenError
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.report.verification import compare, read_reports
from fakeface_jax.video.report.video_report import FRAME_COLUMNS, SUMMARY_COLUMNS, ErrorRecord
from fakeface_jax.video.scoring import score_image, score_video

SAMPLES = Path(__file__).parent.parent / "samples"
CLIP = SAMPLES / "real_collins_pan.mp4"


@pytest.fixture(scope="module")
def schema():
    path = Path(fakeface_jax.video.report.video_report.__file__).with_name("report.schema.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


@pytest.fixture(scope="module")
def classifier(tiny_bundle):
    return FaceClassifier.load(tiny_bundle)


@pytest.fixture(scope="module")
def report(classifier):
    return score_video(classifier, create_detector(), CLIP, Sampling(fps=3))


@pytest.fixture
def saved(report, tmp_path):
    def save(change=lambda record: record):
        path = tmp_path / "report.json"
        path.write_text(json.dumps(change(json.loads(json.dumps(report.to_dict())))))
        return path

    return save


def test_every_kind_of_record_fits_the_schema(schema, classifier, report):
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    picture = score_image(classifier, create_detector(), SAMPLES / "real_collins.jpg").to_dict()
    empty = score_image(classifier, create_detector(), SAMPLES / "no_face_coffee.jpg").to_dict()
    for record in (plain, picture, empty, ErrorRecord(input="a.mp4", error="a.mp4: empty").to_dict()):
        schema.validate(json.loads(json.dumps(record)))


@pytest.mark.parametrize(
    ("place", "value"),
    [(("verdict",), "maybe"), (("p_fake",), 1.5), (("media", "sha256"), "abc"), (("format",), 1), (("extra",), 0)],
)
def test_the_schema_refuses_what_is_no_report(schema, report, place, value):
    record = json.loads(json.dumps(report.to_dict()))
    inner = record
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    assert not schema.is_valid(record)


def test_a_report_is_reproduced(report, classifier, saved):
    (old,) = read_reports(saved())
    new = score_video(classifier, create_detector(), CLIP, old.sampling, rule=old.record["aggregation"])
    found = compare(old, new)
    assert found.reproduced
    assert found.faces == report.evidence.faces_scored > 5
    assert found.largest_logit_difference <= 1e-4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r | {"verdict": "fake"}, "verdict was 'fake'"),
        (lambda r: r | {"p_fake": 0.01}, "p_fake was 0.01"),
        (lambda r: r | {"frames": r["frames"][1:]}, "frames was"),
        (lambda r: r | {"media": r["media"] | {"sha256": "0" * 64}}, "another video"),
        (lambda r: r | {"bands": r["bands"] | {"fake_from": 0.999}}, "bands.fake_from was"),
        (lambda r: _with_face(r, logit=9.0), "logit was 9"),
        (lambda r: r | {"people": []}, "people was"),
        (lambda r: r | {"reason": "it is all true"}, "reason was"),
        (lambda r: r | {"reason": re.sub(r"P\(fake\) [0-9.]+", "P(fake) 0.999", r["reason"])}, "reason was"),
        (lambda r: r | {"settings": r["settings"] | {"detect_every": 5.0}}, "settings.detect_every was 5, is 0.2"),
        (lambda r: r | {"people": [r["people"][0] | {"verdict": "real"}]}, r"people\[0\].verdict was 'real'"),
        (lambda r: r | {"evidence": r["evidence"] | {"faces_scored": 99}}, "evidence.faces_scored was 99"),
        (lambda r: _with_face(r, p_fake=0.99), "p_fake was 0.99"),
        (lambda r: _with_face(r, person=7), "person was 7"),
        (lambda r: _with_face(r, box=[0, 0, 5, 5]), "box\\[0\\] was 0"),
    ],
)
def test_a_changed_report_is_not_reproduced(report, saved, change, says):
    (old,) = read_reports(saved(change))
    found = compare(old, report)
    assert not found.reproduced
    with pytest.raises(AssertionError, match=says):
        raise AssertionError("; ".join(found.differences))


def _with_face(record, **changes):
    record = copy.deepcopy(record)
    frame = next(frame for frame in record["frames"] if frame["faces"])
    frame["faces"][0] |= changes
    return record


def test_rows_of_a_saved_report_are_those_of_the_report(report, saved):
    (old,) = read_reports(saved())
    assert old.summary_row() == report.summary_row()
    assert set(old.summary_row()) == set(SUMMARY_COLUMNS)
    rows = json.loads(json.dumps(report.frame_rows()))
    assert json.loads(json.dumps(old.frame_rows())) == rows
    assert all(set(row) == set(FRAME_COLUMNS) for row in rows)


def test_reports_come_alone_in_arrays_and_in_lines(report, tmp_path):
    one = json.dumps(report.to_dict())
    error = json.dumps({"input": "x", "error": "x: empty"})
    for text, count in ((one, 1), (f"[{one}, {error}, {one}]", 2), (f"{one}\n{error}\n\n{one}\n", 2)):
        path = tmp_path / "reports"
        path.write_text(text)
        assert len(read_reports(path)) == count


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no report of a video"),
        ("{", "is no JSON"),
        ("[" * 100000, "is no JSON"),
        ("3", "no report of a video"),
        ('{"kind": "image"}', "no report of a video"),
        ('{"kind": "video", "format": 1}', "report format 1, this release reads 2"),
        ('{"kind": "video", "format": 2}', "is not a whole report"),
        ('{"kind": "video", "format": 2, "p_fake": NaN}', "NaN is no number"),
        ('{"kind": "video", "format": 2, "sampling": {"fps": -1}}', "is not a whole report"),
    ],
)
def test_what_is_no_report_is_said(tmp_path, text, says):
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        read_reports(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r | {"p_fake": "0.5"},
        lambda r: r | {"aggregation": [1]},
        lambda r: r | {"detector": 5},
        lambda r: _with_face(r, logit="x"),
        lambda r: _with_face(r, box=[10**400] * 4),
        lambda r: r | {"frames": [{"faces": []}]},
        lambda r: {key: value for key, value in r.items() if key != "evidence"},
        lambda r: r | {"sampling": r["sampling"] | {"fps": 1, "every": 1}},
    ],
)
def test_a_damaged_report_is_said(saved, change):
    with pytest.raises(DataError, match="is not a whole report"):
        read_reports(saved(change))


def test_a_missing_report_is_said(tmp_path):
    with pytest.raises(OpenError, match="cannot be read"):
        read_reports(tmp_path / "none.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OpenError, match="it is no text"):
        read_reports(tmp_path / "binary")
