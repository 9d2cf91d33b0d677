"""Probabilities and thresholds of whole videos, fitted on what a video adds to a face.

Labelled videos are too few to fit a threshold at 1 % of reals, so every face of the calibration split is shown as a
short video (`fakeface_jax.video.verdict.simulated_clip`): its scores vary as those of one face in one video do, and
aggregated they spread as videos' scores do. Faces keep their groups, and sources count alike. What this leaves out is
said in `VideoDecision.fitted_on`; labelled videos are for testing alone (`scripts/compare_aggregations.py`).

Example:
    >>> bundle = calibrate_videos(load_bundle("runs/lite0/bundle"), open_dataset("runs/data/fake_faces/faces-224"))
    >>> bundle.spec.video.bands.fake_from
    0.88
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64, UInt8

from fakeface_jax.bundle import CARD, Bundle, save_bundle
from fakeface_jax.classifier import FaceClassifier
from fakeface_jax.data.dataset import Dataset
from fakeface_jax.decision import VideoDecision
from fakeface_jax.evaluation.batch_scoring import labelled_faces, map_crops, named
from fakeface_jax.evaluation.calibration import (
    balanced_weights,
    choose_bands,
    choose_operating_points,
    fit_calibration,
)
from fakeface_jax.evaluation.predictions import Predictions
from fakeface_jax.training.card import with_videos
from fakeface_jax.video.verdict.aggregation import DEFAULT_RULE, Scores, aggregate
from fakeface_jax.video.verdict.simulated_clip import QUALITIES, moving_face

FRAMES = 8
"""Of each moving face. Neighbouring frames say nearly the same: more of them move the mean by little."""

SECONDS_APART = 0.3
"""Of the frames, as when 32 of them are spread over ten seconds."""

SPLIT = "calibration"

Progress = Callable[[int, int], None]


def calibrate_videos(
    bundle: Bundle,
    dataset: Dataset,
    *,
    rule: str = DEFAULT_RULE,
    leave_out: Sequence[str] = (),
    progress: Progress | None = None,
) -> Bundle:
    """Writes the bundle anew, with probabilities and thresholds for videos.

    Args:
        bundle: calibrated for faces; replaced where it lies.
        dataset: prepared crops with a calibration split.
        rule: of the aggregation, a key of `fakeface_jax.video.verdict.aggregation.RULES`.
        leave_out: what training did not see, as `fakeface train` takes it.
        progress: called with (faces done, faces in all).

    Raises:
        ConfigError: the crops were cut for another model.
        DataError: no calibration split, or only one class in it.
    """
    faces, logits = moving_logits(FaceClassifier(bundle), dataset, SPLIT, leave_out=leave_out, progress=progress)
    spec = dataclasses.replace(bundle.spec, video=fit_video_decision(faces, logits, rule))
    card = (bundle.path / CARD).read_text(encoding="utf-8")
    return save_bundle(bundle.path, spec, bundle.weights, card=with_videos(card, spec))


def moving_logits(
    classifier: FaceClassifier,
    dataset: Dataset,
    split: str,
    *,
    leave_out: Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Predictions, Float64[np.ndarray, "n f"]]:
    """The faces of a split, and the calibrated logits of each as `FRAMES` frames of a video.

    Raises:
        ConfigError: the crops were cut for another model.
        DataError: no such split.
    """
    faces = labelled_faces(dataset, split)
    keep = ~named(faces, leave_out)
    faces = faces.select(keep)
    done = 0

    def score(crops: UInt8[np.ndarray, "b s s 3"]) -> Float64[np.ndarray, "b f"]:
        nonlocal done
        clips = []
        for crop in crops:
            # Each face has a path of its own that follows from its name, whatever the batches.
            generator = np.random.default_rng(zlib.crc32(str(faces.ids[done]).encode()))
            clips.append(moving_face(crop, FRAMES, generator))
            done += 1
        logits = classifier.calibrated_logits(np.concatenate(clips))
        return logits.astype(np.float64).reshape(len(crops), FRAMES)

    return faces, map_crops(score, dataset, split, keep=keep, progress=progress)


def fit_video_decision(faces: Predictions, logits: Float64[np.ndarray, "n f"], rule: str) -> VideoDecision:
    """Probabilities, operating points and bands of videos for one rule.

    Args:
        faces: labels, sources and groups of the moving faces.
        logits: calibrated, of each one's frames.
        rule: of the aggregation.

    Raises:
        DataError: only one class.
        ConfigError: unknown rule.
    """
    scores = aggregated(logits, rule)
    weights = balanced_weights(faces.labels, faces.sources)
    calibration = fit_calibration(faces.labels, scores, split=SPLIT, groups=faces.groups, weights=weights)
    points = choose_operating_points(
        faces.labels, calibration(scores), split=SPLIT, groups=faces.groups, weights=weights
    )
    bands = choose_bands(points)
    bands = dataclasses.replace(bands, reason=f"{bands.reason}; every source counts alike")
    return VideoDecision(
        rule=rule,
        calibration=calibration,
        operating_points=points,
        bands=bands,
        fitted_on=f"{len(scores)} still faces of the {SPLIT} split, each shown as {FRAMES} frames of an H.264 video "
        f"(crf {QUALITIES[0]} to {QUALITIES[-1]}); real videos vary more",
    )


def aggregated(logits: Float64[np.ndarray, "n f"], rule: str) -> Float64[np.ndarray, " n"]:
    """One logit per row of frames."""
    times = [SECONDS_APART * frame for frame in range(logits.shape[1])]
    return np.array([aggregate(Scores.of(row, times=times), rule) for row in logits.tolist()], np.float64)
