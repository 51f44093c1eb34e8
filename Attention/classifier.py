"""The fracture classifier: a small SE-ResNet on single slices.

Squeeze-and-excitation residual blocks: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018,
arXiv 1709.01507, in MONAI's implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

FEATURE_MM = 4.0  # pixel size of the last stage: a stem and a stage of stride 2
POOLING_MM = (14.0, 16.0)  # rows, columns: half the size of a body


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

    The crop also shows the neighbours, which convolutions alone cannot tell from the vertebra in question. So
    two channels carry each pixel's distance from the middle, and the features are pooled around it.

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
        offsets = offsets_mm(slices.shape[2:], pixel_mm=1.0, device=slices.device)  # (2, R, C)
        position = (offsets.abs() / 64.0).expand(len(slices), -1, -1, -1)
        features = self.stages(self.stem(torch.cat([slices, position], dim=1)))  # (B, 8 width, R / 4, C / 4)
        return self.head(pool_middle(features)).squeeze(1)  # (B,)


def offsets_mm(size: Sequence[int], pixel_mm: float, device: torch.device | str = "cpu") -> Tensor:
    """Each pixel's row and column offset from the image's middle, (2, rows, columns)."""
    axes = [(torch.arange(length, device=device) - (length - 1) / 2) * pixel_mm for length in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def pool_middle(features: Tensor) -> Tensor:
    """Mean of features (B, K, R, C) at 4 mm, weighted by a bell of POOLING_MM around the middle: (B, K).

    Measured against the plain mean: the same loss in half the steps, since the vertebra in question fills
    less than a tenth of the crop.
    """
    rows, columns = offsets_mm(features.shape[2:], FEATURE_MM, features.device)
    bell = torch.exp(-0.5 * ((rows / POOLING_MM[0]) ** 2 + (columns / POOLING_MM[1]) ** 2))  # (R, C)
    return (features * (bell / bell.sum())).sum((2, 3))


def signed(images: Any, device: torch.device | str = "cpu") -> Tensor:
    """Cropped uint8 slices (S, rows, columns) as the network's input (S, 1, rows, columns) in -1..1."""
    return torch.as_tensor(images, device=device).unsqueeze(1).float() / 127.5 - 1.0
