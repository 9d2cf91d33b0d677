"""PyTorch: the same training steps, channels last, eager or compiled. Runs in the peers' environment.

    torch_steps.py FOLDER NETWORK MODE

FOLDER holds `batch.npz` and the first weights of ours, `weights.npz`. EfficientNet-Lite pads as PyTorch does at no
cost: before the picture, where TensorFlow's `SAME` pads behind it. With pictures and filters mirrored both ways that is
the same network, so that losses can be compared and PyTorch copies nothing to pad.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from serving import serve

STAGES = ((3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1))
"""Kernel, stride of the first block, blocks: EfficientNet-Lite0."""


def make() -> Any:
    """The program's answers."""
    import torch
    from torch import nn
    from torch.nn.functional import max_pool2d

    torch.set_num_threads(2)
    torch.manual_seed(0)
    folder, name, mode = sys.argv[1:]
    with np.load(Path(folder) / "batch.npz") as found:
        images, labels = torch.from_numpy(found["images"]), torch.from_numpy(found["labels"])
    with np.load(Path(folder) / "weights.npz") as found:
        weights = {key: torch.from_numpy(found[key]) for key in found}

    def conv(key: str, *, stride: int = 1, pad: bool = True, groups: int = 1, bias: str = "") -> nn.Conv2d:
        kernel = weights[key]
        if kernel.ndim == 2:  # 1 x 1
            kernel = kernel[None, None]
        if groups > 1:  # depthwise: rows, columns, channels
            kernel = kernel[:, :, None]
        side, _, inputs, outputs = kernel.shape
        layer = nn.Conv2d(
            inputs * groups, outputs, side, stride, side // 2 if pad else 0, groups=groups, bias=bool(bias)
        )
        layer.weight.data = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        if pad:
            layer.weight.data = layer.weight.data.flip(2, 3).contiguous(memory_format=torch.channels_last)
        if bias:
            layer.bias.data = weights[bias].clone()
        return layer

    def linear(key: str) -> nn.Linear:
        layer = nn.Linear(*weights[f"{key}.kernel"].shape)
        layer.weight.data = weights[f"{key}.kernel"].T.contiguous()
        layer.bias.data = weights[f"{key}.bias"].clone()
        return layer

    class Report(nn.Module):
        """The report's network."""

        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(conv(f"convs.{i}.kernel", pad=False, bias=f"convs.{i}.bias") for i in range(3))
            self.dense1, self.dense2 = linear("dense1"), linear("dense2")

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            """Logits of uint8 pixels."""
            x = pixels.permute(0, 3, 1, 2).float() / 255
            for layer in self.convs:
                x = max_pool2d(layer(x).relu(), 2)
            # Channels fastest, as ours are; channels-last, that is no copy.
            return self.dense2(self.dense1(x.permute(0, 2, 3, 1).flatten(1)).relu())[:, 0]

    class Block(nn.Module):
        """Inverted residual."""

        def __init__(self, key: str, stride: int) -> None:
            super().__init__()
            inner, outputs = weights[f"{key}.project"].shape
            self.expands = f"{key}.expand" in weights
            if self.expands:
                self.expand, self.expand_norm = conv(f"{key}.expand"), norm(inner)
            self.depthwise = conv(f"{key}.depthwise", stride=stride, groups=inner)
            self.depthwise_norm, self.project, self.project_norm = norm(inner), conv(f"{key}.project"), norm(outputs)
            inputs = weights[f"{key}.expand"].shape[0] if self.expands else inner
            self.residual = stride == 1 and inputs == outputs
            self.act = nn.ReLU6(inplace=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.act(self.expand_norm(self.expand(x))) if self.expands else x
            y = self.project_norm(self.project(self.act(self.depthwise_norm(self.depthwise(y)))))
            return x + y if self.residual else y

    def norm(channels: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.02)

    class Lite(nn.Module):
        """EfficientNet-Lite0; all normalisations start alike, so their weights need not be copied."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.stem_norm = conv("stem", stride=2), norm(32)
            self.blocks = nn.Sequential(
                *(
                    Block(f"stages.{index}.{number}", stride if number == 0 else 1)
                    for index, (_, stride, count) in enumerate(STAGES)
                    for number in range(count)
                )
            )
            self.head, self.head_norm, self.classifier = conv("head"), norm(1280), linear("classifier")
            self.act = nn.ReLU6(inplace=True)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            """Logits of uint8 pixels that are mirrored both ways."""
            x = (pixels.permute(0, 3, 1, 2).float() - 127) / 128
            x = self.act(self.stem_norm(self.stem(x)))
            x = self.act(self.head_norm(self.head(self.blocks(x))))
            return self.classifier(x.mean((2, 3)))[:, 0]

    if name == "report":
        model: nn.Module = Report()
    else:
        model, images = Lite(), images.flip(1, 2).contiguous()
    model = model.to(memory_format=torch.channels_last).train()
    forward = torch.compile(model) if mode == "compiled" else model
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    loss_of = nn.BCEWithLogitsLoss()

    def answer(steps: int = 1) -> dict[str, Any]:
        losses = []
        started = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(forward(images), labels)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        found = [float(loss) for loss in losses]
        return {"seconds": time.perf_counter() - started, "losses": found}

    return answer


if __name__ == "__main__":
    serve(make)
