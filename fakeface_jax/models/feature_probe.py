"""A frozen vision transformer with a linear head on what its blocks make of a face at several depths.

After each of the named blocks three vectors are taken: the class token, and the mean and the standard deviation of the
patch tokens over the face. The head sees all of them side by side. Linear probes of frozen features generalise to
generators that they never saw better than networks trained on the same faces do: Ojha et al., "Towards Universal Fake
Image Detectors that Generalize Across Generative Models" (CVPR 2023); several depths instead of the last: Koutlis and
Papadopoulos, "Leveraging Representations from Intermediate Encoder-Blocks" (ECCV 2024).

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
    """The network with one logit.

    Args:
        rngs: where the initial weights of the head come from.
        backbone: name of a backbone that the package carries.
        backbone_sha256: of its weights; None to take what is there.
        taps: blocks of the backbone, counted from 0, after which features are taken.
        statistics: some of `STATISTICS`, in that order.
        size: side of the input in pixels, the backbone's.
        dtype: float32.

    Raises:
        ConfigError: a setting that cannot be used.
        BundleError: the backbone is not there.
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
            raise ConfigError(f"taps {taps} and statistics {statistics} do not fit a backbone of {depth} blocks")
        if size != found.settings["size"] or dtype != "float32":
            raise ConfigError(f"the backbone takes crops of {found.settings['size']} pixels in float32")
        self.backbone = VisionTransformer(rngs=rngs, **found.settings)
        width = int(found.settings["width"])
        self.classifier = nnx.Linear(len(self.taps) * len(self.kept) * width, 1, rngs=rngs)

    def __call__(self, pixels: Float[Array, "n s s 3"], *, key: Key[Array, ""] | None = None) -> Float[Array, " n"]:
        """Logits of normalised pixels; positive means fake. The key of training changes nothing."""
        features = self.backbone.depth_features(pixels, self.taps)[:, :, self.kept, :]
        return self.classifier(features.reshape(len(features), -1))[:, 0]

    @property
    def stage_of(self) -> Callable[[tuple[Any, ...]], int]:
        """The stage a parameter belongs to, by its path: the backbone, then the head."""
        return lambda path: int(path[0] == "classifier")

    def summary(self) -> str:
        """A table of the backbone's stages and the head's parameters."""
        inputs = self.classifier.kernel.shape[0]
        return f"{self.backbone.summary()}\nHead on {inputs:,} features after blocks {self.taps}: {inputs + 1:,}"
