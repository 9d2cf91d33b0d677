"""Vision transformers (Dosovitskiy et al., 2021) as built by CLIP, DINOv2 and DINOv3, with one logit.

One module serves all three, because they differ only in settings: CLIP (Radford et al., 2021) normalises before its
first block and uses quick GELU; DINOv2 (Oquab et al., 2023) scales its residual branches; DINOv3 (Siméoni et al., 2025)
also has register tokens, and rotates queries and keys by the position of their patch instead of adding learnt
positions. The settings are plain JSON values that suffice to rebuild the network; `huggingface.py` reads them, with the
weights, from a directory.

The head and the choice of trained parameters follow GenD (Yermakov et al., 2025, arXiv 2508.06248): a linear layer on
the class token's feature, scaled to length 1; only this layer and the layer normalisations are trained
(`layer_norm_only`).

Example:
    >>> model = VisionTransformer(rngs=nnx.Rngs(0), size=224, patch=14, width=1024, depth=24, heads=16, mlp_width=4096)
    >>> model(jnp.zeros((1, 224, 224, 3))).shape
    (1,)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from fakeface_jax.errors import ConfigError

BIASES = ("patch", "query", "key", "value", "out", "mlp")
"""The layers that can have a bias."""

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
}
"""Activations of a block's multi-layer perceptron."""

_NORMS = frozenset({"norm_pre", "norm1", "norm2", "norm"})


