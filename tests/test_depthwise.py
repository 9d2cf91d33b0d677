"""The CPU formulations of an EfficientNet's layers against the plain ones: the same numbers, forwards and backwards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from fakeface_jax.models.depthwise import (
    channel_moments,
    depthwise_conv,
    depthwise_plain,
    scale_channels,
)
from fakeface_jax.models.layers import on_cpu, pointwise_conv, same_padding, stem_conv

# Sums of up to some thousand products of order one, in float32 and in another order.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def rand(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def numpy_depthwise(x, kernel, stride):
    """The definition in float64."""
    size = kernel.shape[0]
    pads = [same_padding(side, size, stride)[0] for side in x.shape[1:3]]
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), *pads, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("nhwcij,ijc->nhwc", windows, np.asarray(kernel, np.float64))


def plain_pointwise(x, kernel):
    return lax.conv_general_dilated(x, kernel[None, None], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_stem(x, kernel):
    return lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def plain_moments(x):
    return jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))


def assert_same(ours, plain, *args):
    """The results and all gradients of two functions, each in one compiled program."""

    def run(function, args, grads):
        result, pull = jax.vjp(function, *args)
        return result, pull(grads)

    shapes = jax.eval_shape(plain, *args)
    grads = jax.tree.map(lambda leaf: rand(*leaf.shape, seed=9).astype(leaf.dtype), shapes)
    one = jax.jit(functools.partial(run, ours))(args, grads)
    other = jax.jit(functools.partial(run, plain))(args, grads)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_allclose(mine, theirs, **CLOSE)
    return one[0]


def test_these_tests_run_the_cpu_formulation():
    assert on_cpu()


# Odd and even, and as small as the last stages of a picture of 32 pixels, where padding is wider than the map.
@pytest.mark.parametrize(
    ("kernel", "stride", "side"),
    [(kernel, stride, (7, 6)) for kernel in (3, 5) for stride in (1, 2)]
    + [(3, 2, (6, 9)), (5, 2, (6, 9)), (5, 1, (2, 1)), (5, 2, (1, 2))],
)
def test_depthwise_convolution_and_its_gradients_equal_the_plain_ones(kernel, stride, side):
    x, k = rand(3, *side, 4), rand(kernel, kernel, 4, seed=1)
    result = assert_same(lambda x, k: depthwise_conv(x, k, stride), lambda x, k: depthwise_plain(x, k, stride), x, k)
    assert result.shape == (3, -(-side[0] // stride), -(-side[1] // stride), 4)
    np.testing.assert_allclose(result, numpy_depthwise(x, k, stride), **CLOSE)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "wanted"),
    [
        (8, 3, 1, ((1, 1), 8)),
        (8, 3, 2, ((0, 1), 4)),
        (7, 3, 2, ((1, 1), 4)),
        (8, 5, 2, ((1, 2), 4)),
        (1, 5, 2, ((2, 2), 1)),
        (4, 1, 2, ((0, 0), 2)),
    ],
)
def test_padding_is_tensorflows_same(size, kernel, stride, wanted):
    assert same_padding(size, kernel, stride) == wanted
    assert [wanted[0]] == lax.padtype_to_pads((size,), (kernel,), (stride,), "SAME")


def test_scaling_and_its_gradients_equal_the_plain_ones():
    assert_same(scale_channels, lambda x, a, b: x * a + b, rand(3, 5, 4, 6), rand(6, seed=1), rand(6, seed=2))


def test_moments_and_their_gradients_equal_the_plain_ones():
    x = rand(3, 5, 4, 6) * 2 + 1
    mean, variance = assert_same(channel_moments, plain_moments, x)
    np.testing.assert_allclose(mean, np.asarray(x, np.float64).mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, np.asarray(x, np.float64).var((0, 1, 2)), rtol=1e-5)


def test_a_constant_channel_has_no_negative_variance():
    # 100.1 squared is not a float32: the difference of the two sums may fall below zero.
    _, variance = channel_moments(jnp.full((3, 7, 7, 2), 100.1))
    assert float(variance.min()) >= 0
    assert float(variance.max()) < 0.01


def test_pointwise_convolution_and_its_gradients_equal_the_plain_ones():
    assert_same(pointwise_conv, plain_pointwise, rand(3, 5, 4, 6), rand(6, 7, seed=1))


@pytest.mark.parametrize("side", [(8, 7), (1, 2)])
def test_the_stem_and_its_gradients_equal_the_plain_ones(side):
    assert_same(stem_conv, plain_stem, rand(3, *side, 3), rand(3, 3, 3, 5, seed=1))


def block(depthwise, scale, moments, pointwise, stem, x, kernels):
    x = stem(x, kernels[0])
    x = pointwise(depthwise(x, kernels[1], 2), kernels[2])
    mean, variance = moments(x)
    return scale(x, lax.rsqrt(variance + 1e-3), -mean * lax.rsqrt(variance + 1e-3))


OURS = functools.partial(block, depthwise_conv, scale_channels, channel_moments, pointwise_conv, stem_conv)
PLAIN = functools.partial(block, depthwise_plain, lambda x, a, b: x * a + b, plain_moments, plain_pointwise, plain_stem)


def block_arguments(dtype=jnp.float32):
    kernels = (rand(3, 3, 3, 8, seed=1), rand(3, 3, 8, seed=2), rand(8, 6, seed=3))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), (rand(8, 9, 8, 3), kernels))


def gradients(function, x, kernels):
    weight = rand(*jax.eval_shape(function, x, kernels).shape, seed=4).astype(x.dtype)
    return jax.grad(lambda x, kernels: jnp.vdot(function(x, kernels), weight), (0, 1))(x, kernels)


@functools.partial(jax.jit, static_argnums=0)
def both(function, x, kernels):
    return function(x, kernels), gradients(function, x, kernels)


@pytest.fixture(scope="module")
def plain():
    """The block's result and gradients by the plain formulation."""
    return both(PLAIN, *block_arguments())


