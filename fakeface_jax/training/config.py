"""Everything a training run can be told, with its defaults; stored resolved in the run directory and the bundle.

Example:
    >>> config = TrainConfig(data=Path("data"), output=Path("runs/first"), epochs=3)
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from fakeface_jax.data.config import AugmentConfig, LoaderConfig
from fakeface_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        data: prepared crops, from `fakeface data build`.
        output: the run directory: config, logs, figures, checkpoints, bundle.
        model: name of the network.
        epochs: at most so many passes over the training split.
        learning_rate: of Adam.
        patience: stop after so many epochs without a lower validation loss.
        seed: of weights, shuffle and augmentation.
        dtype: of the computation; weights, optimiser and loss stay float32.
        loader: batch size and reading.
        augment: strength of the warp.
        checkpoint_every: steps between checkpoints within an epoch; one is always written at its end.
    """

    data: Path
    output: Path
    model: str = "report"
    epochs: int = 50
    learning_rate: float = 1e-3
    patience: int = 10
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    loader: LoaderConfig = LoaderConfig()
    augment: AugmentConfig = AugmentConfig()
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning rate {self.learning_rate} is not between 0 and 1")

    def to_dict(self) -> dict[str, Any]:
        """The resolved configuration as plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))

    def story(self) -> dict[str, Any]:
        """The part that decides the sequence of losses: a run resumes only under the same."""
        kept = self.to_dict()
        for name in ("output", "data", "epochs", "patience", "checkpoint_every"):
            del kept[name]
        kept["loader"].pop("workers")  # changes no batch
        return kept
