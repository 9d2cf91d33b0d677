"""Keras on TensorFlow: the report's training step, alone or fed from folders. Runs in the peers' environment.

    keras_steps.py FOLDER graph
    keras_steps.py FOLDER flow PICTURES

`graph` trains on the one batch in FOLDER from the first weights of ours. `flow` is the report's way from end to end:
ImageDataGenerator.flow_from_directory over PICTURES/real and PICTURES/fake, with its augmentation, into `fit`. Both run
as a TensorFlow graph; with XLA (`jit_compile`) they are several times slower on a CPU.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from serving import serve


def make() -> Any:
    """The program's answers."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(2)
    folder, kind, *pictures = sys.argv[1:]
    with np.load(Path(folder) / "batch.npz") as found:
        images, labels = found["images"], found["labels"]
    size = images.shape[1]
    layers = keras.layers
    # The generator scales already, and gives float pixels.
    first = [layers.Rescaling(1 / 255)] if kind == "graph" else []
    model = keras.Sequential(
        [
            keras.Input((size, size, 3), dtype="uint8" if kind == "graph" else "float32"),
            *first,
            *(
                layer
                for filters in (32, 64, 128)
                for layer in (layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D(2))
            ),
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dense(1),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-4, epsilon=1e-8),
        keras.losses.BinaryCrossentropy(from_logits=True),
        jit_compile=False,
    )
    weights = Path(folder) / "weights.npz"
    if kind == "graph" and weights.exists():
        with np.load(weights) as found:
            names = (*(f"convs.{index}" for index in range(3)), "dense1", "dense2")
            model.set_weights([found[f"{name}.{part}"] for name in names for part in ("kernel", "bias")])

    def graph(steps: int = 1) -> dict[str, Any]:
        losses = []
        started = time.perf_counter()
        for _ in range(steps):
            losses.append(float(model.train_on_batch(images, labels[:, None])))
            # Keras answers with the mean since the last reset.
            model.reset_metrics()
        return {"seconds": time.perf_counter() - started, "losses": losses}

    if kind == "graph":
        return graph

    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    generator = ImageDataGenerator(
        rescale=1 / 255,
        rotation_range=20,
        width_shift_range=0.1,
        height_shift_range=0.1,
        zoom_range=0.1,
        horizontal_flip=True,
        fill_mode="nearest",
    )
    batches = generator.flow_from_directory(
        pictures[0],
        target_size=(size, size),
        batch_size=len(images),
        class_mode="binary",
        classes=["real", "fake"],
        seed=0,
    )

    class Clock(keras.callbacks.Callback):
        """When each batch was done."""

        def on_train_begin(self, logs: Any = None) -> None:
            self.times: list[float] = []

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.times.append(time.perf_counter())

    clock = Clock()

    def flow(steps: int = 1) -> dict[str, Any]:
        # From the end of the first step on: what starting `fit` takes is not counted against it.
        history = model.fit(batches, steps_per_epoch=steps + 1, epochs=1, verbose=0, callbacks=[clock])
        return {"seconds": clock.times[-1] - clock.times[0], "losses": history.history["loss"]}

    return flow


if __name__ == "__main__":
    serve(make)
