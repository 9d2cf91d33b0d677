"""EfficientNet-Lite 0, 1 and 2: the EfficientNet of Tan and Le (2019) without squeeze-and-excitation, with ReLU6.

The variants have about 3.4, 4.1 and 4.8 million parameters without ImageNet's classifier. They accept any input size;
padding is TensorFlow's `SAME`, as in the published weights (`fakeface_jax/models/starting_weights.py` reads them).

Example:
    >>> model = EfficientNetLite(rngs=nnx.Rngs(0), variant=0, size=160)
    >>> model(jnp.zeros((1, 160, 160, 3))).shape
    (1,)
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from fakeface_jax.efficientnet_lite_config import EPSILON, HEAD, SCALES, STEM, STRIDES, LiteBlock, lite_stages
from fakeface_jax.errors import ConfigError
from fakeface_jax.models.depthwise import channel_moments, depthwise_conv, scale_channels
from fakeface_jax.models.layers import pointwise_conv, stem_conv

MOMENTUM = 0.98
"""Momentum of the running statistics. TensorFlow's 0.99 suits runs of 100,000 steps; fine-tuning takes thousands."""


STAGES = len(STRIDES) + 2
"""Stem, seven stages of blocks and head; stages can be frozen from the input on."""


class BatchNorm(nnx.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015) with running statistics.

    Args:
        channels: number of channels of its input.
    """

    def __init__(self, channels: int) -> None:
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Float[Array, "n h w c"], *, use_batch: bool) -> Float[Array, "n h w c"]:
        """Normalises by the batch's statistics, with which it updates the running ones, or by the running ones."""
        if use_batch:
            mean, var = channel_moments(x.astype(jnp.float32))
            self.mean[...] = MOMENTUM * self.mean[...] + (1 - MOMENTUM) * jax.lax.stop_gradient(mean)
            self.var[...] = MOMENTUM * self.var[...] + (1 - MOMENTUM) * jax.lax.stop_gradient(var)
        else:
            mean, var = self.mean[...], self.var[...]
        scale = self.scale[...] * jax.lax.rsqrt(var + EPSILON)
        shift = self.bias[...] - mean * scale
        return scale_channels(x, scale.astype(x.dtype), shift.astype(x.dtype))


class _Block(nnx.Module):
    """Inverted residual (Sandler et al., 2018): expand, depthwise, project; adds the input if the shapes allow it."""

    def __init__(self, block: LiteBlock, rngs: nnx.Rngs) -> None:
        inner = block.inputs * block.expansion
        self.stride, self.residual = block.stride, block.residual
        self.expand = nnx.Param(_pointwise_init(rngs, block.inputs, inner)) if block.expansion != 1 else None
        self.expand_norm = BatchNorm(inner) if block.expansion != 1 else None
        fan = math.sqrt(2.0 / block.kernel**2)
        self.depthwise = nnx.Param(fan * jax.random.normal(rngs.params(), (block.kernel, block.kernel, inner)))
        self.depthwise_norm = BatchNorm(inner)
        self.project = nnx.Param(_pointwise_init(rngs, inner, block.outputs))
        self.project_norm = BatchNorm(block.outputs)

    def __call__(self, x: jax.Array, *, use_batch: bool, keep: jax.Array | None) -> jax.Array:
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = _relu6(self.expand_norm(pointwise_conv(y, self.expand[...].astype(y.dtype)), use_batch=use_batch))
        y = depthwise_conv(y, self.depthwise[...].astype(y.dtype), self.stride)
        y = _relu6(self.depthwise_norm(y, use_batch=use_batch))
        y = self.project_norm(pointwise_conv(y, self.project[...].astype(y.dtype)), use_batch=use_batch)
        if not self.residual:
            return y
        return x + (y if keep is None else y * keep[:, None, None, None].astype(y.dtype))


