"""Building blocks of the generators and discriminators. None of them mixes the samples of a batch."""

import torch
from torch import Tensor, nn
from torch.nn import functional

GPU_CHANNELS = 8    # that a GPU's convolutions take at a time
TWO_CHANNELS = 2    # one alone counts as contiguous, channels first
GROUP_CHANNELS = 8  # channels that share a mean and a variance in a group norm


class Head(nn.Module):
    """Marks a generator's last layers, whose outputs mean different things and are learned one by one."""


def by_eights(images: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """On a GPU fill a convolution's input channels up to a multiple of eight: it does so by itself, slowly.

    Args:
        images: (B, in, R, C).
        weight: (out, in, k, k).

    Returns:
        Both, with the same number of channels.
    """
    return fill_channels(images, weight, GPU_CHANNELS) if images.is_cuda else (images, weight)


def fill_channels(images: Tensor, weight: Tensor, multiple: int) -> tuple[Tensor, Tensor]:
    """Fill a convolution's input channels, and its weight's, up with zeros to a multiple of a number.

    Args:
        images: (B, in, R, C).
        weight: (out, in, k, k).
        multiple: the number.

    Returns:
        Both, with the same number of channels.
    """
    missing = -images.shape[1] % multiple
    if not missing:
        return images, weight
    filled = functional.pad(images, (0, 0, 0, 0, 0, missing)).contiguous(memory_format=torch.channels_last)
    return filled, functional.pad(weight, (0, 0, 0, 0, 0, missing))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside an identity (pre-activation, He et al. 2016, arXiv:1603.05027).

    Group norm (Wu and He 2018, arXiv:1803.08494) looks at one sample at a time. The last convolution
    begins at zero, so that a deep stack begins as the identity.
    """

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            normalisation(channels), nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation),
            normalisation(channels), nn.SiLU(),
            begin_at_zero(nn.Conv2d(channels, channels, 3, padding=1)))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, channels, R, C) to the same shape."""
        return features + self.body(features)


def begin_at_zero(layer: nn.Module) -> nn.Module:
    """Set all parameters of a layer to zero and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def normalisation(channels: int) -> nn.GroupNorm:
    """Return a group norm of groups of 8 channels (one group where 8 does not divide them)."""
    return nn.GroupNorm(channels // GROUP_CHANNELS if channels % GROUP_CHANNELS == 0 else 1, channels)


def as_plane(values: Tensor, image: Tensor) -> Tensor:
    """Spread one number per sample, (B,), over the pixels of an image (B, ?, R, C): (B, 1, R, C)."""
    return values[:, None, None, None].expand(-1, 1, *image.shape[2:]).to(image.dtype)


def row_offset(gap: Tensor) -> Tensor:
    """Return each row's signed distance in rows from the centre of the sample's own gap.

    Args:
        gap: (B, 1, R, C), 1 in the gap.

    Returns:
        (B, 1, R, 1); 0 lies between the two central rows of an even gap.
    """
    row = torch.arange(gap.shape[2], device=gap.device, dtype=gap.dtype)[None, None, :, None]
    in_gap = gap[:, :, :, :1]                                                     # (B, 1, R, 1)
    centre = (row * in_gap).sum(2, keepdim=True) / in_gap.sum(2, keepdim=True).clamp_min(1.0)
    return row - centre


def column_offset(image: Tensor) -> Tensor:
    """Return each column's signed distance in columns from the image's middle, (1, 1, 1, C)."""
    columns = image.shape[3]
    return torch.arange(columns, device=image.device, dtype=image.dtype)[None, None, None] - (columns - 1) / 2
