"""Building blocks of the generators and discriminators. None of them mixes the samples of a batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUP_CHANNELS = 8  # channels that share a mean and a variance in a group norm


class Head(nn.Module):
    """Marks a generator's last layers, whose outputs mean different things and are learned one by one."""


class SpectralConv(nn.Module):
    """A spectrally normalised convolution and its activation (Miyato et al. 2018, arXiv:1802.05957).

    It keeps torch's first interface of the normalisation, whose parameters are named `weight_orig`,
    `weight_u` and `weight_v`, because published weights carry those names.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1,
                 dilation: int = 1, enlarges: bool = False,
                 activation: Callable[[Tensor], Tensor] | None = functional.elu_) -> None:
        """Make a layer.

        Args:
            in_channels, out_channels, kernel, stride, dilation: of the convolution; no pixel is lost.
            enlarges: it sees its features with rows and columns doubled.
            activation: may overwrite what it is given.
        """
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        self.conv = nn.utils.spectral_norm(
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, dilation))
        self.enlarges, self.activation = enlarges, activation

    def forward(self, features: Tensor, *planes: Tensor) -> Tensor:
        """Map (B, in, R, C) to (B, out, R / stride, C / stride), or twice R and C where it enlarges.

        Args:
            features: the first input channels.
            planes: the rest, (B, 1, R, C) each, already large. They are convolved apart: joined to the
                features they would make an odd number of channels, which costs far more.
        """
        weight, conv = self.weight(), self.conv
        first = weight[:, :features.shape[1]]
        if self.enlarges:
            result = convolve_enlarged(features, first, conv.bias)
        else:
            result = functional.conv2d(features, first, conv.bias, conv.stride, conv.padding, conv.dilation)
        for channel, plane in enumerate(planes, start=features.shape[1]):
            result += functional.conv2d(plane, weight[:, channel:channel + 1], padding=conv.padding)
        return self.activation(result) if self.activation else result

    def weight(self) -> Tensor:
        """Return the normalised weight; in training this takes a step towards the norm.

        In full precision always: the hooks that compute it run here, not under autocast.
        """
        with torch.autocast(next(self.conv.parameters()).device.type, enabled=False):
            for normalise in self.conv._forward_pre_hooks.values():
                normalise(self.conv, ())
        return self.conv.weight


def elu_by_sigmoid_(features: Tensor) -> Tensor:
    """Be `functional.elu_` without gradients, in two thirds of its time on a processor.

    e^x - 1 is 1 / sigmoid(-x) - 2, and PyTorch's sigmoid takes half the time of its exponential there.
    Within 3e-7 of torch's; bfloat16 is worked on in float32.

    Args:
        features: of any shape; overwritten.
    """
    below = features.neg().relu_().float().sigmoid_().reciprocal_().sub_(2)        # 0 for positive features
    return torch.maximum(features, below.to(features.dtype), out=features)


def convolve_enlarged(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve features whose rows and columns are doubled, without doubling them.

    Four pixels of the large image are one of the small, so a 3x3 kernel meets 2x2 different pixels there, and
    which taps meet the same one depends on the parity of row and column. A transposed convolution with
    the sums of those taps does that: 4/9 of the multiplications, a quarter of the memory.

    Args:
        features: (B, in, R, C).
        weight: (out, in, 3, 3).
        bias: (out,) or None.

    Returns:
        (B, out, 2 R, 2 C), zero beyond the edge.
    """
    taps = functional.pad(weight.flip(2, 3), (1, 1, 1, 1))                         # (out, in, 5, 5)
    sums = functional.avg_pool2d(taps, 2, stride=1, divisor_override=1)            # (out, in, 4, 4)
    return functional.conv_transpose2d(features, sums.transpose(0, 1), bias, stride=2, padding=1)


def convolve_jointly(layers: Sequence[SpectralConv], features: Tensor, *planes: Tensor) -> list[Tensor]:
    """Return what several 3x3 layers of one output channel, without activation, make of the same input.

    Args:
        layers: heads.
        features: (B, N, R, C).
        planes: the input channels after those, (B, 1, R, C) each.

    Returns:
        (B, 1, R, C) each.
    """
    weight = torch.cat([layer.weight() for layer in layers])                       # (heads, in, 3, 3)
    bias = torch.cat([layer.conv.bias for layer in layers if layer.conv.bias is not None])
    result = functional.conv2d(features, weight[:, :features.shape[1]], bias, padding=1)
    for channel, plane in enumerate(planes, start=features.shape[1]):
        result += functional.conv2d(plane, weight[:, channel:channel + 1], padding=1)
    return list(result.split(1, 1))


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
