"""Measures training steps on one batch: the report's network and the bundled one, ours beside plain Flax and peers.

All start from the same weights, take the same uint8 batch of 32 and update with Adam in float32; the losses of the
first steps are compared. All run with the malloc setting of `make train`, which helps PyTorch even more than ours.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import Goal, Row, Settings
from benchmarks.workers import Program, Workers

BATCH = 32

_NOTE = "float32, Adam, from uint8, two threads, all with the malloc setting of `make train`; one step before each turn"


def measure(settings: Settings) -> list[Row]:
    """Measures both networks."""
    return [_report(settings), _shipped(settings)]


def write_batch(folder: Path, *, size: int, batch: int = BATCH, dtype: str = "float32") -> None:
    """Writes a batch of smooth random pictures with random labels, for all contenders."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (batch, size // 10 + 1, size // 10 + 1, 3), np.uint8)
    images = coarse.repeat(10, 1).repeat(10, 2)[:, :size, :size]
    labels = (np.arange(batch) % 2).astype(np.float32)
    np.savez(folder / "batch.npz", images=np.ascontiguousarray(images), labels=labels, dtype=dtype)


def _report(settings: Settings) -> Row:
    write_batch(settings.folder, size=150 if not settings.quick else 48, batch=BATCH if not settings.quick else 4)
    folder, programs = str(settings.folder), {}
    programs["plain Flax"] = Program("jax_steps.py", (folder, "report", "plain"), tuned=True)
    if settings.peers is not None:
        programs["Keras (TensorFlow graph)"] = Program("keras_steps.py", (folder, "graph"), settings.peers, tuned=True)
        programs |= _torch(settings, "report")
    return _row(
        settings,
        f"training step, the report's network, batch {BATCH}",
        "report",
        programs,
        steps=1 if settings.quick else 4,
        peers=tuple(name for name in programs if name != "plain Flax"),
    )


def _shipped(settings: Settings) -> Row:
    # At least 224 pixels: all strides then meet even sizes, which the PyTorch network relies on.
    write_batch(settings.folder, size=224 if not settings.quick else 64, batch=BATCH if not settings.quick else 2)
    programs = _torch(settings, "efficientnet_lite0") if settings.peers is not None else {}
    return _row(
        settings,
        f"training step, the shipped model's network (EfficientNet-Lite0, 224 px), batch {BATCH}",
        "efficientnet_lite0",
        programs,
        steps=1 if settings.quick else 3,
        peers=tuple(programs),
    )


def _torch(settings: Settings, network: str) -> dict[str, Program]:
    folder = str(settings.folder)
    # Compiling the larger network's step takes PyTorch longer than all of this section.
    modes = ("eager", "compiled") if network == "report" else ("eager",)
    return {
        f"PyTorch, {mode}": Program("torch_steps.py", (folder, network, mode), settings.peers, tuned=True)
        for mode in modes
    }


def _row(
    settings: Settings,
    what: str,
    network: str,
    programs: dict[str, Program],
    *,
    steps: int,
    peers: tuple[str, ...],
) -> Row:
    ours = Program("jax_steps.py", (str(settings.folder), network, "ours"), tuned=True)
    with np.load(settings.folder / "batch.npz") as found:
        images = steps * len(found["images"])
    with Workers(settings.tell) as workers:
        workers.start("ours", ours, needed=True)
        for name, program in programs.items():
            workers.start(name, program)
        # The first steps, from the same weights.
        first = {name: workers.try_ask(name, {"steps": 3}) for name in workers.names}
        answers = workers.take_turns(settings.rounds, {"steps": steps}, waking={"steps": 1})
        note = _NOTE + (_profile(workers, settings) if settings.profile else "")
        missing = dict(workers.failed)
    return Row(
        what=what,
        values={name: [images / one["seconds"] for one in found] for name, found in answers.items()},
        goals=(Goal(text="at least 1.0 x the fastest peer", peers=peers, at_least=1.0),),
        note=note,
        checks={"largest difference of the first three losses": _apart(first)},
        missing=missing,
    )


def _apart(first: dict[str, dict[str, Any] | None]) -> float:
    """Returns the largest difference of a loss from ours, as a share of it."""
    given = [one["losses"] for one in first.values() if one is not None]
    apart = max(abs(a - b) / abs(b) for losses in given for a, b in zip(losses, given[0], strict=True))
    return float(f"{apart:.2g}") if math.isfinite(apart) else apart


def _profile(workers: Workers, settings: Settings) -> str:
    """Returns seconds of our step's parts; the backward pass is the gradient's time beyond the forward pass."""
    steps = 1 if settings.quick else 3
    seconds = {
        part: workers.ask("ours", {"steps": steps, "part": part})["seconds"] / steps
        for part in ("augment", "forward", "gradient", "update")
    }
    backward = seconds["gradient"] - seconds["forward"]
    told = f"scaling {seconds['augment']:.3f}, forward {seconds['forward'] - seconds['augment']:.3f}, "
    told += f"backward {backward:.3f}, Adam {seconds['update']:.3f}"
    settings.tell(f"seconds of the parts of our step: {told}")
    return f"; seconds of our step's parts: {told}"
