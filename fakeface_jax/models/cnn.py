"""The report's network: three convolutions, two dense layers, 9,563,713 parameters.

Example:
    >>> print(ReportCNN(rngs=nnx.Rngs(0)).summary())
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from fakeface_jax.errors import ConfigError
from fakeface_jax.models.layers import conv2d, max_pool_2x2

FILTERS = (32, 64, 128)


class ReportCNN(nnx.Module):
    """Three blocks of 3 x 3 convolution (valid), ReLU and 2 x 2 max pooling, then dense 256 with ReLU and dense 1.

    Each block computes relu(pool(conv(x)) + bias), which equals pool(relu(conv(x) + bias)) because the maximum
    commutes with adding a constant and with ReLU, and processes a quarter of the elements. Weights are initialised as
    in Keras (Glorot uniform, zero bias).

    Args:
        rngs: random numbers for the initial weights.
        size: side of the input in pixels; 150 in the report.
        dtype: type of the computation, `float32` or `bfloat16`; weights and logits stay float32.
    """

    def __init__(self, *, rngs: nnx.Rngs, size: int = 150, dtype: str = "float32") -> None:
        if dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype {dtype!r}: use float32 or bfloat16")
        if size < 32:
            raise ConfigError(f"the report's network needs an input of at least 32 pixels, not {size}")
        self.size = size
        self.dtype = jnp.dtype(dtype)
        glorot = nnx.initializers.glorot_uniform()
        channels, side = (3, *FILTERS[:-1]), size
        self.convs: nnx.List[nnx.Conv] = nnx.List()
        for inputs, outputs in zip(channels, FILTERS, strict=True):
            self.convs.append(nnx.Conv(inputs, outputs, (3, 3), padding="VALID", kernel_init=glorot, rngs=rngs))
            side = (side - 2) // 2
        self.dense1 = nnx.Linear(side * side * FILTERS[-1], 256, kernel_init=glorot, rngs=rngs)
        self.dense2 = nnx.Linear(256, 1, kernel_init=glorot, rngs=rngs)

    def __call__(self, pixels: Float[Array, "n s s 3"], *, key: Key[Array, ""] | None = None) -> Float[Array, " n"]:
        """Returns the logits of pixels in [0, 1]; positive means fake. `key` changes nothing: there is no dropout."""
        x = pixels.astype(self.dtype)
        for conv in self.convs:
            x = max_pool_2x2(conv2d(x, conv.kernel[...].astype(self.dtype)))
            x = nnx.relu(x + self._bias(conv))
        x = nnx.relu(self._dense(self.dense1, x.reshape(x.shape[0], -1)))
        return self._dense(self.dense2, x)[:, 0].astype(jnp.float32)

    def _dense(self, layer: nnx.Linear, x: jax.Array) -> jax.Array:
        return x @ layer.kernel[...].astype(self.dtype) + self._bias(layer)

    def _bias(self, layer: nnx.Conv | nnx.Linear) -> jax.Array:
        assert layer.bias is not None  # all layers here have one; Flax makes it optional
        return layer.bias[...].astype(self.dtype)

    @staticmethod
    def stage_of(path: tuple[Any, ...]) -> int:
        """Returns the layer of a parameter, counted from the input, by its path."""
        return int(path[1]) if path[0] == "convs" else len(FILTERS) + ("dense1", "dense2").index(str(path[0]))

    def summary(self) -> str:
        """Returns the table that the report prints: layer, output shape, parameters."""
        rows: list[tuple[str, tuple[int, ...], int]] = []
        side = self.size
        for index, conv in enumerate(self.convs):
            suffix = f"_{index}" if index else ""
            rows.append((f"conv2d{suffix} (Conv2D)", (side - 2, side - 2, conv.out_features), _count(conv)))
            side = (side - 2) // 2
            rows.append((f"max_pooling2d{suffix} (MaxPooling2D)", (side, side, conv.out_features), 0))
        rows.append(("flatten (Flatten)", (self.dense1.in_features,), 0))
        rows.append(("dense (Dense)", (self.dense1.out_features,), _count(self.dense1)))
        rows.append(("dense_1 (Dense)", (self.dense2.out_features,), _count(self.dense2)))
        lines = [f"{'Layer (type)':<34}{'Output shape':<26}{'Parameters':>12}", "-" * 72]
        for name, shape, parameters in rows:
            lines.append(f"{name:<34}{'(None, ' + ', '.join(map(str, shape)) + ')':<26}{parameters:>12,}")
        lines += ["-" * 72, f"Total parameters: {sum(row[2] for row in rows):,}"]
        return "\n".join(lines)


def _count(module: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
