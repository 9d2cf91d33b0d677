"""Measures the first score of a cold process, from starting Python to the result, against processes that do less.

`fakeface classify` on one picture, including detection, is compared with a process that only imports JAX, and with one
that makes ONNX Runtime's first prediction with the same weights, without detector and command line. Files are in the
page cache for everybody: one round is run before the first that counts.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.inference import export
from benchmarks.results import ROOT, Goal, Row, Settings
from benchmarks.workers import Program, Workers, environment
from fakeface_jax.bundle import load_bundle

PICTURE = ROOT / "samples" / "real_collins.jpg"

_ONNX = """
import numpy, onnxruntime, sys
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 2
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
session.run(None, {"pictures": numpy.zeros((1, 224, 224, 3), numpy.uint8)})
"""


def measure(settings: Settings) -> list[Row]:
    """Returns the single row of this section."""
    command = [sys.executable, "-m", "fakeface_jax.cli.main", "classify", str(PICTURE)]
    script = Path(sys.executable).with_name("fakeface")
    if script.exists():
        command[:3] = [str(script)]
    commands: dict[str, Sequence[str]] = {"ours": command, "import jax": [sys.executable, "-c", "import jax"]}
    missing = {}
    if settings.peers is not None:
        model = _onnx_file(settings)
        commands["ONNX Runtime's first prediction"] = [str(settings.peers), "-c", _ONNX, str(model)]
    for name in commands:
        settings.tell(f"warming {name}")
        _seconds(commands[name])
    values: dict[str, list[float]] = {name: [] for name in commands}
    names = list(commands)
    for number in range(settings.rounds):
        settings.tell(f"round {number + 1} of {settings.rounds}")
        for name in names[number % len(names) :] + names[: number % len(names)]:
            values[name].append(_seconds(commands[name]))
    note = "wall seconds of whole processes, warm page cache"
    if settings.profile:
        told = _profile(command)
        settings.tell(f"what `fakeface classify` imports longest: {told}")
        note += f"; longest imports: {told}"
    return [
        Row(
            what="first score of a cold process (`fakeface classify`, one picture, detector included)",
            unit="s",
            values=values,
            goals=(
                Goal(text="at most 1.5 x `import jax`", peers=("import jax",), at_most=1.5),
                Goal(text="(no goal: beside ONNX Runtime)", peers=("ONNX Runtime's first prediction",)),
            ),
            note=note,
            missing=missing,
        )
    ]


def _onnx_file(settings: Settings) -> Path:
    """Exports the bundled model as ONNX with the peers' environment."""
    export(load_bundle("lite0"), settings.folder)
    import numpy as np

    np.save(settings.folder / "pictures.npy", np.zeros((1, 224, 224, 3), np.uint8))
    with Workers(settings.tell) as workers:
        workers.start("the ONNX file", Program("runtimes.py", (str(settings.folder), "onnx-file"), settings.peers))
    return settings.folder / "model.onnx"


def _seconds(command: Sequence[str], extra: Mapping[str, str] | None = None) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=environment() | dict(extra or {}), cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def _profile(command: Sequence[str], count: int = 8) -> str:
    """Lists the modules with the longest import times of their own, in milliseconds."""
    done = subprocess.run(
        command,
        env=environment() | {"PYTHONPROFILEIMPORTTIME": "1"},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    found = []
    for line in done.stderr.splitlines():
        if line.startswith("import time:") and "imported package" not in line:
            own, _, name = line.removeprefix("import time:").split("|")
            found.append((int(own) / 1000, name.strip()))
    return ", ".join(f"{name} {own:.0f} ms" for own, name in sorted(found, reverse=True)[:count])