class EfficientNetLite(nnx.Module):
    """EfficientNet-Lite with a single logit.

    Args:
        rngs: random numbers for the initial weights.
        variant: 0, 1 or 2.
        size: side of the input in pixels, for the summary and for code that cuts crops.
        dtype: type of the computation, `float32` or `bfloat16`; weights, statistics and logits stay float32.
        dropout: share of the pooled features that is dropped in training.
        drop_path: share of residual branches that is dropped in training in the last block; it rises linearly from 0 in
            the first block: stochastic depth (Huang et al., 2016).
        frozen_stages: number of stages, from the input on, whose weights and statistics are fixed in training.
        running_statistics: normalise by the running statistics in training too, and do not update them.
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        variant: int = 0,
        size: int = 224,
        dtype: str = "float32",
        dropout: float = 0.2,
        drop_path: float = 0.1,
        frozen_stages: int = 0,
        running_statistics: bool = False,
    ) -> None:
        if variant not in SCALES:
            raise ConfigError(f"EfficientNet-Lite {variant} is not known; use 0, 1 or 2")
        if dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype {dtype!r}: use float32 or bfloat16")
        if size < 32:
            raise ConfigError(f"EfficientNet-Lite needs an input of at least 32 pixels, not {size}")
        if not (0 <= dropout < 1 and 0 <= drop_path < 1):
            raise ConfigError(f"dropout {dropout} and drop_path {drop_path} must be shares in [0, 1)")
        if not 0 <= frozen_stages < STAGES:
            raise ConfigError(
                f"frozen_stages {frozen_stages}: must be between 0 and {STAGES - 1}; the head is always trained"
            )
        self.size, self.dtype = size, jnp.dtype(dtype)
        self.dropout, self.drop_path = dropout, drop_path
        self.frozen_stages, self.running_statistics = frozen_stages, running_statistics
        self.stem = nnx.Param(math.sqrt(2.0 / 27) * jax.random.normal(rngs.params(), (3, 3, 3, STEM)))
        self.stem_norm = BatchNorm(STEM)
        stages = lite_stages(variant)
        self.stages: nnx.List[nnx.List[_Block]] = nnx.List(
            [nnx.List([_Block(block, rngs) for block in blocks]) for blocks in stages]
        )
        inputs = stages[-1][-1].outputs
        self.head = nnx.Param(_pointwise_init(rngs, inputs, HEAD))
        self.head_norm = BatchNorm(HEAD)
        # Small, so that fine-tuning starts from an undecided classifier instead of unlearning a random one.
        self.classifier = nnx.Linear(HEAD, 1, kernel_init=nnx.initializers.normal(1e-3), rngs=rngs)

    def __call__(self, pixels: Float[Array, "n s s 3"], *, key: Key[Array, ""] | None = None) -> Float[Array, " n"]:
        """Returns the logits of normalised pixels; positive means fake.

        Args:
            key: randomness of a training step; None outside training, which uses running statistics and drops nothing.
        """
        features = self.features(pixels, key=key)
        if key is not None and self.dropout:
            kept = jax.random.bernoulli(jax.random.fold_in(key, 0), 1 - self.dropout, features.shape)
            features = features * kept / (1 - self.dropout)
        return (features @ self.classifier.kernel[...] + self._classifier_bias())[:, 0]

    def features(self, pixels: Float[Array, "n s s 3"], *, key: Key[Array, ""] | None = None) -> Float[Array, "n f"]:
        """Returns the input of the classifier: 1,280 averages over the picture, float32."""
        x = stem_conv(pixels.astype(self.dtype), self.stem[...].astype(self.dtype))
        x = _relu6(self.stem_norm(x, use_batch=self._use_batch(0, key)))
        last = sum(len(blocks) for blocks in self.stages) - 1
        number = 0
        for index, blocks in enumerate(self.stages, 1):
            for block in blocks:
                keep = self._kept_paths(key, number, number / last, len(pixels)) if block.residual else None
                x = block(x, use_batch=self._use_batch(index, key), keep=keep)
                number += 1
        x = pointwise_conv(x, self.head[...].astype(self.dtype))
        x = _relu6(self.head_norm(x, use_batch=self._use_batch(STAGES - 1, key)))
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))

    @staticmethod
    def stage_of(path: tuple[Any, ...]) -> int:
        """Returns the stage, from 0 to `STAGES` - 1, of a parameter by its path."""
        if path[0] in ("stem", "stem_norm"):
            return 0
        return int(path[1]) + 1 if path[0] == "stages" else STAGES - 1

    def summary(self) -> str:
        """Returns a table of the stages: output shape, blocks, parameters."""
        state = nnx.to_flat_state(nnx.state(self, nnx.Param))
        counts = [0] * STAGES
        for path, leaf in state:
            counts[self.stage_of(path)] += leaf[...].size
        names = ["stem", *(f"stage {n} ({len(blocks)} blocks)" for n, blocks in enumerate(self.stages, 1)), "head"]
        side, channels = -(-self.size // 2), [STEM, *(blocks[-1].project.shape[1] for blocks in self.stages), HEAD]
        lines = [f"{'Stage':<34}{'Output shape':<26}{'Parameters':>12}", "-" * 72]
        for index, (name, count) in enumerate(zip(names, counts, strict=True)):
            if 0 < index < STAGES - 1:
                side = -(-side // STRIDES[index - 1])
            frozen = ", frozen" if index < self.frozen_stages else ""
            lines.append(f"{name + frozen:<34}{f'(None, {side}, {side}, {channels[index]})':<26}{count:>12,}")
        lines += ["-" * 72, f"Total parameters: {sum(counts):,}"]
        return "\n".join(lines)

    def _use_batch(self, stage: int, key: jax.Array | None) -> bool:
        return key is not None and not self.running_statistics and stage >= self.frozen_stages

    def _kept_paths(self, key: jax.Array | None, number: int, depth: float, count: int) -> jax.Array | None:
        rate = self.drop_path * depth
        if key is None or rate == 0:
            return None
        return jax.random.bernoulli(jax.random.fold_in(key, number + 1), 1 - rate, (count,)) / (1 - rate)

    def _classifier_bias(self) -> jax.Array:
        assert self.classifier.bias is not None  # Flax makes it optional
        return self.classifier.bias[...]


def _relu6(x: jax.Array) -> jax.Array:
    return jnp.clip(x, 0, 6)


def _pointwise_init(rngs: nnx.Rngs, inputs: int, outputs: int) -> jax.Array:
    return math.sqrt(2.0 / outputs) * jax.random.normal(rngs.params(), (inputs, outputs))
