"""Measures training steps on an accelerator in bfloat16, if JAX finds one, and the limit that the chip sets.

Reported are images per second of a step at growing batches; the share of the chip's peak by XLA's count of operations;
the limit, which is the longer of operations at peak rate and bytes at peak bandwidth; and the loss when the step is fed
from files. No machine with an accelerator has run this yet.
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.pipeline import DATA
from benchmarks.results import Goal, Row, Settings
from benchmarks.training import write_batch
from benchmarks.workers import Program, Workers, environment

BATCHES = (256, 1024, 4096)

PEAKS = {
    # Dense bfloat16 operations and bytes per second, from the makers' data sheets.
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12),
    "L4": (121e12, 0.3e12),
    "T4": (65e12, 0.32e12),
}

_NETWORKS = {"report": ("the report's network", 150), "efficientnet_lite0": ("the shipped model's network", 224)}

_FLOOR = "the chip's floor"


def measure(settings: Settings) -> list[Row]:
    """Returns a row per network and batch, or a row that says that there is no accelerator."""
    program = "import jax; print(jax.default_backend())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    if done.stdout.strip() in ("", "cpu"):
        what = f"training step in bfloat16 at batch {BATCHES[0]} to {BATCHES[-1]}, share of the chip's peak, stalls"
        return [Row(what=what, missing={"ours": "not measured: no GPU on this machine"})]
    rows = [_step(settings, name, batch) for name in _NETWORKS for batch in BATCHES]
    return rows + ([_fed(settings)] if DATA.exists() else [])


def _step(settings: Settings, name: str, batch: int) -> Row:
    told, size = _NETWORKS[name]
    write_batch(settings.folder, size=size, batch=batch, dtype="bfloat16")
    steps = 2 if settings.quick else 20
    what = f"training step, {told}, batch {batch}, bfloat16"
    with Workers(settings.tell) as workers:
        workers.start("ours", Program("jax_steps.py", (str(settings.folder), name, "augmented")))
        answers = workers.take_turns(settings.rounds, {"steps": steps})
        if "ours" not in answers:
            return Row(what=what, missing=dict(workers.failed))
        cost = workers.ask("ours", {"part": "cost"})
    values = {"ours": [steps * batch / one["seconds"] for one in answers["ours"]]}
    peak = next((peak for key, peak in PEAKS.items() if key in cost["device"]), None)
    note = f"{cost['device']}; {cost['flops']:.3g} operations and {cost['bytes']:.3g} bytes a step by XLA's count"
    if peak is None:
        return Row(what=what, values=values, note=f"{note}; the chip's peak is not known here")
    share = max(values["ours"]) / batch * cost["flops"] / peak[0]
    floor = max(cost["flops"] / peak[0], cost["bytes"] / peak[1])
    values[_FLOOR] = [batch / floor] * settings.rounds
    goal = Goal(text="(no goal: the floor beside it)", peers=(_FLOOR,))
    return Row(what=what, values=values, note=f"{note}; {share:.1%} of peak operations", goals=(goal,))


def _fed(settings: Settings) -> Row:
    """Measures how much the input pipeline slows the step down."""
    batch, steps = BATCHES[0], 2 if settings.quick else 20
    write_batch(settings.folder, size=150, batch=batch, dtype="bfloat16")
    folder = str(settings.folder)
    with Workers(settings.tell) as workers:
        workers.start("ours", Program("jax_steps.py", (folder, "report", "fed", str(DATA))))
        workers.start("our step alone", Program("jax_steps.py", (folder, "report", "augmented")))
        answers = workers.take_turns(settings.rounds, {"steps": steps})
        missing = dict(workers.failed)
    return Row(
        what=f"training from end to end, the report's network, batch {batch}, bfloat16",
        values={name: [steps * batch / one["seconds"] for one in found] for name, found in answers.items()},
        goals=(Goal(text="(no goal: stalls from the input)", peers=("our step alone",)),),
        missing=missing,
    )
