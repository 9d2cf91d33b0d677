"""Convolution and pooling in the formulation that is fast on the platform in use; only this module chooses.

XLA's CPU backend is slow for two gradients: that of max pooling through `reduce_window` (select-and-scatter), and that
of a convolution with respect to its kernel. On a CPU, pooling is therefore a maximum of four strided slices, and the
kernel gradient is a matrix product over image patches. The results are the same; `tests/test_layers.py` compares them.
Accelerators use the plain operations.

Example:
    >>> max_pool_2x2(conv2d(pixels, kernel)).shape
    (32, 74, 74, 32)
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

CHUNK = 4
"""Images per matrix product of the kernel gradient: keeps the patches in the cache and the memory use flat."""


def on_cpu() -> bool:
    """Tells if the formulations for XLA's CPU backend are used."""
    return jax.default_backend() == "cpu"


def same_padding(size: int, kernel: int, stride: int) -> tuple[tuple[int, int], int]:
    """Returns TensorFlow's `SAME` padding (pixels before, after) and the output size; the odd pixel comes after."""
    result = -(-size // stride)
    total = max((result - 1) * stride + kernel - size, 0)
    return (total // 2, total - total // 2), result


def conv2d(x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c d"]) -> Float[Array, "n oh ow d"]:
    """Convolves with stride 1 and no padding (`valid`), channels last."""
    return _conv2d_cpu(x, kernel) if on_cpu() else _conv2d_plain(x, kernel)


def max_pool_2x2(x: Float[Array, "n h w c"]) -> Float[Array, "n oh ow c"]:
    """Takes the maximum over 2 x 2 windows with stride 2; an odd last row or column is dropped."""
    return _max_pool_cpu(x) if on_cpu() else max_pool_plain(x)


def pointwise_conv(x: Float[Array, "n h w c"], kernel: Float[Array, "c d"]) -> Float[Array, "n h w d"]:
    """Convolves with a 1 x 1 kernel, as a matrix product on every platform."""
    return _pointwise_cpu(x, kernel) if on_cpu() else x @ kernel


@jax.custom_vjp
def _pointwise_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return x @ kernel


def _pointwise_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return x @ kernel, (x, kernel)


def _pointwise_backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # One product for the whole batch would first write a transposed copy of it; one picture at a time stays in the
    # cache.
    shape = (len(x), -1, kernel.shape[0])

    def add(total: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return total + jnp.matmul(pair[0].T, pair[1], preferred_element_type=jnp.float32), None

    pair = (x.reshape(shape), grad.reshape(len(x), -1, kernel.shape[1]))
    total, _ = lax.scan(add, jnp.zeros(kernel.shape, jnp.float32), pair)
    return grad @ kernel.T, total.astype(kernel.dtype)


_pointwise_cpu.defvjp(_pointwise_forward, _pointwise_backward)


def stem_conv(x: Float[Array, "n h w c"], kernel: Float[Array, "3 3 c d"]) -> Float[Array, "n oh ow d"]:
    """Convolves 3 x 3 with stride 2 and TensorFlow's `SAME` padding, the first layer of an EfficientNet."""
    if not on_cpu():
        return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    # With three channels, patches are small enough to be stored, and both gradients become matrix products.
    (rows, height), (columns, width) = (same_padding(size, 3, 2) for size in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), rows, columns, (0, 0)))
    views = [padded[:, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2] for i in range(3) for j in range(3)]
    return jnp.concatenate(views, axis=-1) @ kernel.reshape(-1, kernel.shape[3])


def _conv2d_plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def _conv2d_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _conv2d_plain(x, kernel)


def _conv2d_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv2d_plain(x, kernel), (x, kernel)


def _conv2d_backward(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # The input gradient is a convolution with the flipped kernel, for which XLA is fast.
    _, pull = jax.vjp(lambda value: _conv2d_plain(value, kernel), x)
    return pull(grad)[0], _kernel_gradient(x, grad, kernel.shape)


def _kernel_gradient(x: jax.Array, grad: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    kh, kw, channels, filters = shape
    batch, oh, ow = grad.shape[:3]

    def product(x: jax.Array, grad: jax.Array) -> jax.Array:
        patches = jnp.concatenate([x[:, i : i + oh, j : j + ow] for i in range(kh) for j in range(kw)], axis=-1)
        rows = patches.reshape(-1, kh * kw * channels)
        return jnp.matmul(rows.T, grad.reshape(-1, filters), preferred_element_type=jnp.float32)

    if batch % CHUNK or batch == CHUNK:
        total = product(x, grad)
    else:
        chunks = batch // CHUNK
        pair = (x.reshape(chunks, CHUNK, *x.shape[1:]), grad.reshape(chunks, CHUNK, *grad.shape[1:]))
        # Only matrix products may be in a scan here: XLA's CPU backend runs convolutions in loops 20 times slower.
        total, _ = lax.scan(
            lambda sum_, xs: (sum_ + product(*xs), None), jnp.zeros((kh * kw * channels, filters), jnp.float32), pair
        )
    return total.reshape(shape).astype(x.dtype)


_conv2d_cpu.defvjp(_conv2d_forward, _conv2d_backward)


def max_pool_plain(x: jax.Array) -> jax.Array:
    """Pools in the plain formulation, which is also fast on the CPU if no gradient is needed."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


@jax.custom_vjp
def _max_pool_cpu(x: jax.Array) -> jax.Array:
    return max_pool_plain(x)


def _windows(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    height, width = x.shape[1] // 2 * 2, x.shape[2] // 2 * 2
    even = x[:, :height, :width]
    return even[:, ::2, ::2], even[:, ::2, 1::2], even[:, 1::2, ::2], even[:, 1::2, 1::2]


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return functools.reduce(jnp.maximum, _windows(x)), x


def _max_pool_backward(x: jax.Array, grad: jax.Array) -> tuple[jax.Array]:
    # The first of equal values wins, as in select-and-scatter, so that both formulations train the same network.
    windows = _windows(x)
    top = functools.reduce(jnp.maximum, windows)
    free = jnp.ones_like(grad, bool)
    parts = []
    for window in windows:
        hit = free & (window == top)
        free &= ~hit
        parts.append(jnp.where(hit, grad, 0))
    upper = jnp.stack(parts[:2], axis=3).reshape(*grad.shape[:2], -1, grad.shape[3])
    lower = jnp.stack(parts[2:], axis=3).reshape(*grad.shape[:2], -1, grad.shape[3])
    full = jnp.stack([upper, lower], axis=2).reshape(grad.shape[0], -1, upper.shape[2], grad.shape[3])
    pad = [(0, 0), (0, x.shape[1] - full.shape[1]), (0, x.shape[2] - full.shape[2]), (0, 0)]
    return (jnp.pad(full, pad),)


_max_pool_cpu.defvjp(_max_pool_forward, _max_pool_backward)
