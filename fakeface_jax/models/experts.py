"""A fusion of several networks, each trained on one kind of trace: their logits are added.

The last layers carry the weight of each network's contribution; they were fitted together. Every expert sees the pixels
scaled as in its training.

Example:
    >>> config = {"name": "experts", "experts": [{"name": "efficientnet_lite0"}, {"name": "efficientnet_lite1"}]}
    >>> create_model(config, nnx.Rngs(0))(jnp.zeros((1, 224, 224, 3))).shape
    (1,)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key

from fakeface_jax.errors import ConfigError


class Experts(nnx.Module):
    """A fusion of networks with one logit.

    Args:
        experts: the networks.
        scaling: mean and standard deviation of pixels in [0, 1], per RGB channel, for each network.

    Raises:
        ConfigError: there are no networks.
    """

    def __init__(self, experts: Sequence[Any], scaling: Sequence[tuple[Any, Any]]) -> None:
        if not experts:
            raise ConfigError("a fusion of experts needs at least one expert")
        self.experts = nnx.List(list(experts))
        self.scaling = tuple(tuple(tuple(map(float, part)) for part in pair) for pair in scaling)

    def __call__(self, pixels: Float[Array, "n s s 3"], *, key: Key[Array, ""] | None = None) -> Float[Array, " n"]:
        """Returns the sum of the experts' logits for pixels in [0, 1]; positive means fake."""
        total: jax.Array | float = 0.0
        for expert, (mean, std) in zip(self.experts, self.scaling, strict=True):
            total = total + expert((pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32), key=key)
        return total  # type: ignore[return-value]

    @property
    def stage_of(self) -> Callable[[tuple[Any, ...]], int]:
        """Returns a function from a parameter's path to its stage in its own network."""
        stages = [expert.stage_of for expert in self.experts]
        return lambda path: stages[int(path[1])](path[2:])

    def summary(self) -> str:
        """Returns the tables of the experts, one after the other."""
        return "\n\n".join(expert.summary() for expert in self.experts)
