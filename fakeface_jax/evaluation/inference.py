"""A model's raw logits over a split of prepared crops.

Example:
    >>> predictions = predict(FaceClassifier.load(), open_dataset("data"), "test")
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fakeface_jax.classifier import BATCH_SIZES, FaceClassifier
from fakeface_jax.data.dataset import Dataset
from fakeface_jax.data.loader import evaluation_batches
from fakeface_jax.errors import ConfigError
from fakeface_jax.evaluation.predictions import Predictions


def predict(
    classifier: FaceClassifier,
    dataset: Dataset,
    split: str,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Scores every sample of a split, in order.

    Args:
        classifier: the model.
        dataset: crops cut as the model wants them.
        split: which part of it.
        progress: called with (samples scored, samples in all).

    Raises:
        ConfigError: the crops were cut for another model.
        DataError: no such split.
    """
    if dataset.crop != classifier.spec.crop:
        raise ConfigError(
            f"{dataset.path} holds crops {dataset.crop}, the model takes {classifier.spec.crop}; build the data for it"
        )
    source = dataset.source(split)
    logits: list[float] = []
    for batch in evaluation_batches(source, BATCH_SIZES[-1], processes=(0, 1)):
        logits += classifier.logits(batch["image"])[batch["mask"] > 0].tolist()
        if progress is not None:
            progress(len(logits), len(source))
    records = list(dataset.source(split, pictures=False))

    def texts(name: str) -> np.ndarray:
        return np.array([_text(record[name]) for record in records])

    return Predictions(
        ids=texts("id"),
        sources=texts("source"),
        groups=texts("group"),
        labels=np.array([record["label"] for record in records], np.int8),
        logits=np.array(logits, np.float32),
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
