"""Faces of labelled clips as pictures, so that what trains on faces learns from video too.

Of every clip some frames, evenly spread; of every frame the largest face with as much around it again, stored without
loss. The table beside the pictures is a `csv:` source of `fakeface data merge`; a clip's group is its pictures' group,
so that no person and no original is ever split.

Example:
    >>> count = extract_stills(["clips.csv"], "runs/stills", frames=6)
"""

from __future__ import annotations

import csv
import glob
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2

from fakeface_jax.detectors import create_detector
from fakeface_jax.errors import DataError, MediaError
from fakeface_jax.features.views import face_square
from fakeface_jax.video.reading.opencv import open_video
from fakeface_jax.video.reading.sampling import Sampling

_log = logging.getLogger(__name__)

AROUND = 2.0
"""Side of the stored square relative to the face: more than any crop needs, for the detector to find it again."""

COLUMNS = ("path", "label", "source", "method", "group", "clip")


def extract_stills(
    tables: Sequence[str | os.PathLike[str]],
    directory: str | os.PathLike[str],
    *,
    frames: int = 6,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes pictures of faces and `stills.csv`, and returns how many pictures there are.

    A clip whose pictures are there already is not decoded again.

    Args:
        tables: CSV files with the columns path (beside the file), label, source, and where known method and group.
        directory: where to.
        frames: of every clip.
        progress: called with (clips done, clips in all).

    Raises:
        DataError: a table is missing or lacks a column, or nothing can be written. A clip that cannot be read, or
            shows no face, is left out and logged.
    """
    directory = Path(directory)
    detector = create_detector()
    clips = [(Path(table).parent, row) for table in tables for row in _rows(Path(table))]
    rows: list[dict[str, str]] = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{directory}: cannot be made: {error.strerror}; name another directory") from error
    for done, (root, clip) in enumerate(clips, 1):
        # Clips of other tables, or with another suffix, may have the same name.
        place = hashlib.sha256(f"{root.resolve()}/{clip['path']}".encode()).hexdigest()[:8]
        name = f"{Path(clip['path']).stem}-{place}"
        finished = directory / f"{name}.{frames}.done"
        if not finished.is_file():
            try:
                with open_video(root / clip["path"]) as video:
                    for frame in video.frames(Sampling(frames=frames)):
                        faces = detector.detect(frame.image)
                        if faces:
                            square = face_square(frame.image, faces[0].box, AROUND)
                            picture = cv2.cvtColor(square, cv2.COLOR_RGB2BGR)
                            path = directory / f"{name}_{frame.index:06d}.png"
                            if not cv2.imwrite(str(path), picture):
                                raise DataError(f"{path}: cannot be written; check the disk")
            except MediaError as error:
                _log.warning("left out: %s", error)
                continue
            finished.touch()
        shared = {name: clip.get(name) or "" for name in ("label", "source", "method")}
        shared |= {"group": clip.get("group") or name, "clip": name}
        pictures = sorted(directory.glob(f"{glob.escape(name)}_[0-9][0-9][0-9][0-9][0-9][0-9].png"))
        rows.extend({"path": path.name, **shared} for path in pictures)
        if progress is not None:
            progress(done, len(clips))
    temporary = directory / ".stills.csv.tmp"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(directory / "stills.csv")
    return len(rows)


def _rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{table}: cannot be read: {error}; name a table of clips in UTF-8") from error
    for column in ("path", "label", "source"):
        if not rows or column not in rows[0]:
            raise DataError(f"{table}: lacks the column {column}; a table of clips has path, label and source")
    return rows
