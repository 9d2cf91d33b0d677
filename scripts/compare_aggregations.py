"""Measures the two rules by which videos are scored against seven that did not pay.

    make compare-aggregations
    python scripts/compare_aggregations.py --bundle runs/lite0/bundle --data runs/data/fake_faces/faces-224 \\
      --videos ../shared/data/videos.csv

Each rule is calibrated on faces of the calibration split, rendered as videos
(`fakeface_jax.video.verdict.video_calibration`), and then measured on four sets that calibration did not use: faces of
the validation split rendered as videos, labelled videos in full, the same cut to two seconds, and partial fakes: three
seconds of a fake inside a real minute of the same source. The rule of the bundled model is chosen by the first set and
by partial fakes made from it; the labelled videos only test it.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np

from fakeface_jax.bundle import load_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.data.dataset import open_dataset
from fakeface_jax.decision import VideoDecision, log_odds, sigmoid
from fakeface_jax.detectors import create_detector
from fakeface_jax.evaluation.weighted_metrics import weighted_metrics
from fakeface_jax.labels import parse_label
from fakeface_jax.video.reading.sampling import Sampling
from fakeface_jax.video.scoring import score_video
from fakeface_jax.video.verdict.aggregation import RULES, Rule, Scores, aggregate
from fakeface_jax.video.verdict.video_calibration import SECONDS_APART, fit_video_decision, moving_logits

SHORT, FAKE_SECONDS, MINUTE = 2.0, 3.0, 60.0
FPS = 4.0

TRIMMED = 0.2
"""Share of the scores that `trimmed_mean` leaves out at either end."""

TOP = 0.25
"""Share of the scores that `top_k` averages."""

CONFIDENT = 0.8
"""P(fake) above which, and below 1 minus which, a face counts as sure (DFDC winner, Deepware)."""

AGREED = 0.9
"""Share of a person's faces that must be sure for Deepware's rule to leave the others out."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """The scores of one labelled video."""

    label: int
    source: str
    scores: Scores


def mean_of_logits(scores: Scores) -> float:
    """Mean of the logits: faces that the model is sure of count more than in a mean of probabilities.

    Bonettini et al., "Video Face Manipulation Detection Through Ensemble of CNNs", ICPR 2020 (ISPL).
    """
    return float(np.mean(scores.logits))


def mean(scores: Scores) -> float:
    """Mean of the probabilities, as a logit (DeepfakeBench, GenD)."""
    return log_odds(float(np.mean(sigmoid(scores.logits))))


def median(scores: Scores) -> float:
    """Median of the logits (GenD)."""
    return float(np.median(scores.logits))


def trimmed_mean(scores: Scores) -> float:
    """Mean of the logits without the `TRIMMED` highest and lowest."""
    ordered = np.sort(scores.logits)
    cut = int(len(ordered) * TRIMMED)
    return float(np.mean(ordered[cut : len(ordered) - cut]))


def top_k(scores: Scores) -> float:
    """Mean of the `TOP` highest logits, of at least one."""
    count = max(1, round(len(scores.logits) * TOP))
    return float(np.mean(np.sort(scores.logits)[-count:]))


def confident(scores: Scores) -> float:
    """The rule of the DFDC's winner (Seferbekov, 2020): sure faces decide where there are many of them.

    With n faces, k of them above .8: their mean if k > n // 2.5 and k > 11; else the mean of those below .2 if they
    are more than 9 in 10; else the mean of all. With fewer than 12 faces the first branch is never taken.
    """
    p_fake = sigmoid(scores.logits)
    sure_fake, sure_real = p_fake[p_fake > CONFIDENT], p_fake[p_fake < 1 - CONFIDENT]
    if len(sure_fake) > len(p_fake) // 2.5 and len(sure_fake) > 11:
        return log_odds(float(np.mean(sure_fake)))
    if len(sure_real) > AGREED * len(p_fake):
        return log_odds(float(np.mean(sure_real)))
    return log_odds(float(np.mean(p_fake)))


def deepware(scores: Scores) -> float:
    """Deepware's rule: per person the mean of the sure faces where 9 in 10 are sure of the same, else of all; of those
    the most fake."""
    return max(_agreed_mean(person) for person in scores.by_person())


def _agreed_mean(scores: Scores) -> float:
    p_fake = sigmoid(scores.logits)
    for sure in (p_fake > CONFIDENT, p_fake < 1 - CONFIDENT):
        if np.mean(sure) >= AGREED:
            return log_odds(float(np.mean(p_fake[sure])))
    return log_odds(float(np.mean(p_fake)))


OTHERS: tuple[Rule, ...] = (mean_of_logits, mean, median, trimmed_mean, top_k, confident, deepware)


def main() -> None:
    """Prints one Markdown table per set."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle", type=Path, default=None)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--videos", type=Path, default=None)
    parser.add_argument("--leave-out", nargs="*", default=[])
    options = parser.parse_args()
    RULES.update({rule.__name__: rule for rule in OTHERS})  # so that they are fitted as the two that ship are
    classifier = FaceClassifier(load_bundle(options.bundle))
    faces, logits = moving_logits(classifier, open_dataset(options.data), "calibration", leave_out=options.leave_out)
    decisions = {rule: fit_video_decision(faces, logits, rule) for rule in RULES}
    stills = moving_clips(classifier, options.data, options.leave_out)
    sets = {"validation faces as videos": stills, "partial fakes of these": spliced(stills, seed=0)}
    if options.videos is not None:
        whole, dense = labelled_clips(classifier, options.videos)
        sets["labelled videos, 32 frames"] = whole
        sets["labelled videos, first 2 s"] = [cut(clip, SHORT) for clip in dense]
        sets["partial fakes of labelled videos"] = spliced(dense, seed=0)
    for name, clips in sets.items():
        print_table(name, clips, decisions)


