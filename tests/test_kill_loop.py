"""The service, killed while it works: scripts/kill_loop.py with few kills. `make kill-loop` does more."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest
from conftest import REPOSITORY


@pytest.mark.long
def test_no_job_is_lost_or_done_twice() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    clip = REPOSITORY / "samples" / "real_collins_pan.mp4"
    command = [sys.executable, "scripts/kill_loop.py", str(clip), "--kills", "4", "--jobs", "6", "--port", str(port)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["done_with_the_right_report"] == found["reports_stored"] == found["jobs_accepted"] == 6
    assert found["attempts"] > 6, "it was killed while it scored"
