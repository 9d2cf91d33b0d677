"""A directory of finished reports, one JSON file per video, so that a long run can be taken up again.

Example:
    >>> kept = KeptReports(Path("reports"), resume=True)
    >>> kept.find("clip.mp4", model_id=..., detector="centerface", sampling=Sampling(fps=2), rule="worst_person", ...)
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fakeface_jax.atomic_files import make_directory, whole_file
from fakeface_jax.cli.targets import short_stem
from fakeface_jax.errors import ConfigError, FakeFaceError, OpenError

if TYPE_CHECKING:
    from fakeface_jax.video.report.verification import SavedReport
    from fakeface_jax.video.report.video_report import VideoReport


class KeptReports:
    """Reports by the place of their video: two videos of one name do not share a file.

    Args:
        directory: made where it is missing.
        resume: whether reports that are there already are used.

    Raises:
        ConfigError: it cannot be made.
    """

    def __init__(self, directory: Path, *, resume: bool) -> None:
        try:
            self._directory = make_directory(directory)
        except OpenError as error:
            raise ConfigError(f"--reports {error}") from error
        self._resume = resume

    def find(self, name: str, **settings: Any) -> SavedReport | None:
        """The report of a video that need not be scored again; None where there is none, or anything has changed.

        Settings are those of `SavedReport.made_with`.

        A damaged report counts as none. The video is hashed: a report is of bytes and not of a name.
        """
        from fakeface_jax.video.report.verification import read_reports

        path = self._path(name)
        if not self._resume or not path.is_file():
            return None
        try:
            saved = read_reports(path)[0]
            made = saved.made_with(**settings)
            with Path(name).open("rb") as file:
                same = made and hashlib.file_digest(file, "sha256").hexdigest() == saved.sha256
        except (FakeFaceError, OSError):
            return None
        return saved if same else None

    def save(self, name: str, report: VideoReport) -> None:
        """Keeps a report; completely or not at all."""
        path = self._path(name)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(report.to_dict(), allow_nan=False, indent=2) + "\n", encoding="utf-8")

    def _path(self, name: str) -> Path:
        place = hashlib.sha256(os.fsencode(os.path.realpath(name))).hexdigest()[:8]
        return self._directory / f"{short_stem(name)}-{place}.json"
