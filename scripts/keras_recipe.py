"""Runs the report's recipe in Keras, in the peers' environment, without imports from this project.

    .venv-peers/bin/python scripts/keras_recipe.py FOLDER OUTPUT.npz --learning-rate 3e-4 --epochs 20

FOLDER contains train/, validation/ and test/, each with real/ and fake/ (made by scripts/compare_keras.py). The recipe:
Sequential CNN, ImageDataGenerator.flow_from_directory, binary cross-entropy, Adam, batch 32, early stopping and best
checkpoint on the lowest validation loss. OUTPUT gets the file names and P(fake) of the test split, and the history.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from keras.src.legacy.preprocessing.image import ImageDataGenerator


def build(size: int) -> keras.Model:
    """Builds the report's network."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((size, size, 3)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(128, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


def main() -> None:
    """Trains, predicts the test split, and writes the result."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", type=int, default=150)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--patience", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    augmenting = ImageDataGenerator(
        rescale=1 / 255,
        rotation_range=20,
        width_shift_range=0.1,
        height_shift_range=0.1,
        zoom_range=0.1,
        horizontal_flip=True,
        fill_mode="nearest",
    )
    plain = ImageDataGenerator(rescale=1 / 255)

    def flow(generator: ImageDataGenerator, split: str, *, shuffle: bool):  # noqa: ANN202 - Keras has no types
        # The classes are named in order, so that fake is 1; by default Keras sorts them and real becomes 1.
        return generator.flow_from_directory(
            str(options.folder / split),
            target_size=(options.size, options.size),
            batch_size=32,
            class_mode="binary",
            classes=["real", "fake"],
            shuffle=shuffle,
            seed=options.seed,
        )

    model = build(options.size)
    model.compile(keras.optimizers.Adam(options.learning_rate), "binary_crossentropy", metrics=["accuracy"])
    # Named by process, so that a second run does not replace the best weights of a running one.
    best = options.output.with_name(f"{options.output.stem}-{os.getpid()}.keras")
    history = model.fit(
        flow(augmenting, "train", shuffle=True),
        validation_data=flow(plain, "validation", shuffle=False),
        epochs=options.epochs,
        callbacks=[
            keras.callbacks.EarlyStopping("val_loss", mode="min", patience=options.patience),
            keras.callbacks.ModelCheckpoint(best, "val_loss", mode="min", save_best_only=True),
        ],
        verbose=2,
    )
    model = keras.models.load_model(best)
    test = flow(plain, "test", shuffle=False)
    np.savez(
        options.output,
        names=np.array(test.filenames),
        p_fake=model.predict(test, verbose=0)[:, 0],
        val_loss=np.array(history.history["val_loss"]),
    )


if __name__ == "__main__":
    main()
