"""Depthwise convolution and per-channel scaling, in the formulation that is fast on the platform in use.

XLA's CPU backend computes grouped convolutions one channel at a time and sums over pictures and pixels with a stride
for every element, which is too slow to train the plain EfficientNet on a CPU. On a CPU the convolution is therefore
written as k x k shifted multiply-adds, which XLA fuses into one vectorised loop; its input gradient is the same with
the kernel flipped; and sums over pictures and pixels accumulate one picture after another in maps that stay in the
cache, which is 3 to 8 times as fast. Accelerators use the plain operations. The results are the same;
`tests/test_depthwise.py` compares them.

Example:
    >>> depthwise_conv(x, kernel, stride=2).shape
    (32, 40, 40, 96)
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from fakeface_jax.models.layers import on_cpu, same_padding

_Pair = tuple[jax.Array, jax.Array]


def depthwise_conv(x: Float[Array, "n h w c"], kernel: Float[Array, "k k c"], stride: int) -> Float[Array, "n oh ow c"]:
    """Applies one k x k filter per channel, with `SAME` padding and stride 1 or 2."""
    return _depthwise_cpu(x, kernel, stride) if on_cpu() else depthwise_plain(x, kernel, stride)


def scale_channels(
    x: Float[Array, "n h w c"], scale: Float[Array, " c"], shift: Float[Array, " c"]
) -> Float[Array, "n h w c"]:
    """Computes x * scale + shift, per channel."""
    return _scale_cpu(x, scale, shift) if on_cpu() else x * scale + shift


def channel_moments(x: Float[Array, "n h w c"]) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Computes the mean and the (biased) variance of each channel over pictures and pixels."""
    count = x.shape[0] * x.shape[1] * x.shape[2]
    if on_cpu():
        first, second = _moment_sums(x)
        mean = first / count
        return mean, jnp.maximum(second / count - mean * mean, 0.0)
    mean = jnp.mean(x, (0, 1, 2))
    return mean, jnp.maximum(jnp.mean(x * x, (0, 1, 2)) - mean * mean, 0.0)


def depthwise_plain(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Applies the filters in the plain formulation."""
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3],
    )


def _padded(x: jax.Array, kernel: int, stride: int) -> tuple[jax.Array, int, int]:
    rows, height = same_padding(x.shape[1], kernel, stride)
    columns, width = same_padding(x.shape[2], kernel, stride)
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0))), height, width


def _shifts(x: jax.Array, kernel: int, stride: int, height: int, width: int) -> list[jax.Array]:
    """Returns the k x k views of a padded batch (or of one padded picture) that the filter's weights multiply."""
    rows, columns = (height - 1) * stride + 1, (width - 1) * stride + 1
    return [x[..., i : i + rows : stride, j : j + columns : stride, :] for i in range(kernel) for j in range(kernel)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_cpu(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size, channels = kernel.shape[0], kernel.shape[2]
    views = _shifts(*_with_padding(x, size, stride))
    return sum(view * weight for view, weight in zip(views, kernel.reshape(-1, channels), strict=True))  # type: ignore[return-value]


def _with_padding(x: jax.Array, kernel: int, stride: int) -> tuple[jax.Array, int, int, int, int]:
    padded, height, width = _padded(x, kernel, stride)
    return padded, kernel, stride, height, width


def _depthwise_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, _Pair]:
    return _depthwise_cpu(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride: int, saved: _Pair, grad: jax.Array) -> _Pair:
    x, kernel = saved
    size, channels = kernel.shape[0], kernel.shape[2]
    padded, height, width = _padded(x, size, stride)

    def add(sums: tuple[jax.Array, ...], pair: _Pair) -> tuple[tuple[jax.Array, ...], None]:
        views = _shifts(pair[0], size, stride, height, width)
        return tuple(total + view * pair[1] for total, view in zip(sums, views, strict=True)), None

    # float32, because a running sum of bfloat16 stops growing once it is 256 times the value that is added.
    zero = jnp.zeros((height, width, channels), jnp.float32)
    sums, _ = lax.scan(add, (zero,) * (size * size), (padded, grad))
    kernel_grad = jnp.stack([total.sum((0, 1)) for total in sums]).reshape(kernel.shape)
    return _input_gradient(x.shape, kernel, stride, grad), kernel_grad.astype(kernel.dtype)


def _input_gradient(shape: tuple[int, ...], kernel: jax.Array, stride: int, grad: jax.Array) -> jax.Array:
    """Computes the shifted sum with the flipped kernel, over the gradient with stride - 1 zeros between its pixels."""
    size = kernel.shape[0]
    edges = []
    for axis in (1, 2):
        (before, _), result = same_padding(shape[axis], size, stride)
        low = size - 1 - before
        edges.append((low, shape[axis] + size - 1 - low - ((result - 1) * stride + 1), stride - 1))
    spread = lax.pad(grad, jnp.zeros((), grad.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    views = _shifts(spread, size, 1, shape[1], shape[2])
    flipped = kernel[::-1, ::-1].reshape(-1, kernel.shape[2])
    return sum(view * weight for view, weight in zip(views, flipped, strict=True))  # type: ignore[return-value]


_depthwise_cpu.defvjp(_depthwise_forward, _depthwise_backward)


@jax.custom_vjp
def _scale_cpu(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    return x * scale + shift


def _scale_forward(x: jax.Array, scale: jax.Array, shift: jax.Array) -> tuple[jax.Array, _Pair]:
    return x * scale + shift, (x, scale)


def _scale_backward(saved: _Pair, grad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, scale = saved
    zero = jnp.zeros(x.shape[1:], jnp.float32)

    def add(sums: _Pair, pair: _Pair) -> tuple[_Pair, None]:
        return (sums[0] + pair[0] * pair[1], sums[1] + pair[1]), None

    (products, total), _ = lax.scan(add, (zero, zero), (x, grad))
    return grad * scale, products.sum((0, 1)).astype(scale.dtype), total.sum((0, 1)).astype(scale.dtype)


_scale_cpu.defvjp(_scale_forward, _scale_backward)


@jax.custom_vjp
def _moment_sums(x: jax.Array) -> _Pair:
    zero = jnp.zeros(x.shape[1:], x.dtype)

    def add(sums: _Pair, one: jax.Array) -> tuple[_Pair, None]:
        return (sums[0] + one, sums[1] + one * one), None

    (first, second), _ = lax.scan(add, (zero, zero), x)
    return first.sum((0, 1)), second.sum((0, 1))


def _moment_sums_forward(x: jax.Array) -> tuple[_Pair, jax.Array]:
    return _moment_sums(x), x


def _moment_sums_backward(x: jax.Array, grads: _Pair) -> tuple[jax.Array]:
    return (grads[0] + 2.0 * grads[1] * x,)


_moment_sums.defvjp(_moment_sums_forward, _moment_sums_backward)
