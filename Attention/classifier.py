"""The fracture classifier: a small SE-ResNet on single slices.

Squeeze-and-excitation residual blocks: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018,
arXiv 1709.01507, in MONAI's implementation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def _stage(in_channels: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """Squeeze-and-excitation bottlenecks; the first one changes resolution and width to `4 * planes`.

    MONAI's SE-ResNeXt block with one group of full width is the SE-ResNet block with its stride in the 3x3
    convolution; SEResNetBottleneck has it in the 1x1, which skips three pixels of four.
    """
    from monai.networks.blocks import Convolution, SEResNeXtBottleneck

    shortcut = Convolution(2, in_channels, 4 * planes, strides=stride, kernel_size=1, act=None, norm="batch")
    settings: dict[str, Any] = {"groups": 1, "base_width": 64, "reduction": 8}
    layers = [SEResNeXtBottleneck(2, in_channels, planes, stride=stride, downsample=shortcut, **settings)]
    layers += [SEResNeXtBottleneck(2, 4 * planes, planes, **settings) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


class FractureClassifier(nn.Module):
    """Logit of 'the vertebra in the middle of this slice is fractured'.

    Two channels tell each pixel's distance from the middle: convolutions alone cannot tell the vertebra in
    question from its neighbours, which the crop also shows.

    Args:
        width: channels of the stem; the stages have 2, 4 and 8 times as many.
        dropout: probability of dropping a feature before the linear layer.
    """

    def __init__(self, width: int = 16, dropout: float = 0.2) -> None:
        super().__init__()
        self.arguments: dict[str, Any] = {"width": width, "dropout": dropout}
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, kernel_size=5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stages = nn.Sequential(
            _stage(width, planes=width // 2, blocks=1, stride=1),
            _stage(2 * width, planes=width, blocks=2, stride=2),
            _stage(4 * width, planes=2 * width, blocks=2, stride=1),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(8 * width, 1))

    @property
    def evidence_layer(self) -> nn.Module:
        """The stage whose output Grad-CAM++ reads: a quarter of the input's resolution, 4 mm."""
        return self.stages

    def forward(self, slices: Tensor) -> Tensor:
        """Logits (B,) of slices (B, 1, rows, columns) in -1..1."""
        features = self.stages(self.stem(_with_position(slices)))  # (B, 8 width, rows / 4, columns / 4)
        return self.head(features.mean((2, 3))).squeeze(1)  # (B,)


def _with_position(slices: Tensor) -> Tensor:
    """Appends each pixel's row and column distance from the middle, in units of 64 mm: (B, 3, R, C)."""
    batch, _, rows, columns = slices.shape
    row = (torch.arange(rows, device=slices.device) - (rows - 1) / 2).abs() / 64.0
    column = (torch.arange(columns, device=slices.device) - (columns - 1) / 2).abs() / 64.0
    grid = torch.stack(torch.meshgrid(row, column, indexing="ij")).to(slices.dtype)  # (2, R, C)
    return torch.cat([slices, grid.expand(batch, -1, -1, -1)], dim=1)


def signed(images: Any, device: torch.device | str = "cpu") -> Tensor:
    """Cropped uint8 slices (S, rows, columns) as the network's input (S, 1, rows, columns) in -1..1."""
    return torch.as_tensor(images, device=device).unsqueeze(1).float() / 127.5 - 1.0