def layer_norm_only(path: tuple[Any, ...]) -> bool:
    """Tells if a parameter is trained in GenD's tuning: scales and biases of layer normalisations, and the classifier.

    Args:
        path: path of the parameter in the network's state: `("blocks", 3, "norm1", "scale")`.
    """
    return path[0] == "classifier" or any(part in _NORMS for part in path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """All settings that are needed to rebuild the network.

    Attributes:
        size: side of the input in pixels, a multiple of `patch`.
        dtype: type of the computation, `float32` or `bfloat16`; weights, features and logits stay float32.
        patch: side of a patch in pixels.
        width: width of a token.
        depth: number of blocks.
        heads: number of attention heads.
        mlp_width: width of the hidden layer of a block's perceptron.
        gated_mlp: the hidden layer is the product of two, one of them through the activation: SwiGLU (Shazeer, 2020).
        activation: one of `ACTIVATIONS`.
        biases: the layers of `BIASES` that have a bias.
        norm_epsilon: added to variances.
        pre_norm: normalise the tokens before the first block too.
        layer_scale: scale residual branches per channel (Touvron et al., 2021).
        registers: number of tokens without a position (Darcet et al., 2024).
        position_grid: side, in patches, of the table of learnt positions, which is interpolated to other sizes of
            input; 0 for rotary positions (Su et al., 2021) without a table.
        rope_theta: base period of rotary positions.
        unit_features: scale the classifier's input to length 1.
        frozen_stages: number of stages, from the input on, without a gradient; stage 0 makes the tokens, the blocks
            follow; the last stage, final normalisation and classifier, is always trained.
    """

    size: int = 224
    dtype: str = "float32"
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    gated_mlp: bool = False
    activation: str = "gelu"
    biases: Sequence[str] = BIASES
    norm_epsilon: float = 1e-6
    pre_norm: bool = False
    layer_scale: bool = False
    registers: int = 0
    position_grid: int = 14
    rope_theta: float = 100.0
    unit_features: bool = True
    frozen_stages: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "biases", tuple(self.biases))  # JSON has lists; Flax needs hashable values
        for name in ("size", "patch", "width", "depth", "heads", "mlp_width"):
            _whole(name, getattr(self, name), least=1)
        for name in ("registers", "position_grid", "frozen_stages"):
            _whole(name, getattr(self, name), least=0)
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype {self.dtype!r}: use float32 or bfloat16")
        if self.size % self.patch:
            raise ConfigError(
                f"size {self.size} is not a multiple of the vision transformer's patch, {self.patch} pixels; use one"
            )
        if self.width % self.heads:
            raise ConfigError(
                f"width {self.width} of a vision transformer is not a multiple of its {self.heads} heads; use one"
            )
        if not self.position_grid and self.width // self.heads % 4:
            raise ConfigError(f"rotary positions need heads of 4, 8, 12, ... channels; got {self.width // self.heads}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"unknown activation {self.activation!r}; use one of {', '.join(ACTIVATIONS)}")
        if odd := set(self.biases) - set(BIASES):
            raise ConfigError(f"unknown biases {', '.join(sorted(map(str, odd)))}; use any of {', '.join(BIASES)}")
        if self.norm_epsilon <= 0 or self.rope_theta <= 0:
            raise ConfigError(f"norm_epsilon {self.norm_epsilon} and rope_theta {self.rope_theta} must be above 0")
        if self.frozen_stages > self.depth + 1:
            raise ConfigError(f"frozen_stages {self.frozen_stages}: must be between 0 and {self.depth + 1}")


def _whole(name: str, value: Any, *, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} {value!r} of a vision transformer must be an integer of at least {least}")


class VisionTransformer(nnx.Module):
    """A vision transformer with one logit; its settings are those of `ViTConfig`.

    Args:
        rngs: random numbers for the initial weights.
        size: side of the input in pixels.
        dtype: type of the computation, `float32` or `bfloat16`.
        **settings: the other attributes of `ViTConfig`.

    Raises:
        ConfigError: a setting cannot be used.
        TypeError: a setting is unknown.
    """

    def __init__(self, *, rngs: nnx.Rngs, size: int = 224, dtype: str = "float32", **settings: Any) -> None:
        self.config = config = ViTConfig(size=size, dtype=dtype, **settings)
        normal = jax.nn.initializers.truncated_normal(0.02)
        self.patch = _linear(config, "patch", 3 * config.patch**2, config.width, rngs)
        self.class_token = nnx.Param(normal(rngs.params(), (config.width,)))
        shape = (1 + config.position_grid**2, config.width)
        self.position = nnx.Param(normal(rngs.params(), shape)) if config.position_grid else None
        shape = (config.registers, config.width)
        self.registers = nnx.Param(normal(rngs.params(), shape)) if config.registers else None
        self.norm_pre = _layer_norm(config, rngs) if config.pre_norm else None
        self.blocks: nnx.List[_Block] = nnx.List([_Block(config, rngs) for _ in range(config.depth)])
        self.norm = _layer_norm(dataclasses.replace(config, dtype="float32"), rngs)
        # Small, so that fine-tuning starts from an undecided classifier instead of unlearning a random one.
        self.classifier = nnx.Linear(config.width, 1, kernel_init=jax.nn.initializers.normal(1e-3), rngs=rngs)

    def __call__(self, pixels: Float[Array, "n s s 3"], *, key: Key[Array, ""] | None = None) -> Float[Array, " n"]:
        """Returns the logits of normalised pixels; positive means fake. There is no dropout, so `key` changes nothing.

        Raises:
            ConfigError: the side is not a multiple of the patch.
        """
        features = self.features(pixels)
        if self.config.unit_features:
            features = unit_length(features)
        return self.classifier(features)[:, 0]

    def features(self, pixels: Float[Array, "n s s 3"]) -> Float[Array, "n width"]:
        """Returns the class token after the last normalisation, float32; Hugging Face calls it `pooler_output`.

        Raises:
            ConfigError: the side is not a multiple of the patch.
        """
        x, rope = self._start(pixels)
        for stage, block in enumerate(self.blocks, 1):
            x = block(self._cut(x, stage), rope)
        return self.norm(self._cut(x, self.config.depth + 1)[:, 0])

    def depth_features(self, pixels: Float[Array, "n s s 3"], taps: Sequence[int]) -> Float[Array, "n taps 3 width"]:
        """Returns the class token and the mean and deviation of the patch tokens after the given blocks, float32.

        Args:
            pixels: normalised pixels.
            taps: numbers of the blocks, counted from 0, in ascending order.

        Raises:
            ConfigError: the side is not a multiple of the patch.
        """
        x, rope = self._start(pixels)
        found = []
        for index, block in enumerate(self.blocks[: max(taps) + 1]):
            x = block(x, rope)
            if index in taps:
                found.append(depth_statistics(x.astype(jnp.float32), 1 + self.config.registers))
        return jnp.stack(found, axis=1)

    def _start(self, pixels: jax.Array) -> tuple[jax.Array, tuple[np.ndarray, np.ndarray] | None]:
        """Returns the tokens of the first block, and the rotation of rotary positions."""
        config = self.config
        grid, left = divmod(pixels.shape[1], config.patch)
        if left or not grid:
            raise ConfigError(
                f"pictures of {pixels.shape[1]} pixels cannot be cut into patches of {config.patch}; use a multiple"
            )
        rope = None
        if not config.position_grid:
            rope = rotary_table(grid, 1 + config.registers, config.width // config.heads, config.rope_theta)
        return self._tokens(pixels, grid), rope

    def _cut(self, x: jax.Array, stage: int) -> jax.Array:
        """Returns the input of a stage; stops the gradient at the first trained one, so that frozen ones need none."""
        return jax.lax.stop_gradient(x) if stage == self.config.frozen_stages else x

    @property
    def stage_of(self) -> Callable[[tuple[Any, ...]], int]:
        """Returns a function from a parameter's path to its stage, counted from the input: tokens, blocks, head."""
        last = self.config.depth + 1  # a number instead of self, which would keep the weights alive

        def stage(path: tuple[Any, ...]) -> int:
            if path[0] == "blocks":
                return int(path[1]) + 1
            return last if path[0] in ("norm", "classifier") else 0

        return stage

    def summary(self) -> str:
        """Returns a table of the stages: output shape, parameters."""
        config, counts = self.config, [0] * (self.config.depth + 2)
        for path, leaf in nnx.to_flat_state(nnx.state(self, nnx.Param)):
            counts[self.stage_of(path)] += math.prod(leaf.shape)
        tokens = 1 + config.registers + (config.size // config.patch) ** 2
        shape = f"(None, {tokens}, {config.width})"
        rows = [(f"tokens of {config.patch} x {config.patch} pixels", shape, counts[0])]
        rows += [(f"block {number}", shape, count) for number, count in enumerate(counts[1:-1], 1)]
        rows += [("norm and classifier", "(None, 1)", counts[-1])]
        lines = [f"{'Stage':<34}{'Output shape':<26}{'Parameters':>12}", "-" * 72]
        for stage, (name, output, count) in enumerate(rows):
            frozen = ", frozen" if stage < config.frozen_stages else ""
            lines.append(f"{name + frozen:<34}{output:<26}{count:>12,}")
        lines += ["-" * 72, f"Total parameters: {sum(counts):,}"]
        return "\n".join(lines)

    def _tokens(self, pixels: jax.Array, grid: int) -> jax.Array:
        """Returns class token, registers and patches, [n, tokens, width]."""
        config, count, dtype = self.config, len(pixels), jnp.dtype(self.config.dtype)
        # A convolution whose stride is its kernel's side is a matrix product over patches.
        patches = pixels.astype(dtype).reshape(count, grid, config.patch, grid, config.patch, 3)
        patches = self.patch(patches.transpose(0, 1, 3, 2, 4, 5).reshape(count, grid * grid, -1))
        first = self.class_token[...]
        if self.position is not None:
            table = self.position[...]
            first = first + table[0]
            patches = patches + resize_positions(table[1:], grid).astype(dtype)
        prefix = first[None]
        if self.registers is not None:
            prefix = jnp.concatenate([prefix, self.registers[...]])
        prefix = jnp.broadcast_to(prefix.astype(dtype), (count, *prefix.shape))
        x = jnp.concatenate([prefix, patches], axis=1)
        return x if self.norm_pre is None else self.norm_pre(x)


class _Block(nnx.Module):
    """Attention and perceptron; each normalises its input, and its result is added to the input."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs) -> None:
        width, hidden = config.width, config.mlp_width
        self.heads, self.activation = config.heads, config.activation
        self.norm1 = _layer_norm(config, rngs)
        self.query = _linear(config, "query", width, width, rngs)
        self.key = _linear(config, "key", width, width, rngs)
        self.value = _linear(config, "value", width, width, rngs)
        self.out = _linear(config, "out", width, width, rngs)
        self.layer_scale1 = nnx.Param(jnp.ones(width)) if config.layer_scale else None
        self.norm2 = _layer_norm(config, rngs)
        self.gate = _linear(config, "mlp", width, hidden, rngs) if config.gated_mlp else None
        self.up = _linear(config, "mlp", width, hidden, rngs)
        self.down = _linear(config, "mlp", hidden, width, rngs)
        self.layer_scale2 = nnx.Param(jnp.ones(width)) if config.layer_scale else None

    def __call__(self, x: jax.Array, rope: tuple[np.ndarray, np.ndarray] | None) -> jax.Array:
        y = self.norm1(x)
        query, key, value = (
            layer(y).reshape(*y.shape[:2], self.heads, -1) for layer in (self.query, self.key, self.value)
        )
        if rope is not None:
            query, key = _rotate(query, rope), _rotate(key, rope)
        x = x + _scaled(self.out(jax.nn.dot_product_attention(query, key, value).reshape(y.shape)), self.layer_scale1)
        y = self.norm2(x)
        act = ACTIVATIONS[self.activation]
        hidden = act(self.up(y)) if self.gate is None else act(self.gate(y)) * self.up(y)
        return x + _scaled(self.down(hidden), self.layer_scale2)


def depth_statistics(tokens: Float[Array, "n t width"], prefix: int) -> Float[Array, "n 3 width"]:
    """Returns the class token and the mean and deviation of the patch tokens, which follow `prefix` other tokens."""
    patches = tokens[:, prefix:]
    # The root has no gradient at zero, which uniform pictures reach.
    deviation = jnp.sqrt(jnp.maximum(jnp.var(patches, axis=1), 1e-12))
    return jnp.stack([tokens[:, 0], jnp.mean(patches, axis=1), deviation], axis=1)


def _scaled(x: jax.Array, scale: nnx.Param | None) -> jax.Array:
    return x if scale is None else x * scale[...].astype(x.dtype)


def _linear(config: ViTConfig, name: str, inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    normal = jax.nn.initializers.truncated_normal(0.02)  # as in CLIP and DINO
    bias, dtype = name in config.biases, jnp.dtype(config.dtype)
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=normal, dtype=dtype, rngs=rngs)


def _layer_norm(config: ViTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The two-pass variance: the fast one loses that of tokens with a large mean.
    dtype = jnp.dtype(config.dtype)
    return nnx.LayerNorm(config.width, epsilon=config.norm_epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)


def unit_length(features: Float[Array, "n f"]) -> Float[Array, "n f"]:
    """Scales features to length 1 like PyTorch's `normalize`; has a gradient at zero too."""
    squares = jnp.sum(features * features, axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def resize_positions(table: Float[Array, "p width"], grid: int) -> Float[Array, "q width"]:
    """Resamples learnt positions of a square grid of patches to another grid: bicubic, as in `transformers`.

    Args:
        table: the positions, row by row.
        grid: side of the new grid in patches.
    """
    side = math.isqrt(len(table))
    if side == grid:
        return table
    matrix = bicubic_matrix(side, grid)
    # Positions are few, and an accelerator's fast products would lose half of their digits.
    new = jnp.einsum(
        "ia,jb,abw->ijw", matrix, matrix, table.reshape(side, side, -1), precision=jax.lax.Precision.HIGHEST
    )
    return new.reshape(grid * grid, -1)


@functools.lru_cache(maxsize=16)
def bicubic_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Returns the matrix that resamples a line of `old` points to `new` ones (Keys, 1981).

    It is PyTorch's bicubic interpolation (a = -0.75, no antialiasing, edges repeated), which `jax.image.resize` (a =
    -0.5) lacks.
    """
    places = (np.arange(new) + 0.5) * old / new - 0.5
    matrix, lines = np.zeros((new, old)), np.arange(new)
    for tap in range(-1, 3):
        point = np.floor(places) + tap
        x = np.abs(places - point)
        near = 1.25 * x**3 - 2.25 * x**2 + 1
        far = -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
        np.add.at(matrix, (lines, np.clip(point, 0, old - 1).astype(int)), np.where(x <= 1, near, far))
    return matrix.astype(np.float32)


@functools.lru_cache(maxsize=16)
def rotary_table(
    grid: int, prefix: int, channels: int, theta: float
) -> tuple[Float[np.ndarray, "tokens channels"], Float[np.ndarray, "tokens channels"]]:
    """Returns cosines and sines of DINOv3's rotation of queries and keys.

    Half of the channels turn with a patch's row and half with its column, both scaled to -1 to 1 for any size of the
    picture. The first `prefix` tokens have no position and are not turned.
    """
    centres = 2 * (np.arange(grid) + 0.5) / grid - 1
    places = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    frequencies = theta ** -(np.arange(channels // 4) * 4 / channels)
    angles = np.tile((2 * math.pi * places[:, :, None] * frequencies).reshape(len(places), -1), 2)
    angles = np.concatenate([np.zeros((prefix, channels)), angles])
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(x: jax.Array, rope: tuple[np.ndarray, np.ndarray]) -> jax.Array:
    """Rotates the channels of [n, tokens, heads, channels]; the first half pairs with the second."""
    cosine, sine = (table[:, None, :] for table in rope)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cosine + turned * sine).astype(x.dtype)
