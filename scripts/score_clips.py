"""Scores labelled clips and prints a table of the model's answers beside the truth.

    make score-clips
    python scripts/score_clips.py ../shared/data/videos.csv --every 10

The CSV has the columns path (relative to the CSV), label and source. The clips are only for testing: no threshold is
chosen by them.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.detectors import create_detector
from fakeface_jax.errors import MediaError
from fakeface_jax.evaluation.weighted_metrics import weighted_metrics
from fakeface_jax.labels import parse_label
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.report.video_report import main_people as main_people_of
from fakeface_jax.video.scoring import score_video


def main() -> None:
    """Prints one line per clip as a Markdown table, then AUC of clips and of faces, and the verdicts."""
    parser = argparse.ArgumentParser()
    parser.add_argument("csv", type=Path)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument(
        "--every", type=int, default=None, help="sample every n-th frame. If omitted: 32 evenly spread frames"
    )
    options = parser.parse_args()
    classifier = FaceClassifier.load(options.model, medium="video")
    detector = create_detector(classifier.spec.detector)
    print("| clip | label | verdict | P(fake) | faces | frames with a face / sampled | media s | wall s | frames/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    labels, scores, verdicts = [], [], []
    face_labels, face_scores, face_clips = [], [], []
    with options.csv.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                report = score_video(
                    classifier, detector, options.csv.parent / row["path"], Sampling(every=options.every)
                )
            except MediaError as error:
                print(f"| {Path(row['path']).stem} | {row['label']} | error: {error.problem} |")
                continue
            evidence = report.evidence
            score = "-" if report.p_fake is None else f"{report.p_fake:.3f}"
            print(
                f"| {Path(row['path']).stem} | {row['label']} | {report.verdict} | {score} | {evidence.faces_scored} | "
                f"{evidence.frames_with_face} / {evidence.frames_sampled} | {report.media.duration or 0:.1f} | "
                f"{report.seconds.total:.2f} | {report.fps:.0f} |",
                flush=True,
            )
            if report.p_fake is not None:
                labels.append(int(parse_label(row["label"])))
                scores.append(report.p_fake)
                verdicts.append(str(report.verdict))
                main_people = {person.number for person in main_people_of(report)}
                faces = [face for frame in report.frames for face in frame.faces if face.person in main_people]
                found = [face.p_fake for face in faces if face.p_fake is not None]
                face_scores += found
                face_labels += [labels[-1]] * len(found)
                face_clips += [len(labels) - 1] * len(found)
    clips = np.arange(len(labels))
    print(f"\nvideo AUC {auc(labels, scores, clips)} over {len(labels)} clips ({sum(labels)} fake)")
    print(f"face AUC  {auc(face_labels, face_scores, np.array(face_clips))} over their {len(face_labels)} faces")
    for name, wanted in (("real", 0), ("fake", 1)):
        said = [verdict for verdict, label in zip(verdicts, labels, strict=True) if label == wanted]
        print(f"{name} clips: " + ", ".join(f"{said.count(word)} {word}" for word in ("real", "inconclusive", "fake")))


def auc(labels: list[int], scores: list[float], clips: np.ndarray) -> str:
    """Computes AUC and its 95 % interval: the bootstrap draws clips, each with all its faces."""
    count = int(clips.max()) + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=2000)
    weights = np.concatenate([np.ones((1, count)), drawn.astype(np.float64)])[:, clips]
    found = weighted_metrics(np.array(labels), np.array(scores), weights)["auc"]
    low, high = np.nanpercentile(found[1:], [2.5, 97.5])
    return f"{found[0]:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
