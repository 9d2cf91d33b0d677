"""Faces of clips as pictures, and the table that a manifest is merged from."""

from __future__ import annotations

import csv
import shutil

import cv2
import pytest
from conftest import REPOSITORY

from fakeface_jax.errors import DataError
from fakeface_jax.video.reading import stills
from fakeface_jax.video.reading.stills import COLUMNS, extract_stills

FRAMES = 3


def _table(path, *rows: dict[str, str]):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _read(directory) -> list[dict[str, str]]:
    with (directory / "stills.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def clips(tmp_path):
    """A folder with a readable clip, one that is none, and their table."""
    place = tmp_path / "clips"
    (place / "real").mkdir(parents=True)
    shutil.copy(REPOSITORY / "samples" / "real_collins_pan.mp4", place / "real" / "pan.mp4")
    (place / "real" / "text.mp4").write_text("no clip\n" * 50)
    shared = {"label": "real", "source": "nasa", "method": "", "group": "collins"}
    return _table(place / "clips.csv", {"path": "real/text.mp4"} | shared, {"path": "real/pan.mp4"} | shared)


@pytest.fixture
def no_decoding(monkeypatch):
    def fail(path):
        raise AssertionError(f"{path} was opened")

    return lambda: monkeypatch.setattr(stills, "open_video", fail)


def test_the_table_names_every_picture_with_what_is_known_of_its_clip(clips, tmp_path, caplog):
    progress = []
    output = tmp_path / "stills"
    count = extract_stills([clips], output, frames=FRAMES, progress=lambda *done: progress.append(done))
    rows = _read(output)
    assert count == len(rows) == FRAMES
    assert list(rows[0]) == list(COLUMNS)
    for row in rows:
        assert row["path"].startswith("pan-")
        assert {**row, "path": ""} == {
            "path": "",
            "label": "real",
            "source": "nasa",
            "method": "",
            "group": "collins",
            "clip": row["path"].rsplit("_", 1)[0],
        }
        picture = cv2.imread(str(output / row["path"]))
        assert picture.shape[0] == picture.shape[1] > 50
    assert len({row["path"] for row in rows}) == FRAMES
    assert sorted(path.name for path in output.glob("*.png")) == [row["path"] for row in rows]
    # The one that cannot be read is left out and told.
    assert "left out" in caplog.text
    assert "text.mp4" in caplog.text
    assert progress[-1] == (2, 2)


def test_a_face_is_found_again_in_its_still(clips, tmp_path):
    from fakeface_jax.detectors import create_detector

    extract_stills([clips], tmp_path / "stills", frames=1)
    (row,) = _read(tmp_path / "stills")
    picture = cv2.cvtColor(cv2.imread(str(tmp_path / "stills" / row["path"])), cv2.COLOR_BGR2RGB)
    (face,) = create_detector().detect(picture)
    x0, y0, x1, y1 = face.box
    assert abs((x0 + x1) / 2 - picture.shape[1] / 2) < 0.2 * picture.shape[1]
    assert 0.3 < max(x1 - x0, y1 - y0) / len(picture) < 0.9


def test_a_clip_whose_pictures_are_there_is_not_decoded_again(clips, tmp_path, no_decoding):
    table = _table(clips.with_name("one.csv"), {"path": "real/pan.mp4", "label": "real", "source": "nasa"})
    first = extract_stills([table], tmp_path / "stills", frames=FRAMES)
    before = _read(tmp_path / "stills")
    no_decoding()
    assert extract_stills([table], tmp_path / "stills", frames=FRAMES) == first == FRAMES
    assert _read(tmp_path / "stills") == before


def test_a_clip_that_says_no_group_is_a_group_of_its_own(clips, tmp_path):
    table = _table(clips.with_name("one.csv"), {"path": "real/pan.mp4", "label": "fake", "source": "nasa"})
    extract_stills([table], tmp_path / "stills", frames=1)
    (row,) = _read(tmp_path / "stills")
    assert (row["label"], row["method"], row["group"]) == ("fake", "", row["clip"])


def test_a_table_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        extract_stills([tmp_path / "absent.csv"], tmp_path / "stills")


@pytest.mark.parametrize("column", ["path", "label", "source"])
def test_a_table_that_lacks_a_column_is_told(tmp_path, column):
    row = {"path": "a.mp4", "label": "real", "source": "nasa"}
    del row[column]
    with pytest.raises(DataError, match=f"lacks the column {column}"):
        extract_stills([_table(tmp_path / "clips.csv", row)], tmp_path / "stills")


def test_a_table_without_rows_is_told(tmp_path):
    (tmp_path / "clips.csv").write_text("path,label,source\n")
    with pytest.raises(DataError, match=r"clips\.csv"):
        extract_stills([tmp_path / "clips.csv"], tmp_path / "stills")
