"""Measurements: values of each contender by round, ratios within the rounds, and goals.

Example:
    >>> row = Row(what="training step", unit="images/s", ours="ours", values={"ours": [72.0], "Keras": [60.0]},
    ...           goal=Goal(text="at least 1.0 x the fastest peer", peers=("Keras",), at_least=1.0))
    >>> row.to_dict()["result"]["ratio"]["median"]
    1.2
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

OURS = ("jax", "jaxlib", "flax", "openvino", "opencv-python", "numpy", "grain")
PEERS = ("torch", "tensorflow", "keras", "onnxruntime", "openvino", "ai-edge-litert", "numpy")
"""Packages whose versions are stated."""

_RATES = ("images/s", "frames/s")
"""Units of which more is better; of all others less is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings that every section gets.

    Attributes:
        rounds: number of measurements of each contender.
        peers: Python interpreter of the peers' environment; None measures only our code.
        folder: directory for temporary files.
        quick: do as little work as possible, to test the program; the numbers mean nothing.
        profile: also report where the time is spent.
        tell: called with messages about the progress.
    """

    rounds: int
    peers: Path | None
    folder: Path
    quick: bool
    profile: bool
    tell: Callable[[str], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Goal:
    """A goal for a ratio, ours to theirs.

    Attributes:
        text: wording in the table.
        peers: ours is compared with the best of these; those that were not measured are ignored.
        at_least: lower limit, for rates.
        at_most: upper limit, for seconds and bytes.
    """

    text: str
    peers: tuple[str, ...]
    at_least: float | None = None
    at_most: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement.

    Attributes:
        what: description of the work.
        unit: unit of the values.
        ours: the contender that is compared with the others.
        values: values of each contender, one per round.
        goals: the goals; each gets a line in the table.
        note: conditions that a reader has to know.
        checks: comparisons that show that the work was the same, with the differences found.
        missing: reasons why there are no values, or why a contender has none.
    """

    what: str
    unit: str = "images/s"
    ours: str = "ours"
    values: Mapping[str, Sequence[float]] = dataclasses.field(default_factory=dict)
    goals: tuple[Goal, ...] = ()
    note: str = ""
    checks: Mapping[str, float] = dataclasses.field(default_factory=dict)
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain JSON values: medians, ranges, ratios to every other contender, and the results of the goals."""
        mine = self.values.get(self.ours, ())
        ratios = {
            name: spread([a / b for a, b in zip(mine, theirs, strict=True)])
            for name, theirs in self.values.items()
            if name != self.ours and mine
        }
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": self.ours,
            "values": {
                name: spread(values) | {"rounds": [float(f"{one:.5g}") for one in values]}
                for name, values in self.values.items()
            },
            "ratios": ratios,
            "goals": [self._outcome(goal, ratios) for goal in self.goals],
            "note": self.note,
            "checks": dict(self.checks),
            "missing": dict(self.missing),
        }

    def _outcome(self, goal: Goal, ratios: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        best = max if self.unit in _RATES else min
        measured = [name for name in goal.peers if name in ratios]
        told = {"goal": goal.text, "at_least": goal.at_least, "at_most": goal.at_most}
        if not measured:
            return told | {"against": None, "ratio": None, "met": None}
        against = best(measured, key=lambda name: statistics.median(self.values[name]))
        ratio = ratios[against]["median"]
        met = (goal.at_least is None or ratio >= goal.at_least) and (goal.at_most is None or ratio <= goal.at_most)
        return told | {"against": against, "ratio": ratios[against], "met": met}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, smallest and largest value, with four digits."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def machine() -> dict[str, Any]:
    """Describes the machine on which the numbers were measured."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        fields = {name.strip(): value.strip() for name, value in fields.items()}
        model = f"{fields.get('model name', model)} (family {fields.get('cpu family')}, model {fields.get('model')})"
        model += "".join(f", {name}" for name in ("avx512f", "avx512_bf16") if name in fields.get("flags", "").split())
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "cores_used": count,
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def versions(peers: Path | None) -> dict[str, dict[str, str]]:
    """Returns the versions of Python and of packages in our environment and the peers'."""
    found = {"ours": {"python": platform.python_version()} | _installed(OURS)}
    if peers is not None:
        program = (
            "import json, platform, sys; from importlib import metadata as m; known = {d.name.lower() for d in "
            "m.distributions()}; print(json.dumps({'python': platform.python_version()} | "
            "{n: m.version(n) for n in sys.argv[1:] if n in known}))"
        )
        done = subprocess.run([peers, "-c", program, *PEERS], capture_output=True, text=True, check=True)
        found["peers"] = json.loads(done.stdout)
    return found


def _installed(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Returns the checkout's commit, marked if files differ from it; `unknown` outside a checkout."""
    try:
        run = ["git", "-C", str(ROOT)]
        name = subprocess.run([*run, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run([*run, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    # Results and the table are written while measuring.
    others = [line for line in changed.splitlines() if "docs/performance" not in line]
    return name.strip() + (" with changes" if others else "")


def section(rows: Sequence[Row], settings: Settings, *, started: float, ended: float, load: float) -> dict[str, Any]:
    """Returns a section's results with all facts that a reader needs to judge them.

    Args:
        rows: the measurements.
        settings: settings of the section.
        started: start, in seconds since the epoch.
        ended: end, in seconds since the epoch.
        load: load of the machine before the first measurement.
    """
    date = datetime.datetime.fromtimestamp(started, datetime.UTC)
    return {
        "date": date.strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": machine() | {"load_at_start": round(load, 2)},
        "versions": versions(settings.peers),
        "rounds": settings.rounds,
        "quick": settings.quick,
        "minutes": round((ended - started) / 60, 1),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "rows": [row.to_dict() for row in rows],
    }
