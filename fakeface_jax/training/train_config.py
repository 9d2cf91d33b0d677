"""Settings of trainings and updates, with their defaults; a run stores the resolved ones in its directory and bundle.

Example:
    >>> config = TrainConfig(data=Path("data"), output=Path("runs/first"), epochs=3)
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from fakeface_jax.data.augmentation_config import (
    NO_DEGRADATION,
    AugmentConfig,
    DegradeConfig,
    LoaderConfig,
    PseudoFakeConfig,
)
from fakeface_jax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Settings of the network; None uses the network's own default.

    Attributes:
        input: input of the network: rgb, or residual for the result of a high-pass filter.
        dropout: share of the pooled features that is dropped in training.
        drop_path: share of residual branches that is dropped in training in the last block.
        frozen_stages: number of stages, from the input on, that are not trained.
        running_statistics: use the running statistics of batch normalisation in training too.
        tune: which weights of the other stages are trained: all, or only layer normalisations and the classifier, as in
            GenD (Yermakov et al., 2025).
    """

    input: Literal["rgb", "residual"] = "rgb"
    dropout: float | None = None
    drop_path: float | None = None
    frozen_stages: int = 0
    running_statistics: bool = False
    tune: Literal["all", "layer-norm"] = "all"

    def settings(self) -> dict[str, Any]:
        """Returns the settings for `create_model`: only those that differ from the network's own defaults."""
        given: dict[str, Any] = {"input": self.input} if self.input != "rgb" else {}
        given |= {name: value for name in ("dropout", "drop_path") if (value := getattr(self, name)) is not None}
        given |= {"frozen_stages": self.frozen_stages} if self.frozen_stages else {}
        return given | ({"running_statistics": True} if self.running_statistics else {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Settings of the optimiser.

    Attributes:
        learning_rate: highest learning rate of Adam.
        schedule: constant, or falling to zero over the run along half a cosine.
        warmup: share of the run over which the rate rises linearly from zero.
        weight_decay: weight decay of AdamW (Loshchilov and Hutter, 2019); scales, shifts and biases do not decay.
        layer_decay: factor on the learning rate for each stage further from the output; 1 treats all stages alike.
        clip_norm: gradients are shortened to at most this length; None does not limit them.
        average: decay of an exponential moving average of the weights, which is then validated and stored in the
            bundle; None keeps no average. It starts lower, at min(average, (1 + step) / (10 + step)), to forget the
            first weights.
    """

    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: float = 0.0
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    clip_norm: float | None = None
    average: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning rate {self.learning_rate}: must be between 0 and 1")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup {self.warmup}: must be a share in [0, 1)")
        if not 0 <= self.weight_decay < 1:
            raise ConfigError(f"weight decay {self.weight_decay}: must be between 0 and 1")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer decay {self.layer_decay}: must be above 0 and at most 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip norm {self.clip_norm}: must be above 0")
        if self.average is not None and not 0 < self.average < 1:
            raise ConfigError(f"average {self.average}: must be between 0 and 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Settings of the loss: binary cross-entropy with these changes.

    Attributes:
        label_smoothing: targets become this / 2 and 1 - this / 2 in training; validation keeps 0 and 1.
        separate_classes: average the losses of reals and fakes of a batch separately, then the two means, so that both
            classes have the same weight in every batch. The winner of the Deepfake Detection Challenge did so.
    """

    label_smoothing: float = 0.0
    separate_classes: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label smoothing {self.label_smoothing}: must be a share in [0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training run.

    Attributes:
        data: prepared crops, from `fakeface data build`; several directories with the same crop settings are read as
            one.
        output: the run directory: config, logs, figures, checkpoints, bundle.
        model: name of the network.
        init_from: weights to start from: `imagenet` (the network's published ones, from an installed package), or the
            path of a bundle, a .pth or .safetensors file, or a Hugging Face directory; None starts from random weights.
        epochs: largest number of passes over the training split.
        patience: stop after this many epochs without a lower validation loss.
        seed: seed of weights, shuffle and augmentation.
        dtype: type of the computation; weights, optimiser and loss stay float32.
        network: settings of the network.
        optimizer: settings of the optimiser.
        loss: settings of the loss.
        loader: batch size, reading, sampling.
        augment: strength of the warp.
        degrade: compression, scaling, blur, noise and similar degradations.
        pseudo: fakes made from real faces.
        new_share: share of the training samples of each class that comes from the last directory of `data`, if it has
            the class; an epoch is then about one pass over that directory. None draws from all directories alike.
        checkpoint_every: steps between checkpoints within an epoch; one is always written at its end.
    """

    data: Path | tuple[Path, ...]
    output: Path
    model: str = "report"
    init_from: str | None = None
    epochs: int = 50
    patience: int = 10
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    network: NetworkConfig = NetworkConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    loader: LoaderConfig = LoaderConfig()
    augment: AugmentConfig = AugmentConfig()
    degrade: DegradeConfig = NO_DEGRADATION
    pseudo: PseudoFakeConfig = PseudoFakeConfig()
    new_share: float | None = None
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for name in ("epochs", "patience", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        if self.new_share is not None:
            if not 0 < self.new_share < 1:
                raise ConfigError(f"new_share {self.new_share}: must be between 0 and 1")
            if not isinstance(self.data, tuple) or len(self.data) < 2:
                raise ConfigError(
                    "new_share needs at least two data directories, the last with the new samples; name another with "
                    "--data"
                )

    def to_dict(self) -> dict[str, Any]:
        """Returns the resolved configuration as plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))

    def story(self) -> dict[str, Any]:
        """Returns the settings that determine the sequence of losses: a run resumes only if they are unchanged."""
        kept = self.to_dict()
        # A cosine ends with the last epoch, so another number of epochs gives another sequence.
        fixed = self.optimizer.schedule == "cosine" or self.optimizer.warmup or self.new_share is not None
        free = () if fixed else ("epochs",)
        for name in ("output", "data", "patience", "checkpoint_every", *free):
            del kept[name]
        kept["loader"].pop("workers")  # changes no batch
        return kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """Settings of an update, which trains a bundle on new fakes or reals without losing what it knows.

    Attributes:
        new: the new source as KIND:PATH[@NAME], in the form of `fakeface data merge`.
        data: prepared crops that the bundle was trained on, from `fakeface data build`; after an update, these and the
            update's `data` directory.
        output: the run directory: crops and manifest of the new source, training, comparison, bundle.
        bundle: the bundle to update. If omitted: the bundled model.
        manifest: manifest that `data` was built from; it keeps copies of held-out pictures out of training. If omitted:
            `manifest.parquet` beside (or above) the last directory of `data`.
        share: share of new samples among those drawn in training, in each class that the new source has; the others are
            old samples, which are repeated so that they are not forgotten.
        epochs: passes over the new source.
        learning_rate: highest learning rate; it falls along half a cosine. It should be low, as the weights are good
            already.
        batch_size: samples per step.
        seed: seed of drawing and augmentation.
        max_loss: largest loss of AUC on a source's test split with which the bundle is still accepted.
        resamples: number of bootstrap resamples in the comparison.
    """

    new: str
    data: tuple[Path, ...]
    output: Path
    bundle: Path | None = None
    manifest: Path | None = None
    share: float = 0.5
    epochs: int = 5
    learning_rate: float = 1e-4
    batch_size: int = 32
    seed: int = 0
    max_loss: float = 0.02
    resamples: int = 1000

    def __post_init__(self) -> None:
        if not self.data:
            raise ConfigError(
                "an update needs the old samples too; name the data that the bundle was trained on with --data"
            )
        if not 0 < self.share < 1:
            raise ConfigError(f"share {self.share} of new samples: must be between 0 and 1")
        if not 0 <= self.max_loss <= 1:
            raise ConfigError(f"max_loss {self.max_loss}: must be between 0 and 1")
        for name in ("epochs", "batch_size", "resamples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning rate {self.learning_rate}: must be between 0 and 1")
