"""Vision transformers (Dosovitskiy et al., 2021) as CLIP, DINOv2 and DINOv3 build them, with one logit.

One module for the three, because they differ in settings only: CLIP (Radford et al., 2021) normalises before its first
block and uses quick GELU; DINOv2 (Oquab et al., 2023) scales its residual branches; DINOv3 (Siméoni et al., 2025) also
has register tokens, and rotates queries and keys by the place of their patch instead of adding learnt positions. The
settings are plain JSON values that alone rebuild the network; `huggingface.py` reads them and weights from a directory.

The head and what trains follow GenD (Yermakov et al., 2025, arXiv 2508.06248): a linear layer on the class token's
feature, scaled to length 1; only it and the layer normalisations train (`layer_norm_only`).

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
"""What a block's multi-layer perceptron can use."""

_NORMS = frozenset({"norm_pre", "norm1", "norm2", "norm"})


def layer_norm_only(path: tuple[Any, ...]) -> bool:
    """Whether a parameter trains under GenD's tuning: scales and biases of layer normalisations, and the classifier.

    Args:
        path: of the parameter in the network's state: `("blocks", 3, "norm1", "scale")`.
    """
    return path[0] == "classifier" or any(part in _NORMS for part in path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Everything that rebuilds the network.

    Attributes:
        size: side of the input in pixels, a multiple of `patch`.
        dtype: of the computation, `float32` or `bfloat16`; weights, features and logits stay float32.
        patch: side of a patch in pixels.
        width: of a token.
        depth: blocks.
        heads: of the attention.
        mlp_width: of the hidden layer of a block's perceptron.
        gated_mlp: the hidden layer is the product of two, one through the activation: SwiGLU (Shazeer, 2020).
        activation: one of `ACTIVATIONS`.
        biases: those of `BIASES` that have one.
        norm_epsilon: added to variances.
        pre_norm: the tokens are normalised before the first block too.
        layer_scale: residual branches are scaled by channel (Touvron et al., 2021).
        registers: tokens without a place (Darcet et al., 2024).
        position_grid: side, in patches, of the table of learnt positions, which is interpolated to other sizes of
            input; 0 for rotary positions (Su et al., 2021) and no table.
        rope_theta: base period of rotary positions.
        unit_features: the classifier sees the feature scaled to length 1.
        frozen_stages: so many stages, from the input on, get no gradient; stage 0 makes the tokens, then come the
            blocks; the last stage, final normalisation and classifier, always trains.
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
        object.__setattr__(self, "biases", tuple(self.biases))  # JSON gives lists; Flax wants what can be hashed
        for name in ("size", "patch", "width", "depth", "heads", "mlp_width"):
            _whole(name, getattr(self, name), least=1)
        for name in ("registers", "position_grid", "frozen_stages"):
            _whole(name, getattr(self, name), least=0)
        if self.dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype {self.dtype!r} is neither float32 nor bfloat16")
        if self.size % self.patch:
            raise ConfigError(f"size {self.size} is no multiple of the vision transformer's patch, {self.patch} pixels")
        if self.width % self.heads:
            raise ConfigError(f"width {self.width} of a vision transformer cannot be divided among {self.heads} heads")
        if not self.position_grid and self.width // self.heads % 4:
            raise ConfigError(f"rotary positions need heads of 4, 8, 12, ... channels, not {self.width // self.heads}")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"unknown activation {self.activation!r}; known: {', '.join(ACTIVATIONS)}")
        if odd := set(self.biases) - set(BIASES):
            raise ConfigError(f"unknown biases {', '.join(sorted(map(str, odd)))}; known: {', '.join(BIASES)}")
        if self.norm_epsilon <= 0 or self.rope_theta <= 0:
            raise ConfigError(f"norm_epsilon {self.norm_epsilon} and rope_theta {self.rope_theta} must be above 0")
        if self.frozen_stages > self.depth + 1:
            raise ConfigError(f"frozen_stages {self.frozen_stages} is not between 0 and {self.depth + 1}")


