"""The README's curl commands work as written, against a service that runs."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY
from running_service import running_service
from test_readme import COMMANDS

CURLS = [line for line in COMMANDS if line.startswith("curl ")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_in_their_order(tmp_path: Path) -> None:
    assert len(CURLS) == 4
    with running_service(tmp_path / "state") as running:
        answers, job = [], ""
        for line in CURLS:
            words = shlex.split(
                line.split(" #")[0].replace("http://127.0.0.1:8000", running.url).replace("/JOB/", f"/{job}/")
            )
            done = subprocess.run(
                [*words, "--silent", "--fail", "--max-time", "120", "--noproxy", "*"],
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                check=True,
            )
            answers.append(done.stdout)
            if "/v1/videos" in line:
                job = json.loads(done.stdout)["id"]
    assert json.loads(answers[0])["verdict"] in ("real", "inconclusive", "fake")
    assert json.loads(answers[1])["name"] == "real_collins_pan.mp4"
    assert answers[2].count("event: frame\n") == 32
    assert "event: end\n" in answers[2]
    report = json.loads(answers[3])
    assert report["evidence"]["faces_scored"] == 32
    assert f'"verdict": "{report["verdict"]}"' in answers[2]
