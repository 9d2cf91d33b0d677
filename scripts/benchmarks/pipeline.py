"""Measures training from end to end (ArrayRecord files, augmentation and step) against the step on a fixed batch.

The step is fed as in the training loop (Grain's threads, uint8 to the device, the warp inside the step, losses fetched
every ten steps). The comparison is the report's own method, Keras's ImageDataGenerator.flow_from_directory, on the same
crops: the original JPEG bytes, in folders.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.results import ROOT, Goal, Row, Settings
from benchmarks.training import BATCH, write_batch
from benchmarks.workers import Program, Workers

DATA = ROOT / "runs" / "report-data" / "fake_faces" / "faces-150"

_WHAT = f"training from end to end, the report's network, batch {BATCH}, with augmentation"


def measure(settings: Settings) -> list[Row]:
    """Returns one row, or one that says that the crops were not built."""
    if not DATA.exists():
        why = f"not measured: no crops in {DATA.relative_to(ROOT)}; make data-report builds them"
        return [Row(what=_WHAT, missing={"ours": why})]
    batch = 4 if settings.quick else BATCH
    steps = 2 if settings.quick else 12
    write_batch(settings.folder, size=150, batch=batch)
    folder = str(settings.folder)
    with Workers(settings.tell) as workers:
        fed = Program("jax_steps.py", (folder, "report", "fed", str(DATA)), tuned=True)
        workers.start("ours", fed, needed=True)
        workers.start("our step alone", Program("jax_steps.py", (folder, "report", "augmented"), tuned=True))
        if settings.peers is not None:
            pictures = settings.folder / "pictures"
            settings.tell(f"writing the crops as files: {export(pictures, 64 if settings.quick else None)}")
            flow = Program("keras_steps.py", (folder, "flow", str(pictures)), settings.peers, tuned=True)
            workers.start("Keras, flow_from_directory", flow)
        answers = workers.take_turns(settings.rounds, {"steps": steps}, waking={"steps": 1})
        missing = dict(workers.failed)
        note = ""
        if settings.profile:
            count = 1 if settings.quick else 3
            seconds = {
                part: workers.ask("our step alone", {"steps": count, "part": part})["seconds"] / count
                for part in ("augment", "gradient")
            }
            note = f"; seconds of the augmentation alone {seconds['augment']:.3f}, with the gradient "
            note += f"{seconds['gradient']:.3f}"
            settings.tell(note[2:])
    return [
        Row(
            what=_WHAT,
            values={name: [steps * batch / one["seconds"] for one in found] for name, found in answers.items()},
            goals=(
                Goal(text="at least 0.95 x the step alone", peers=("our step alone",), at_least=0.95),
                Goal(text="at least 3.0 x Keras", peers=("Keras, flow_from_directory",), at_least=3.0),
            ),
            note=f"{steps} steps a turn and one before; all with the malloc setting of `make train`{note}",
            missing=missing,
        )
    ]


def export(folder: Path, limit: int | None) -> int:
    """Writes the stored training crops into folder/real and folder/fake; returns how many."""
    from fakeface_jax.data.dataset import open_dataset

    source = open_dataset(DATA).source("train", pictures=False)
    count = min(len(source), limit or len(source))
    for name in ("real", "fake"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        record = source[index]
        (folder / ("fake" if record["label"] else "real") / f"{index:06d}.jpg").write_bytes(record["image"])
    return count