def _whole(name: str, value: Any, *, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{name} {value!r} of a vision transformer is no whole number of at least {least}")


class VisionTransformer(nnx.Module):
    """The network with one logit. The settings are `ViTConfig`'s.

    Args:
        rngs: where the initial weights come from.
        size: side of the input in pixels.
        dtype: of the computation, `float32` or `bfloat16`.
        **settings: the other attributes of `ViTConfig`.

    Raises:
        ConfigError: a setting that cannot be used.
        TypeError: a setting that is unknown.
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
        """Logits of normalised pixels; positive means fake. It drops nothing, so the key of training changes nothing.

        Raises:
            ConfigError: the side is no multiple of the patch.
        """
        features = self.features(pixels)
        if self.config.unit_features:
            features = unit_length(features)
        return self.classifier(features)[:, 0]

    def features(self, pixels: Float[Array, "n s s 3"]) -> Float[Array, "n width"]:
        """The class token after the last normalisation, float32: `pooler_output` in Hugging Face's words.

        Raises:
            ConfigError: the side is no multiple of the patch.
        """
        x, rope = self._start(pixels)
        for stage, block in enumerate(self.blocks, 1):
            x = block(self._cut(x, stage), rope)
        return self.norm(self._cut(x, self.config.depth + 1)[:, 0])

    def depth_features(self, pixels: Float[Array, "n s s 3"], taps: Sequence[int]) -> Float[Array, "n taps 3 width"]:
        """Class token, mean and standard deviation of the patch tokens after some blocks, float32.

        Args:
            pixels: normalised.
            taps: blocks, counted from 0, ascending.

        Raises:
            ConfigError: the side is no multiple of the patch.
        """
        x, rope = self._start(pixels)
        found = []
        for index, block in enumerate(self.blocks[: max(taps) + 1]):
            x = block(x, rope)
            if index in taps:
                found.append(depth_statistics(x.astype(jnp.float32), 1 + self.config.registers))
        return jnp.stack(found, axis=1)

    def _start(self, pixels: jax.Array) -> tuple[jax.Array, tuple[np.ndarray, np.ndarray] | None]:
        """The tokens of the first block, and the rotation of rotary positions."""
        config = self.config
        grid, left = divmod(pixels.shape[1], config.patch)
        if left or not grid:
            raise ConfigError(f"pictures of {pixels.shape[1]} pixels cannot be cut into patches of {config.patch}")
        rope = None
        if not config.position_grid:
            rope = rotary_table(grid, 1 + config.registers, config.width // config.heads, config.rope_theta)
        return self._tokens(pixels, grid), rope

    def _cut(self, x: jax.Array, stage: int) -> jax.Array:
        """The input of a stage; that of the first that trains has no gradient, so no frozen stage is walked back."""
        return jax.lax.stop_gradient(x) if stage == self.config.frozen_stages else x

    @property
    def stage_of(self) -> Callable[[tuple[Any, ...]], int]:
        """The stage a parameter belongs to, by its path, counted from the input: tokens, blocks, and the head."""
        last = self.config.depth + 1  # of the result alone: it must not keep the weights alive

        def stage(path: tuple[Any, ...]) -> int:
            if path[0] == "blocks":
                return int(path[1]) + 1
            return last if path[0] in ("norm", "classifier") else 0

        return stage

    def summary(self) -> str:
        """A table of stages: output shape, parameters."""
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
        """Class token, registers and patches, [n, tokens, width]."""
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
    """Attention and perceptron, each normalised before and added to its input."""

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
    """Class token, and mean and standard deviation of the patch tokens, which come after `prefix` others."""
    patches = tokens[:, prefix:]
    # The root has no gradient at zero, which plain pictures reach.
    deviation = jnp.sqrt(jnp.maximum(jnp.var(patches, axis=1), 1e-12))
    return jnp.stack([tokens[:, 0], jnp.mean(patches, axis=1), deviation], axis=1)


def _scaled(x: jax.Array, scale: nnx.Param | None) -> jax.Array:
    return x if scale is None else x * scale[...].astype(x.dtype)


def _linear(config: ViTConfig, name: str, inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    normal = jax.nn.initializers.truncated_normal(0.02)  # CLIP's and DINO's
    bias, dtype = name in config.biases, jnp.dtype(config.dtype)
    return nnx.Linear(inputs, outputs, use_bias=bias, kernel_init=normal, dtype=dtype, rngs=rngs)


def _layer_norm(config: ViTConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The two-pass variance: tokens of large mean lose theirs in the fast one.
    dtype = jnp.dtype(config.dtype)
    return nnx.LayerNorm(config.width, epsilon=config.norm_epsilon, use_fast_variance=False, dtype=dtype, rngs=rngs)


def unit_length(features: Float[Array, "n f"]) -> Float[Array, "n f"]:
    """Features scaled to length 1, PyTorch's `normalize`; with a gradient at zero too."""
    squares = jnp.sum(features * features, axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


def resize_positions(table: Float[Array, "p width"], grid: int) -> Float[Array, "q width"]:
    """Learnt positions of a square grid of patches for another one: bicubic, as Hugging Face's `transformers` does it.

    Args:
        table: row by row.
        grid: side of the new grid in patches.
    """
    side = math.isqrt(len(table))
    if side == grid:
        return table
    matrix = bicubic_matrix(side, grid)
    # Positions are few, and half their digits would be lost in an accelerator's fast products.
    new = jnp.einsum(
        "ia,jb,abw->ijw", matrix, matrix, table.reshape(side, side, -1), precision=jax.lax.Precision.HIGHEST
    )
    return new.reshape(grid * grid, -1)


@functools.lru_cache(maxsize=16)
def bicubic_matrix(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """What resamples a line of `old` points to `new` ones: PyTorch's bicubic (a = -0.75, no antialiasing, edges
    repeated), which `jax.image.resize` does not offer (a = -0.5). Keys, 1981."""
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
    """Cosines and sines of DINOv3's rotation of queries and keys.

    Half of the channels turn with a patch's row and half with its column, both counted from -1 to 1 whatever the size
    of the picture. The first `prefix` tokens have no place and are not turned.
    """
    centres = 2 * (np.arange(grid) + 0.5) / grid - 1
    places = np.stack(np.meshgrid(centres, centres, indexing="ij"), axis=-1).reshape(-1, 2)
    frequencies = theta ** -(np.arange(channels // 4) * 4 / channels)
    angles = np.tile((2 * math.pi * places[:, :, None] * frequencies).reshape(len(places), -1), 2)
    angles = np.concatenate([np.zeros((prefix, channels)), angles])
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _rotate(x: jax.Array, rope: tuple[np.ndarray, np.ndarray]) -> jax.Array:
    """Turns the channels of [n, tokens, heads, channels]; the first half pairs with the second."""
    cosine, sine = (table[:, None, :] for table in rope)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cosine + turned * sine).astype(x.dtype)
