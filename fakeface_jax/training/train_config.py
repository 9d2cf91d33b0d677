"""Everything a training run can be told, with its defaults; stored resolved in the run directory and the bundle.

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
    """Settings of the network; None leaves one to the network.

    Attributes:
        input: what it is given: colours, or what a high-pass filter leaves of them.
        dropout: share of the pooled features that training drops.
        drop_path: share of residual branches that training drops in the last block.
        frozen_stages: so many stages, from the input on, are not trained.
        running_statistics: batch normalisation uses its running statistics in training too.
        tune: what of the other stages is trained: everything, or layer normalisations and the classifier alone, as
            GenD does (Yermakov et al., 2025).
    """

    input: Literal["rgb", "residual"] = "rgb"
    dropout: float | None = None
    drop_path: float | None = None
    frozen_stages: int = 0
    running_statistics: bool = False
    tune: Literal["all", "layer-norm"] = "all"

    def settings(self) -> dict[str, Any]:
        """What `create_model` is told: only what differs from the network's own defaults."""
        given: dict[str, Any] = {"input": self.input} if self.input != "rgb" else {}
        given |= {name: value for name in ("dropout", "drop_path") if (value := getattr(self, name)) is not None}
        given |= {"frozen_stages": self.frozen_stages} if self.frozen_stages else {}
        return given | ({"running_statistics": True} if self.running_statistics else {})


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How weights are moved.

    Attributes:
        learning_rate: of Adam, at its highest.
        schedule: constant, or falling to zero over the run along half a cosine.
        warmup: share of the run over which the rate rises linearly from zero.
        weight_decay: AdamW's (Loshchilov and Hutter, 2019); not of scales, shifts and biases.
        layer_decay: factor on the learning rate for each stage further from the output; 1 treats all alike.
        clip_norm: longest gradient; None for any.
        average: decay of an exponential moving average of the weights, which is then what is validated and shipped;
            None for none. It starts lower, min(average, (1 + step) / (10 + step)), to forget the first weights.
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
            raise ConfigError(f"learning rate {self.learning_rate} is not between 0 and 1")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup {self.warmup} is not a share in [0, 1)")
        if not 0 <= self.weight_decay < 1:
            raise ConfigError(f"weight decay {self.weight_decay} is not between 0 and 1")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"layer decay {self.layer_decay} is not in (0, 1]")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ConfigError(f"clip norm {self.clip_norm} is not positive")
        if self.average is not None and not 0 < self.average < 1:
            raise ConfigError(f"average {self.average} is not between 0 and 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What is minimised: binary cross-entropy, with these changes.

    Attributes:
        label_smoothing: targets become this / 2 and 1 - this / 2 in training; validation keeps 0 and 1.
        separate_classes: reals and fakes of a batch are averaged on their own, then the two means: whatever the batch
            holds, both classes pull alike. The winner of the Deepfake Detection Challenge did so.
    """

    label_smoothing: float = 0.0
    separate_classes: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label smoothing {self.label_smoothing} is not in [0, 1)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run.

    Attributes:
        data: prepared crops, from `fakeface data build`; several directories, cut alike, are read as one.
        output: the run directory: config, logs, figures, checkpoints, bundle.
        model: name of the network.
        init_from: weights to start from: `imagenet` (the network's published ones, from an installed package), or the
            path of a bundle, a .pth or .safetensors file, or a Hugging Face directory; None for fresh ones.
        epochs: at most so many passes over the training split.
        patience: stop after so many epochs without a lower validation loss.
        seed: of weights, shuffle and augmentation.
        dtype: of the computation; weights, optimiser and loss stay float32.
        network: settings of the network.
        optimizer: how weights are moved.
        loss: what is minimised.
        loader: batch size, reading, sampling.
        augment: strength of the warp.
        degrade: compression, scaling, blur, noise and the like.
        pseudo: fakes made of real faces.
        new_share: of each class that the last of `data` has, this share of what is drawn in training comes from there,
            and an epoch is about one pass over it (`data.replay`); None draws from all of `data` alike.
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
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.new_share is not None:
            if not 0 < self.new_share < 1:
                raise ConfigError(f"new_share {self.new_share} is not a share between 0 and 1")
            if not isinstance(self.data, tuple) or len(self.data) < 2:
                raise ConfigError("new_share is drawn from the last of several data directories; name two or more")

    def to_dict(self) -> dict[str, Any]:
        """The resolved configuration as plain JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=str))

    def story(self) -> dict[str, Any]:
        """The part that decides the sequence of losses: a run resumes only under the same."""
        kept = self.to_dict()
        # A cosine ends with the last epoch, so another number of epochs is another sequence.
        fixed = self.optimizer.schedule == "cosine" or self.optimizer.warmup or self.new_share is not None
        free = () if fixed else ("epochs",)
        for name in ("output", "data", "patience", "checkpoint_every", *free):
            del kept[name]
        kept["loader"].pop("workers")  # changes no batch
        return kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class UpdateConfig:
    """One update of a bundle by new fakes, or new reals, that keeps what it knows.

    Attributes:
        new: the new source, KIND:PATH[@NAME] as `fakeface data merge` takes it.
        data: prepared crops that the bundle was trained on, from `fakeface data build`; after an update, those and the
            update's `data` directory.
        output: the run directory: crops and manifest of the new source, training, comparison, bundle.
        bundle: what is updated; the model that ships if not given.
        manifest: what `data` was built from, so that no new picture is a copy of one that is held out; if not given,
            `manifest.parquet` beside (or above) the last of `data`.
        share: of what is drawn in training, how much is new, in each class that the new source has; the rest replays
            old samples, so that they are not forgotten.
        epochs: passes over the new source.
        learning_rate: at its highest; it falls along half a cosine. Low, as the weights are good already.
        batch_size: samples per step.
        seed: of drawing and augmentation.
        max_loss: AUC that a source may lose on its test split before the bundle is refused.
        resamples: of the bootstrap in the comparison.
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
            raise ConfigError("an update replays old samples; name the data that the bundle was trained on")
        if not 0 < self.share < 1:
            raise ConfigError(f"share {self.share} of new samples is not between 0 and 1")
        if not 0 <= self.max_loss <= 1:
            raise ConfigError(f"max_loss {self.max_loss} is not between 0 and 1")
        for name in ("epochs", "batch_size", "resamples"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning rate {self.learning_rate} is not between 0 and 1")