def test_a_batch_over_four_devices_gives_the_same(plain):
    assert len(jax.devices()) == 4  # conftest asks XLA for them
    x, kernels = block_arguments()
    mesh = Mesh(np.array(jax.devices()), ("data",))
    spread = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    parallel = both(OURS, spread, jax.device_put(kernels, NamedSharding(mesh, PartitionSpec())))
    assert len(parallel[0].sharding.device_set) == 4
    for one, other in zip(jax.tree.leaves(parallel), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_a_block_in_half_precision_follows_the_one_in_single(plain):
    rough = both(OURS, *block_arguments(jnp.bfloat16))
    for one, other in zip(jax.tree.leaves(rough), jax.tree.leaves(plain), strict=True):
        assert one.dtype == jnp.bfloat16
        difference = np.asarray(one, np.float32) - np.asarray(other)
        assert np.linalg.norm(difference) < 0.05 * np.linalg.norm(other)


@pytest.mark.parametrize("function", ["depthwise", "scale"])
def test_sums_over_many_pictures_do_not_drift_in_half_precision(function):
    """512 equal addends: a running sum of bfloat16 stops growing at 256 times its addend."""
    x = jnp.ones((512, 2, 2, 1), jnp.bfloat16)
    if function == "depthwise":
        slope = jax.grad(lambda k: depthwise_conv(x, k, 1).astype(jnp.float32).sum())(jnp.ones((3, 3, 1), jnp.bfloat16))
        wanted = 512 * np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]])[:, :, None]
    else:
        one = jnp.ones(1, jnp.bfloat16)
        slope = jax.grad(lambda scale: scale_channels(x, scale, one).astype(jnp.float32).sum())(one)
        wanted = np.array([512 * 4])
    np.testing.assert_allclose(np.asarray(slope, np.float32), wanted, rtol=0.01)
