"""Keeps finished reports in a directory, one JSON file per video, so that a long run can be resumed.

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
    """A directory of reports, named by the path of each video, so that two videos of the same name get two files.

    Args:
        directory: created if it is missing.
        resume: reuse reports that are already there.

    Raises:
        ConfigError: the directory cannot be created.
    """

    def __init__(self, directory: Path, *, resume: bool) -> None:
        try:
            self._directory = make_directory(directory)
        except OpenError as error:
            raise ConfigError(f"--reports {error}") from error
        self._resume = resume

    def find(self, name: str, **settings: Any) -> SavedReport | None:
        """Returns the saved report of a video, or None if there is none or the video or a setting has changed.

        The settings are those of `SavedReport.made_with`.

        A damaged report counts as missing. The video is hashed, because a report describes bytes and not a file name.
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
        """Saves a report, either completely or not at all."""
        path = self._path(name)
        with whole_file(path) as temporary:
            temporary.write_text(json.dumps(report.to_dict(), allow_nan=False, indent=2) + "\n", encoding="utf-8")

    def _path(self, name: str) -> Path:
        place = hashlib.sha256(os.fsencode(os.path.realpath(name))).hexdigest()[:8]
        return self._directory / f"{short_stem(name)}-{place}.json"
