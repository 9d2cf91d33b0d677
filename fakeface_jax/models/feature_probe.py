"""A frozen vision transformer with a linear head on the features that its blocks compute at several depths.

After each of the chosen blocks there are three vectors: the class token, and the mean and the standard deviation of the
patch tokens. The head sees all of them, concatenated. Linear probes of frozen features generalise to unseen generators
better than networks trained on the same faces: Ojha et al., "Towards Universal Fake Image Detectors that Generalize
Across Generative Models" (CVPR 2023); on several depths instead of the last: Koutlis and Papadopoulos, "Leveraging
Representations from Intermediate Encoder-Blocks" (ECCV 2024).

Example:
    >>> model = FeatureProbe(rngs=nnx.Rngs(0), backbone="clip-vit-base-patch16", taps=(3, 6, 8))
    >>> model(pixels).shape
    (1,)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Key

from fakeface_jax.backbones import STATISTICS, load_backbone
from fakeface_jax.errors import ConfigError
from fakeface_jax.models.vit import VisionTransformer


class FeatureProbe(nnx.Module):
    """A frozen backbone and a linear head with one logit.

    Args:
        rngs: random numbers for the initial weights of the head.
        backbone: name of a backbone that is installed with the package.
        backbone_sha256: SHA-256 of its weights; None accepts any.
        taps: blocks of the backbone, counted from 0, after which features are taken.
        statistics: names from `STATISTICS`, in that order.
        size: side of the input in pixels, the backbone's.
        dtype: float32.

    Raises:
        ConfigError: a setting cannot be used.
        BundleError: the backbone is not installed.
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        backbone: str,
        backbone_sha256: str | None = None,
        taps: Sequence[int],
        statistics: Sequence[str] = STATISTICS,
        size: int = 224,
        dtype: str = "float32",
    ) -> None:
        found = load_backbone(backbone, backbone_sha256)
        self.taps = tuple(taps)
        self.kept = tuple(STATISTICS.index(name) for name in statistics) if set(statistics) <= set(STATISTICS) else ()
        depth = int(found.settings["depth"])
        fits = all(isinstance(tap, int) and 0 <= tap < depth for tap in self.taps)
        if not self.taps or not self.kept or not fits or list(self.taps) != sorted(set(self.taps)):
            raise ConfigError(
                f"taps {taps} and statistics {statistics} do not fit a backbone of {depth} blocks; use others"
            )
        if size != found.settings["size"] or dtype != "float32":
            raise ConfigError(f"the backbone takes crops of {found.settings['size']} pixels in float32")
        self.backbone = VisionTransformer(rngs=rngs, **found.settings)
        width = int(found.settings["width"])
        self.classifier = nnx.Linear(len(self.taps) * len(self.kept) * width, 1, rngs=rngs)

    def __call__(self, pixels: Float[Array, "n s s 3"], *, key: Key[Array, ""] | None = None) -> Float[Array, " n"]:
        """Returns the logits of normalised pixels; positive means fake. Training's `key` changes nothing."""
        features = self.backbone.depth_features(pixels, self.taps)[:, :, self.kept, :]
        return self.classifier(features.reshape(len(features), -1))[:, 0]

    @property
    def stage_of(self) -> Callable[[tuple[Any, ...]], int]:
        """Returns a function from a parameter's path to its stage: the backbone, then the head."""
        return lambda path: int(path[0] == "classifier")

    def summary(self) -> str:
        """Returns a table of the backbone's stages and the head's parameters."""
        inputs = self.classifier.kernel.shape[0]
        return f"{self.backbone.summary()}\nHead on {inputs:,} features after blocks {self.taps}: {inputs + 1:,}"