def moving_clips(classifier: FaceClassifier, data: Path, leave_out: list[str]) -> list[Clip]:
    """Scores the validation split's faces, rendered as videos."""
    faces, logits = moving_logits(classifier, open_dataset(data), "validation", leave_out=leave_out)
    times = [SECONDS_APART * frame for frame in range(logits.shape[1])]
    rows = zip(faces.labels.tolist(), faces.sources.tolist(), logits.tolist(), strict=True)
    return [Clip(label, source, Scores.of(row, times=times)) for label, source, row in rows]


def labelled_clips(classifier: FaceClassifier, path: Path) -> tuple[list[Clip], list[Clip]]:
    """Scores each video as 32 evenly spread frames, and at `FPS` frames a second."""
    detector = create_detector(classifier.spec.detector)
    whole, dense = [], []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for clips, sampling in ((whole, Sampling()), (dense, Sampling(fps=FPS))):
                report = score_video(classifier, detector, path.parent / row["path"], sampling)
                main_people = {person.number for person in report.people if person.role == "main"}
                found = [
                    (face.logit, face.person, frame.time)
                    for frame in report.frames
                    for face in frame.faces
                    if face.logit is not None and face.person in main_people
                ]
                if found:
                    logits, people, times = zip(*found, strict=True)
                    clips.append(Clip(int(parse_label(row["label"])), row["source"], Scores.of(logits, people, times)))
    return whole, dense


def cut(clip: Clip, seconds: float) -> Clip:
    """Returns the first seconds of a clip."""
    inside = clip.scores.times < clip.scores.times[0] + seconds
    return Clip(clip.label, clip.source, clip.scores.only(inside))


def spliced(clips: list[Clip], *, seed: int) -> list[Clip]:
    """Returns real minutes unchanged, and with three seconds of a fake of the same source (or any, if it has none)."""
    generator = np.random.default_rng(seed)
    fakes = defaultdict(list)
    for clip in clips:
        if clip.label == 1:
            fakes[clip.source].append(clip)
    everything = [clip for mine in fakes.values() for clip in mine]
    made = []
    for clip in clips:
        if clip.label == 1:
            continue
        minute = looped(clip.scores, MINUTE)
        pool = fakes[clip.source] or everything
        fake = looped(pool[generator.integers(len(pool))].scores, FAKE_SECONDS)
        start = generator.uniform(5.0, MINUTE - 5.0 - FAKE_SECONDS)
        outside = (minute.times < start) | (minute.times >= start + FAKE_SECONDS)
        logits = np.concatenate([minute.logits[outside], fake.logits])
        times = np.concatenate([minute.times[outside], fake.times + start])
        order = np.argsort(times)
        mixed = Scores.of(logits[order].tolist(), times=times[order].tolist())
        made += [Clip(0, clip.source, minute), Clip(1, clip.source, mixed)]
    return made


def looped(scores: Scores, seconds: float) -> Scores:
    """Repeats the scores of the person who is seen most, from 0 to `seconds`."""
    numbers, counts = np.unique(scores.people, return_counts=True)
    mine = scores.only(scores.people == numbers[counts.argmax()])
    times = mine.times - mine.times[0]
    period = times[-1] + (np.median(np.diff(times)) if len(times) > 1 else 1.0)
    rounds = int(np.ceil(seconds / period))
    all_times = np.concatenate([times + period * number for number in range(rounds)])
    logits = np.tile(mine.logits, rounds)
    inside = all_times < seconds
    return Scores.of(logits[inside].tolist(), times=all_times[inside].tolist())


def print_table(name: str, clips: list[Clip], decisions: dict[str, VideoDecision]) -> None:
    """Prints AUC with interval, log loss, ECE, and false positives and detected fakes at the threshold for fake."""
    labels = np.array([clip.label for clip in clips])
    print(f"\n### {name}: {int((labels == 0).sum())} real, {int(labels.sum())} fake\n")
    print("| rule | AUC [95 %] | log loss | ECE | reals called fake | fakes called fake |")
    print("| --- | --- | --- | --- | --- | --- |")
    # Each video once, then resampled.
    drawn = np.random.default_rng(0).multinomial(len(clips), np.full(len(clips), 1 / len(clips)), size=1000)
    weights = np.concatenate([np.ones((1, len(clips))), drawn.astype(np.float64)])
    for rule, decision in decisions.items():
        p_fake = decision.calibration(np.array([aggregate(clip.scores, rule) for clip in clips]))
        found = weighted_metrics(labels, p_fake, weights)
        low, high = np.nanpercentile(found["auc"][1:], [2.5, 97.5])
        called = p_fake >= decision.bands.fake_from
        print(
            f"| {rule} | {found['auc'][0]:.3f} [{low:.3f}, {high:.3f}] | {found['log_loss'][0]:.3f} "
            f"| {found['ece'][0]:.3f} | {called[labels == 0].mean():.3f} | {called[labels == 1].mean():.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
