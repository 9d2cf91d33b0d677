"""A model's raw logits over a split of prepared crops, as they are or after something was done to them.

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
"""What is done to crops before they are scored; keeps their shape, 0 to 255."""


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
        dataset: crops cut as the model wants them.
        split: which part of it.
        keep: which samples of the split, of its length, e.g. from `named`; all by default.
        transform: done to every batch of crops first.
        progress: called with (samples scored, samples in all).

    Raises:
        ConfigError: the crops were cut for another model.
        DataError: no such split.
    """
    if dataset.crop != classifier.spec.crop:
        raise ConfigError(
            f"{dataset.path} holds crops {dataset.crop}, the model takes {classifier.spec.crop}; build the data for it"
        )
    faces = labelled_faces(dataset, split)
    faces = faces if keep is None else faces.select(keep)
    logits = map_crops(classifier.logits, dataset, split, keep=keep, transform=transform, progress=progress)
    return dataclasses.replace(faces, logits=logits.astype(np.float32))


def labelled_faces(dataset: Dataset, split: str) -> Predictions:
    """What the data set says of a split's faces, in order; nobody scored them, so every logit is 0.

    Raises:
        DataError: no such split.
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
    """Which faces belong to any of the names: `source`, or `source/method` for one kind of its fakes."""
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
    """Calls a function with the crops of a split, a batch at a time in order, and puts its answers together.

    Args:
        function: from uint8 RGB crops to one row of values each.
        dataset: prepared crops.
        split: which part of it.
        keep: which samples, of the split's length; all by default.
        transform: done to every batch of crops first.
        progress: called with (samples done, samples in all).

    Raises:
        DataError: no such split.
        ConfigError: `keep` chooses nothing, or is of another length.
    """
    source = dataset.source(split)
    if keep is not None:
        if keep.shape != (len(source),) or not keep.any():
            raise ConfigError(
                f"{split}: {int(keep.sum())} of {len(keep)} samples chosen, and the split has {len(source)}"
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
