"""Patch discriminators and what they look at."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers import by_eights

BOX_PIXELS = 64   # side of the window around the target; holds 40 rows and the widest body's columns
BLANK = -1.0      # outside the target's box
FIRST_ITERATIONS = 15  # of a fresh layer's norm


class NormalisedConv(nn.Conv2d):
    """A 4x4 convolution divided by its spectral norm (Miyato et al. 2018, arXiv:1802.05957).

    The norm is that of the weights as they lie in memory, channels last, so that they need not be copied for
    it, and it is worked out within the layer, so that a compiled network holds it. Never in bfloat16.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, 4, stride, padding=1)
        self.left: Tensor
        self.register_buffer("left", functional.normalize(torch.randn(out_channels), dim=0))
        with torch.no_grad():
            for _ in range(FIRST_ITERATIONS):
                self.norm()

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_channels, R, C) to (B, out_channels, R / 2, C / 2), or R - 1, C - 1 at stride 1."""
        with torch.autocast(features.device.type, enabled=False):
            weight = self.weight / self.norm()
        return self._conv_forward(*by_eights(features, weight), self.bias)

    def norm(self) -> Tensor:
        """Return the greatest singular value; in training this takes a step of power iteration towards it."""
        matrix = self.weight.permute(0, 2, 3, 1).flatten(1)                        # (out, 16 in)
        right = functional.normalize(matrix.detach().t() @ self.left, dim=0)
        product = matrix @ right                                                   # (out,)
        if not self.training:
            return self.left @ product
        left = functional.normalize(product.detach(), dim=0)
        self.left.copy_(left)
        return left @ product


class PatchDiscriminator(nn.Module):
    """A 70x70 PatchGAN (Isola et al. 2017, arXiv:1611.07004): one logit per overlapping patch.

    Spectral normalisation (arXiv:1802.05957) rather than instance norm: masks are constant nearly
    everywhere, and instance norm would raise the noise of a constant patch to unit variance.
    """

    def __init__(self, ndf: int = 64, in_channels: int = 1) -> None:
        super().__init__()
        widths = [in_channels, ndf, 2 * ndf, 4 * ndf, 8 * ndf]
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if index < 3 else 1
            layers += [NormalisedConv(before, after, stride), nn.LeakyReLU(0.2, inplace=True)]
        self.layers = nn.Sequential(*layers, NormalisedConv(widths[-1], 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, in_channels, R, C) to logits (B, 1, R / 8 - 2, C / 8 - 2)."""
        return self.layers(images)


class Discriminators(nn.Module):
    """The three of the publication: composed CT, soft body mask, composed CT in the target's box."""

    def __init__(self, ndf: int = 64) -> None:
        super().__init__()
        self.image = PatchDiscriminator(ndf)
        self.mask = PatchDiscriminator(ndf)
        self.target = PatchDiscriminator(ndf)

    def forward(self, image: Tensor, mask: Tensor, box: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three discriminators' logits.

        Args:
            image: (B, 1, R, C) composed CT, -1..1.
            mask: (B, 1, R, C) body, 0..1, soft or hard.
            box: (B, 1, R, C) the true body in the frame of `image`, 0 or 1; its box is cropped.
        """
        return self.image(image), self.mask(mask), self.target(crop_to_box(image, box))


def first_and_last(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first occupied index of (B, N) and the one after the last, (B,) each; N and 0 if none."""
    index = torch.arange(occupied.shape[1], device=occupied.device)
    first = torch.where(occupied, index, occupied.shape[1]).amin(1)
    last = torch.where(occupied, index + 1, 0).amax(1)
    return first, last


def crop_to_box(images: Tensor, body: Tensor) -> Tensor:
    """Cut a 64x64 window around each sample's body and blank what lies outside the body's own box.

    A gather of the whole batch: an eighth of the work of masking the full slice.

    Args:
        images: (B, C, R, W).
        body: (B, 1, R, W), nonzero in the body.

    Returns:
        (B, C, 64, 64), blank (-1) beyond the box, everywhere where a sample has no body.
    """
    occupied = body[:, 0] > 0                                                      # (B, R, W)
    for axis in (2, 3):
        first, last = first_and_last(occupied.any(4 - axis))
        offset = torch.arange(BOX_PIXELS, device=images.device)[None]
        source = torch.div(first + last - BOX_PIXELS, 2, rounding_mode="floor")[:, None] + offset   # (B, 64)
        inside = (source >= first[:, None]) & (source < last[:, None])
        images = take(images, source.clamp(0, images.shape[axis] - 1), inside, axis)
    return images


def take(images: Tensor, source: Tensor, inside: Tensor, axis: int) -> Tensor:
    """Gather rows (axis 2) or columns (axis 3), (B, N) of them, blank where not inside."""
    shape = [images.shape[0], 1, 1, 1]
    shape[axis] = source.shape[1]
    size = list(images.shape)
    size[axis] = source.shape[1]
    gathered = images.gather(axis, source.reshape(shape).expand(size))
    return gathered.masked_fill(~inside.reshape(shape), BLANK)
