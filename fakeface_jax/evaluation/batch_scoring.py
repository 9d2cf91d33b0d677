"""Computes a model's raw logits over a split of prepared crops, unchanged or transformed.

Example:
    >>> predictions = predict(FaceClassifier.load(), open_dataset("data"), "test")
    >>> blurred = predict(FaceClassifier.load(), open_dataset("data"), "test", transform=find_degradation("blur 2"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from fakeface_jax.classifier import BATCH_SIZES, FaceClassifier
from fakeface_jax.data.dataset import Dataset, text_of
from fakeface_jax.data.loader import Chosen, evaluation_batches
from fakeface_jax.errors import ConfigError
from fakeface_jax.evaluation.predictions import Predictions

Transform = Callable[[UInt8[np.ndarray, "n s s 3"]], UInt8[np.ndarray, "n s s 3"]]
"""Transforms crops before they are scored; keeps their shape and the range 0 to 255."""


def predict(
    classifier: FaceClassifier,
    dataset: Dataset,
    split: str,
    *,
    keep: Bool[np.ndarray, " n"] | None = None,
    transform: Transform | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Scores the samples of a split, in order.

    Args:
        classifier: the model.
        dataset: crops with the model's geometry.
        split: split of the data set.
        keep: mask of the samples to score, as long as the split, e.g. from `named`; all by default.
        transform: applied to every batch of crops first.
        progress: called with (samples scored, all samples).

    Raises:
        ConfigError: the crops were cut for another model.
        DataError: the split does not exist.
    """
    if dataset.crop != classifier.spec.crop:
        raise ConfigError(
            f"{dataset.path} has crops {dataset.crop}, but the model takes {classifier.spec.crop}; build the data "
            "for it"
        )
    faces = labelled_faces(dataset, split)
    faces = faces if keep is None else faces.select(keep)
    logits = map_crops(classifier.logits, dataset, split, keep=keep, transform=transform, progress=progress)
    return dataclasses.replace(faces, logits=logits.astype(np.float32))


def labelled_faces(dataset: Dataset, split: str) -> Predictions:
    """Returns the facts about the faces of a split, in order, with logits of 0, because nothing scored them.

    Raises:
        DataError: the split does not exist.
    """
    records = list(dataset.source(split, pictures=False))

    def texts(name: str) -> np.ndarray:
        return np.array([text_of(record[name]) for record in records], np.str_)

    boxes = np.array([record["box"] for record in records], np.float32).reshape(-1, 4)
    return Predictions(
        ids=texts("id"),
        sources=texts("source"),
        groups=texts("group"),
        labels=np.array([record["label"] for record in records], np.int8),
        logits=np.zeros(len(records), np.float32),
        methods=texts("method"),
        sizes=(boxes[:, 2:] - boxes[:, :2]).max(axis=1),
    )


def named(faces: Predictions, names: Sequence[str]) -> Bool[np.ndarray, " n"]:
    """Returns the mask of faces that belong to any of the names: `source`, or `source/method` for one kind of fakes."""
    full = np.char.add(np.char.add(faces.sources, "/"), faces.methods)
    return np.isin(faces.sources, list(names)) | (np.isin(full, list(names)) & (faces.methods != ""))


def map_crops(
    function: Callable[[UInt8[np.ndarray, "b s s 3"]], Float[np.ndarray, "b ..."]],
    dataset: Dataset,
    split: str,
    *,
    keep: Bool[np.ndarray, " n"] | None = None,
    transform: Transform | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[np.ndarray, "m ..."]:
    """Applies a function to the crops of a split, one batch at a time in order, and concatenates the results.

    Args:
        function: maps uint8 RGB crops to one row of values each.
        dataset: prepared crops.
        split: split of the data set.
        keep: mask of the samples, as long as the split; all by default.
        transform: applied to every batch of crops first.
        progress: called with (samples done, all samples).

    Raises:
        DataError: the split does not exist.
        ConfigError: `keep` is all False or has another length.
    """
    source = dataset.source(split)
    if keep is not None:
        if keep.shape != (len(source),) or not keep.any():
            raise ConfigError(
                f"{split}: the mask selects {int(keep.sum())} of {len(keep)} samples, but the split has {len(source)}; "
                "select at least one of these"
            )
        source = Chosen(source, np.flatnonzero(keep))
    parts: list[np.ndarray] = []
    done = 0
    for batch in evaluation_batches(source, BATCH_SIZES[-1], processes=(0, 1)):
        crops = batch["image"][batch["mask"] > 0]
        parts.append(np.asarray(function(crops if transform is None else transform(crops))))
        done += len(crops)
        if progress is not None:
            progress(done, len(source))
    return np.concatenate(parts)
