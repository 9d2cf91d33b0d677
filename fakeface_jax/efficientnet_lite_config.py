"""The shape of EfficientNet-Lite (Tan and Le, 2019), shared by the Flax module and the other runtimes.

Its imports are light, so that a process that only scores can build the network without JAX.

Example:
    >>> [len(blocks) for blocks in lite_stages(0)]
    [1, 2, 2, 3, 3, 4, 1]
"""

from __future__ import annotations

import dataclasses
import math

STEM = 32
"""Channels of the first convolution."""

HEAD = 1280
"""Channels of the last convolution, which the classifier sees."""

EPSILON = 1e-3
"""Added to variances by batch normalisation, as in the published weights."""

SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
"""Width and depth factors of the variants."""


@dataclasses.dataclass(frozen=True)
class LiteBlock:
    """One inverted residual block.

    Attributes:
        kernel: side of the depthwise filter.
        stride: stride of the depthwise filter.
        expansion: factor by which the channels are expanded inside; with 1 there is no expanding convolution.
        inputs: number of input channels.
        outputs: number of output channels.
    """

    kernel: int
    stride: int
    expansion: int
    inputs: int
    outputs: int

    @property
    def residual(self) -> bool:
        """True if the input is added to the result."""
        return self.stride == 1 and self.inputs == self.outputs


_STAGES = (
    # kernel, stride, expansion, channels, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)

STRIDES = tuple(stage[1] for stage in _STAGES)
"""Stride of each stage's first block."""


def lite_stages(variant: int) -> list[list[LiteBlock]]:
    """Returns the blocks of each of the seven stages of EfficientNet-Lite 0, 1 or 2."""
    width, depth = SCALES[variant]
    inputs, stages = STEM, []
    for index, (kernel, stride, expansion, channels, repeats) in enumerate(_STAGES):
        # Lite variants scale neither the stem, nor the head, nor the depth of the first and the last stage.
        count = repeats if index in (0, len(_STAGES) - 1) else math.ceil(repeats * depth)
        outputs, blocks = _scaled(channels, width), []
        for number in range(count):
            blocks.append(LiteBlock(kernel, stride if number == 0 else 1, expansion, inputs, outputs))
            inputs = outputs
        stages.append(blocks)
    return stages


def _scaled(count: int, width: float) -> int:
    rounded = max(8, int(count * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * count * width else rounded
