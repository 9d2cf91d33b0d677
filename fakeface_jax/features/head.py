"""Linear heads on cached features: regularised logistic regression, fitted in seconds by Nesterov's gradient method.

The features are standardised and rotated to their principal components before the fit, and that is folded into the
head afterwards, so that what is stored is one matrix. Rows are weighted so that in every view of every source reals and
fakes weigh the same: a head that may learn "this source is fake" learns nothing else (docs/detector.md has the
measurement).

Example:
    >>> design = Design.of(table, HeadConfig())
    >>> (head,) = design.fit(within_source_weights(table, np.isin(table.views, ("drawn-0", "clean")))[None])
    >>> logits = design.scores(head)
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Float32

from fakeface_jax.errors import DataError
from fakeface_jax.features.fit_config import HeadConfig
from fakeface_jax.features.table import FeatureTable
from fakeface_jax.labels import Label


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """A fitted head on principal components: a linear function.

    Attributes:
        weights: one weight per component.
        bias: added to the weighted sum.
    """

    weights: Float32[np.ndarray, " c"]
    bias: float


class Design:
    """The matrix on which heads are fitted: standardised features, rotated to their first principal components.

    Attributes:
        components: [n, c], with mean square 1 / c.
    """

    def __init__(
        self,
        components: Float32[np.ndarray, "n c"],
        labels: np.ndarray,
        rotation: Float32[np.ndarray, "f c"],
        mean: Float32[np.ndarray, " f"],
        config: HeadConfig,
    ) -> None:
        self.components, self._labels, self._rotation, self._mean = components, labels, rotation, mean
        self._config = config
        self._x = jnp.asarray(components)
        self._y = jnp.asarray(labels, jnp.float32)

    @classmethod
    def of(cls, table: FeatureTable, config: HeadConfig) -> Design:
        """Prepares a table. The rotation is computed from all its rows, without their labels."""
        x = np.asarray(table.features[:, list(config.taps)][:, :, list(config.statistics)], np.float32)
        x = x.reshape(len(x), -1)
        mean, std = x.mean(axis=0), x.std(axis=0) + 1e-4
        x = (x - mean) / std
        kept = min(config.components, *x.shape)
        # This many rows suffice for the main directions.
        sample = x[np.random.default_rng(0).permutation(len(x))[: max(3000, kept)]]
        if len(sample) < x.shape[1]:
            values, vectors = np.linalg.eigh(sample @ sample.T)
            rotation = sample.T @ (vectors[:, -kept:] / np.sqrt(np.maximum(values[-kept:], 1e-6)))
        else:
            rotation = np.linalg.eigh(sample.T @ sample)[1][:, -kept:]
        rotation = rotation / np.sqrt(x.shape[1])
        components = (x @ rotation).astype(np.float32)
        return cls(components, table.labels, (rotation / std[:, None]).astype(np.float32), mean, config)

    def fit(self, weights: Float[np.ndarray, "k n"]) -> list[Head]:
        """Fits a head for each row of weights, all at once; faces of weight 0 are ignored.

        Raises:
            DataError: a head has faces of one class only.
        """
        fakes = self._labels == Label.FAKE
        if not weights[:, fakes].any(axis=1).all() or not weights[:, ~fakes].any(axis=1).all():
            raise DataError("a head needs faces of both classes; add a source with the missing class")
        heads = []
        for start in range(0, len(weights), _TOGETHER):
            part = weights[start : start + _TOGETHER]
            shares = jnp.asarray(part / part.sum(axis=1, keepdims=True), jnp.float32)
            found, biases = _fit(self._x, self._y, shares, self._config.penalty, self._config.steps)
            heads += [Head(kernel, float(bias)) for kernel, bias in zip(np.asarray(found), biases, strict=True)]
        return heads

    def scores(self, head: Head) -> Float32[np.ndarray, " n"]:
        """Returns the logits of the table's rows."""
        return (self.components @ head.weights + head.bias).astype(np.float32)

    def folded(self, head: Head) -> tuple[Float32[np.ndarray, "f 1"], Float32[np.ndarray, " 1"]]:
        """Returns kernel and bias for the plain features, as in the classifier of `FeatureProbe`."""
        kernel = self._rotation.astype(np.float64) @ head.weights.astype(np.float64)
        bias = head.bias - float(self._mean.astype(np.float64) @ kernel)
        return kernel[:, None].astype(np.float32), np.array([bias], np.float32)


_MOMENTUM = 0.95

_TOGETHER = 64
"""Heads that are fitted at once, so that matrices are multiplied by matrices instead of vectors."""


@functools.partial(jax.jit, static_argnums=4)
@functools.partial(jax.vmap, in_axes=(None, None, 0, None, None))
def _fit(x: jax.Array, y: jax.Array, weights: jax.Array, penalty: Any, steps: int) -> tuple[jax.Array, jax.Array]:
    def loss(parameters: tuple[jax.Array, jax.Array]) -> jax.Array:
        kernel, bias = parameters
        logits = x @ kernel + bias
        return jnp.sum(weights * optax.sigmoid_binary_cross_entropy(logits, y)) + 0.5 * penalty * kernel @ kernel

    def bent(direction: jax.Array) -> jax.Array:
        return 0.25 * (weights * (x @ direction)) @ x

    # The largest curvature, by power iteration; the curvature of the bias is at most a quarter.
    def powered(_: Any, direction: jax.Array) -> jax.Array:
        direction = bent(direction)
        return direction / jnp.linalg.norm(direction)

    direction = jax.lax.fori_loop(0, 8, powered, jnp.ones(x.shape[1], jnp.float32))
    curvature = 0.25 + jnp.linalg.norm(bent(direction)) + penalty
    solver = optax.sgd(0.9 / curvature, momentum=_MOMENTUM, nesterov=True)

    def step(_: Any, carry: Any) -> Any:
        parameters, state = carry
        updates, state = solver.update(jax.grad(loss)(parameters), state)
        return optax.apply_updates(parameters, updates), state

    start = (jnp.zeros(x.shape[1], jnp.float32), jnp.zeros((), jnp.float32))
    return jax.lax.fori_loop(0, steps, step, (start, solver.init(start)))[0]


def within_source_weights(table: FeatureTable, used: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns weights under which neither a row's source nor its view says anything of its label.

    In every view of every source reals and fakes weigh the same, and among its fakes every kind of aligned fake as much
    as the published ones; it weighs the square root of its size. A source of one class is not used in views in which
    aligned fakes do not give it the other. Rows that are not used weigh 0.

    Args:
        table: the rows.
        used: selects those that count.
    """
    weights = np.zeros(len(table))
    fakes = table.fakes
    for source in np.unique(table.sources):
        for view in np.unique(table.views[table.sources == source]):
            mine = used & (table.sources == source) & (table.views == view)
            real, fake = mine & ~fakes, mine & fakes
            if not real.any() or not fake.any():
                continue
            total = float(mine.sum()) ** 0.5
            weights[real] = total / real.sum()
            kinds = np.unique(table.aligned[fake])
            for kind in kinds:
                one = fake & (table.aligned == kind)
                weights[one] = total / len(kinds) / one.sum()
    return weights
