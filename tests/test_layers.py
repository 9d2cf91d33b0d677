"""The CPU formulations against the plain ones: the same numbers, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from fakeface_jax.models.layers import CHUNK, _conv2d_plain, conv2d, max_pool_2x2, max_pool_plain


def rand(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def numpy_conv(x, kernel):
    kh, kw = kernel.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(x, np.float64), (kh, kw), axis=(1, 2))
    return np.einsum("nhwcij,ijcd->nhwd", windows, np.asarray(kernel, np.float64))


def test_these_tests_run_the_cpu_formulation():
    assert jax.default_backend() == "cpu"


# One image, less than a chunk, one, one image more, and whole chunks; then a kernel that is not square.
@pytest.mark.parametrize(
    ("batch", "side", "kernel"),
    [(batch, (9, 12), (3, 3)) for batch in (1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 5 * CHUNK)]
    + [(2 * CHUNK, (7, 5), (5, 2))],
)
def test_convolution_and_its_gradients_equal_the_plain_ones(batch, side, kernel):
    x, k = rand(batch, *side, 3), rand(*kernel, 3, 4, seed=1)
    grad = rand(batch, side[0] - kernel[0] + 1, side[1] - kernel[1] + 1, 4, seed=2)
    ours, pull = jax.vjp(conv2d, x, k)
    plain, plain_pull = jax.vjp(_conv2d_plain, x, k)
    np.testing.assert_array_equal(ours, plain)
    np.testing.assert_allclose(ours, numpy_conv(x, k), rtol=1e-5, atol=1e-5)
    for one, other in zip(pull(grad), plain_pull(grad), strict=True):
        assert one.dtype == other.dtype == jnp.float32
        # Sums of up to a thousand products of order one, in float32 and in another order.
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-4)


def test_convolution_gradient_by_finite_differences():
    x, k = rand(2 * CHUNK, 5, 6, 2), rand(3, 3, 2, 3, seed=1)
    weight = rand(2 * CHUNK, 3, 4, 3, seed=2)
    slope = np.asarray(jax.grad(lambda k: jnp.vdot(conv2d(x, k), weight))(k))
    # The function is linear in the kernel, so that a difference of any step is exact but for rounding.
    for place in [(0, 0, 0, 0), (1, 2, 1, 2), (2, 2, 1, 1)]:
        step = jnp.zeros_like(k).at[place].set(1.0)
        exact = np.vdot(numpy_conv(x, k + step) - numpy_conv(x, k), weight)
        assert slope[place] == pytest.approx(exact, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("side", [(8, 8), (9, 8), (8, 9), (7, 11), (2, 2), (3, 3)])
def test_pooling_and_its_gradient_equal_the_plain_ones(side):
    x = rand(5, *side, 6)
    ours, pull = jax.vjp(max_pool_2x2, x)
    plain, plain_pull = jax.vjp(max_pool_plain, x)
    assert ours.shape == (5, side[0] // 2, side[1] // 2, 6)
    np.testing.assert_array_equal(ours, plain)
    np.testing.assert_array_equal(max_pool_2x2(x), plain)  # the formulation without a gradient
    grad = rand(*ours.shape, seed=3)
    np.testing.assert_array_equal(pull(grad)[0], plain_pull(grad)[0])


def test_pooling_by_hand():
    x = jnp.arange(24, dtype=jnp.float32).reshape(1, 4, 6, 1)
    np.testing.assert_array_equal(max_pool_2x2(x)[0, :, :, 0], [[7, 9, 11], [19, 21, 23]])
    grad = jax.grad(lambda x: max_pool_2x2(x).sum())(x)
    assert np.flatnonzero(grad).tolist() == [7, 9, 11, 19, 21, 23]


def test_of_equal_values_the_first_gets_the_gradient():
    # After a ReLU whole windows are zero: ties are the rule, not the exception.
    x = jnp.asarray(np.random.default_rng(0).integers(0, 2, (3, 9, 10, 4)), jnp.float32).at[0].set(0.0)
    grad = rand(3, 4, 5, 4, seed=1)
    ours = jax.vjp(max_pool_2x2, x)[1](grad)[0]
    np.testing.assert_array_equal(ours, jax.vjp(max_pool_plain, x)[1](grad)[0])
    np.testing.assert_array_equal(ours[0, 0:8:2, ::2], grad[0])
    assert np.count_nonzero(ours[0]) == grad[0].size


def test_pooling_of_infinities_and_very_negative_values():
    x = jnp.full((1, 4, 4, 1), -3e38, jnp.float32).at[0, 2, 2].set(-jnp.inf)
    np.testing.assert_array_equal(max_pool_2x2(x), np.full((1, 2, 2, 1), -3e38, np.float32))
    assert jax.grad(lambda x: max_pool_2x2(x).sum())(x).sum() == 4


@pytest.mark.long
@pytest.mark.parametrize("batch", [4, 2 * CHUNK])
def test_bfloat16_runs_and_is_close(batch):
    x, k = rand(batch, 10, 9, 3), rand(3, 3, 3, 8, seed=1)

    def value(x, k):
        return (max_pool_2x2(conv2d(x, k)).astype(jnp.float32) ** 2).mean()

    exact, exact_grads = jax.value_and_grad(value, (0, 1))(x, k)
    half, grads = jax.value_and_grad(value, (0, 1))(x.astype(jnp.bfloat16), k.astype(jnp.bfloat16))
    # bfloat16 keeps 8 bits: single values are off by up to 0.4 %, and where two of a window are closer than that the
    # other one gets the gradient; so directions are compared, not elements.
    assert float(half) == pytest.approx(float(exact), rel=0.02)
    for one, other in zip(grads, exact_grads, strict=True):
        assert one.dtype == jnp.bfloat16
        one, other = np.asarray(one, np.float64).ravel(), np.asarray(other, np.float64).ravel()
        assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.99


def test_the_step_uses_the_fast_formulation_inside_jit():
    """No convolution with respect to the kernel and no select-and-scatter is left in the compiled gradient."""

    def loss(k, x):
        return max_pool_2x2(conv2d(x, k)).sum()

    text = jax.jit(jax.grad(loss)).lower(rand(3, 3, 3, 4), rand(2 * CHUNK, 10, 10, 3)).as_text()
    assert "select_and_scatter" not in text
    assert text.count("stablehlo.convolution") == 1  # the forward one; pooling's gradient needs its output

    def plain(k, x):
        return max_pool_plain(_conv2d_plain(x, k)).sum()

    text = jax.jit(jax.grad(plain)).lower(rand(3, 3, 3, 4), rand(2 * CHUNK, 10, 10, 3)).as_text()
    assert "select_and_scatter" in text
    assert text.count("stablehlo.convolution") == 2


def test_accelerators_get_the_plain_operations(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    text = str(jax.make_jaxpr(lambda x, k: max_pool_2x2(conv2d(x, k)))(rand(2, 8, 8, 3), rand(3, 3, 3, 4)))
    assert "custom_vjp" not in text
    assert "reduce_window" in text
    assert lax.conv_general_dilated.__name__ in text
