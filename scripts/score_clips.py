"""Scores labelled clips and prints a table: what the model says beside what is known.

    make score-clips
    python scripts/score_clips.py ../shared/data/videos.csv --every 10

The CSV has the columns path (beside the CSV), label and source. The clips are for testing alone: no threshold is
chosen by them.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from sklearn.metrics import roc_auc_score

from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.errors import MediaError
from fakeface_jax.faces import create_detector
from fakeface_jax.labels import parse_label
from video.sampling import Sampling
from video.scoring import score_video


def main() -> None:
    """Prints one line per clip as a Markdown table, then AUC and the verdicts of the real clips."""
    parser = argparse.ArgumentParser()
    parser.add_argument("csv", type=Path)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument(
        "--every", type=int, default=None, help="every n-th frame; 32 evenly spread frames if not given"
    )
    options = parser.parse_args()
    classifier = FaceClassifier.load(options.model)
    detector = create_detector(classifier.spec.detector)
    print("| clip | label | verdict | P(fake) | faces | frames with a face / sampled | media s | wall s | frames/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    labels, scores, verdicts = [], [], []
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
    print(f"\nvideo AUC {roc_auc_score(labels, scores):.3f} over {len(labels)} clips ({sum(labels)} fake)")
    for name, wanted in (("real", 0), ("fake", 1)):
        said = [verdict for verdict, label in zip(verdicts, labels, strict=True) if label == wanted]
        print(f"{name} clips: " + ", ".join(f"{said.count(word)} {word}" for word in ("real", "inconclusive", "fake")))


if __name__ == "__main__":
    main()
