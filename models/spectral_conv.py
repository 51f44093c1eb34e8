"""The published network's layers: spectrally normalised convolutions, their norms worked out all at once."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import GPU_CHANNELS, TWO_CHANNELS, by_eights, fill_channels

NORM_FLOOR = 1e-12  # torch's; a vector of zeros stays one


class SpectralConv(nn.Module):
    """A spectrally normalised convolution and its activation (Miyato et al. 2018, arXiv:1802.05957).

    It keeps torch's first interface of the normalisation, whose parameters are named `weight_orig`,
    `weight_u` and `weight_v`, because published weights carry those names. The convolution itself is never
    called, so torch's hook does not run, and `conv.weight` is stale until the norm is folded into it.
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

    def forward(self, weight: Tensor, features: Tensor, *planes: Tensor) -> Tensor:
        """Map (B, in, R, C) to (B, out, R / stride, C / stride), or twice R and C where it enlarges.

        Args:
            weight: its own of `normalised_weights`.
            features: the first input channels.
            planes: the rest, (B, 1, R, C) each, already large. They are convolved apart: joined to the
                features they would make an odd number of channels, which costs far more.
        """
        conv = self.conv
        first, rest = weight.tensor_split([features.shape[1]], 1)
        if self.enlarges:
            result = convolve_enlarged(features, first, conv.bias)
        else:
            result = functional.conv2d(*by_eights(features, first), conv.bias, conv.stride, conv.padding,
                                       conv.dilation)
        add_planes(result, planes, rest)
        return self.activation(result) if self.activation else result


Weights = Mapping[SpectralConv, Tensor]


def normalised_weights(layers: Sequence[SpectralConv]) -> Weights:
    """Return the layers' weights divided by their spectral norms; in training these take a step of iteration.

    All at once, as matrices filled up with zeros to one size: norm by norm, a GPU would spend longer on
    starting the work than on doing it. In full precision always, also under autocast. A layer whose norm has
    been folded into its weight keeps that.
    """
    normed = [layer for layer in layers if hasattr(layer.conv, "weight_orig")]
    weights = {layer: layer.conv.weight for layer in layers if layer not in normed}
    if normed:
        with torch.autocast(normed[0].conv.get_buffer("weight_u").device.type, enabled=False):
            weights |= zip(normed, _divided([layer.conv for layer in normed]), strict=True)
    return weights


def _divided(convs: Sequence[nn.Conv2d]) -> list[Tensor]:
    """Return weights divided by their norms, which come by power iteration: W^T left, then W right.

    Sums of products rather than matrix products, which a GPU would take in TF32.
    """
    own_lefts = [conv.get_buffer("weight_u") for conv in convs]                    # (out,) each
    own_rights = [_as_kernel(conv, conv.get_buffer("weight_v")) for conv in convs]  # (k, k, in) each
    matrices = _filled([conv.get_parameter("weight_orig").permute(0, 2, 3, 1).flatten(1) for conv in convs])
    lefts = _filled(own_lefts)                                                     # (N, out)
    rights = _filled([each.flatten() for each in own_rights])                      # (N, k k in)
    if convs[0].training:
        with torch.no_grad():
            rights = functional.normalize((matrices * lefts[:, :, None]).sum(1), dim=1, eps=NORM_FLOOR)
            lefts = functional.normalize((matrices * rights[:, None]).sum(2), dim=1, eps=NORM_FLOOR)
            for own, filled in zip((*own_lefts, *own_rights), (*lefts, *rights), strict=True):
                own.copy_(filled[:own.numel()].view_as(own))
    norms = ((matrices * rights[:, None]).sum(2) * lefts).sum(1)
    divided = (matrices / norms[:, None, None]).unbind()
    return [_cut(matrix, conv) for matrix, conv in zip(divided, convs, strict=True)]


def _as_kernel(conv: nn.Conv2d, vector: Tensor) -> Tensor:
    """View a vector of (channel, row, column) as (row, column, channel): so weights lie in memory."""
    return vector.view(conv.in_channels, *conv.kernel_size).permute(1, 2, 0)


def _filled(arrays: Sequence[Tensor]) -> Tensor:
    """Return vectors or matrices as one array, filled up with zeros to the size of the largest."""
    size = [max(lengths) for lengths in zip(*(array.shape for array in arrays), strict=True)]
    return torch.stack([_resized(array, size) for array in arrays])


def _resized(array: Tensor, size: Sequence[int]) -> Tensor:
    """Cut an array off, or fill it up with zeros, at the end of each axis."""
    ends = [(0, wanted - present) for wanted, present in zip(size, array.shape, strict=True)]
    return functional.pad(array, [each for end in reversed(ends) for each in end])


def _cut(matrix: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return a filled matrix as the convolution's weight, (out, in, k, k)."""
    shape = (conv.out_channels, *conv.kernel_size, conv.in_channels)
    return _resized(matrix, (shape[0], math.prod(shape[1:]))).view(shape).permute(0, 3, 1, 2)


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


def add_planes(result: Tensor, planes: Sequence[Tensor], weight: Tensor) -> None:
    """Add to a convolution's result what the planes beside its features give.

    A plane of one channel would be convolved into the order of memory that has channels first, and the sum
    be taken across the two orders, which costs a processor five times as much.

    Args:
        result: (B, out, R, C); overwritten.
        planes: P of them, (B, 1, R, C) each.
        weight: (out, P, k, k).
    """
    for plane, own in zip(planes, weight.unbind(1), strict=True):
        filled = fill_channels(plane, own[:, None], GPU_CHANNELS if plane.is_cuda else TWO_CHANNELS)
        result += functional.conv2d(*filled, padding=own.shape[-1] // 2)


def convolve_jointly(weights: Weights, layers: Sequence[SpectralConv], features: Tensor,
                     *planes: Tensor) -> list[Tensor]:
    """Return what several 3x3 layers of one output channel, without activation, make of the same input.

    Args:
        weights: those of `normalised_weights`.
        layers: heads.
        features: (B, N, R, C).
        planes: the input channels after those, (B, 1, R, C) each.

    Returns:
        (B, 1, R, C) each.
    """
    weight = torch.cat([weights[layer] for layer in layers])                       # (heads, in, 3, 3)
    bias = torch.cat([layer.conv.bias for layer in layers if layer.conv.bias is not None])
    first, rest = weight.tensor_split([features.shape[1]], 1)
    result = functional.conv2d(features, first, bias, padding=1)
    add_planes(result, planes, rest)
    return list(result.split(1, 1))
