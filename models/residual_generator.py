"""The default generator: two residual U-Nets that work at a quarter of the resolution and read heights in mm.

It keeps the two published stages, their inputs and heads, contextual attention and the attention map.
Inside, measured steps and seconds to quality decided: 4x4 pixels become channels (no pixel is lost and
the convolutions run on a sixteenth of the positions), group norm instead of spectral norm, blocks that
begin as the identity, heads without dead ends, heights measured as sums of rows, and a gap that begins as
its neighbours' mean: straightened vertebrae stand on one another, so a column's mean over the rows beside
the gap is a fair guess of what is missing, and the networks learn the rest.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.slice_input import SliceInput
from models.contextual_attention import GapAttention
from models.generator_output import GeneratorOutput
from models.layers import (
    Head,
    ResidualBlock,
    as_plane,
    begin_at_zero,
    column_offset,
    normalisation,
    row_offset,
)
from util.geometry import GAP_ROWS

FOLD = 4                 # rows and columns of pixels that become channels
OFFSET_SCALE_MM = 64.0   # positions enter the network as multiples of this
MEAN_ROWS = 30           # on either side of the gap, whose mean it begins as: about a body and a disc
EDGE_MM = 4.0            # a drawn height runs from 1 to -1 within this distance of its endplates
PLACES = 4               # channels that tell a position where it is
NEIGHBOURS_SHARE = 0.1   # what untrained mask heads answer: the share of pixels that is body
BODY_SHARE = 0.2         # within the gap
TYPICAL_HEIGHT_MM = 24.0  # what an untrained height head answers
LENGTH_SCALE_MM = 10.0   # lengths enter the head as multiples of this
LENGTH_GAIN = 4.0        # how much faster than the rest of the network the head learns from lengths


class HeightHead(Head):
    """Read a height (SHRM) from soft bodies measured in mm, and from the size of all that is seen.

    Learned maps say where a body is; summed along a column they are lengths in mm, and a learned weight
    per column averages them. So the head adds up rows at full precision instead of guessing from means.
    An untrained head answers 0, the logit of the typical height less itself.
    """

    def __init__(self, channels: int, deep_channels: int, maps: int = 8, hidden: int = 32) -> None:
        super().__init__()
        self.bodies = nn.Conv2d(channels, 2 * maps, 3, padding=1)
        self.mixer = nn.Sequential(nn.Linear(maps + 2 * deep_channels, hidden), nn.SiLU(),
                                   begin_at_zero(nn.Linear(hidden, 1)))
        self.lengths = begin_at_zero(nn.Linear(maps, 1))
        set_bias(self.bodies, [logit(NEIGHBOURS_SHARE)] * maps + [0.0] * maps)

    def forward(self, features: Tensor, deep: Tensor) -> Tensor:
        """Return the logit of height / 40 mm less that of the typical height, (B,).

        In float32 always: bfloat16 would round lengths to 0.5 mm.

        Args:
            features: (B, channels, R / 4, C / 4).
            deep: (B, deep_channels, R / 16, C / 16).
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._logit(features.float(), deep.float())

    def _logit(self, features: Tensor, deep: Tensor) -> Tensor:
        """Return the logit, (B,)."""
        presence, weight = self.bodies(features).chunk(2, 1)                       # (B, K, r, c) each
        columns = weight.mean(2).softmax(2)                                        # (B, K, c)
        lengths_mm = FOLD * (presence.sigmoid().sum(2) * columns).sum(2)           # (B, K)
        lengths = (lengths_mm - TYPICAL_HEIGHT_MM) / LENGTH_SCALE_MM
        size = torch.cat([lengths, deep.mean((2, 3)), deep.amax((2, 3))], 1)
        return (LENGTH_GAIN * self.lengths(lengths) + self.mixer(size)).squeeze(1)


class StageNetwork(nn.Module):
    """A U-Net over folded pixels: quarter, eighth and sixteenth resolution."""

    def __init__(self, channels: int, ngf: int, gap_attention: bool) -> None:
        super().__init__()
        wide, wider, widest = 2 * ngf, 4 * ngf, 8 * ngf
        self.stem = nn.Conv2d(channels, wide, 3, padding=1)
        self.encode = ResidualBlock(wide)
        self.down = nn.Conv2d(wide, wider, 3, stride=2, padding=1)
        self.encode_half = nn.Sequential(ResidualBlock(wider), ResidualBlock(wider))
        self.attend = GapAttention(wider, ngf) if gap_attention else None
        self.down_half = nn.Conv2d(wider, widest, 3, stride=2, padding=1)
        self.deep = nn.Sequential(*(ResidualBlock(widest, dilation) for dilation in (1, 2, 4)))
        self.up_half = nn.Conv2d(widest, wider, 1)
        self.decode_half = ResidualBlock(wider)
        self.up = nn.Conv2d(wider, wide, 1)
        self.decode = nn.Sequential(ResidualBlock(wide), ResidualBlock(wide), normalisation(wide), nn.SiLU())

    def forward(self, folded: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """Return decoded features (B, 2 ngf, R/4, C/4) and the deepest ones (B, 8 ngf, R/16, C/16).

        Args:
            folded: (B, channels, R/4, C/4); R and C multiples of 16.
            gap: (B, 1, R, C).
        """
        quarter = self.encode(self.stem(folded))                                   # (B, 2 ngf, R/4, C/4)
        eighth = self.encode_half(self.down(quarter))                              # (B, 4 ngf, R/8, C/8)
        if self.attend is not None:
            eighth = self.attend(eighth, gap)
        deep = self.deep(self.down_half(eighth))                                   # (B, 8 ngf, R/16, C/16)
        eighth = self.decode_half(eighth + enlarge(self.up_half(deep)))
        return self.decode(quarter + enlarge(self.up(eighth))), deep


def enlarge(features: Tensor) -> Tensor:
    """Double rows and columns."""
    return functional.interpolate(features, scale_factor=2, mode="nearest")


class PixelHead(Head):
    """Unfold features at a quarter of the resolution into a CT and a mask's logits at full resolution."""

    def __init__(self, channels: int, expected_share: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * FOLD**2, 3, padding=1)
        begin_at_zero(self.conv)
        set_bias(self.conv, [0.0] * FOLD**2 + [logit(expected_share)] * FOLD**2)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, channels, R/4, C/4) to two images, (B, 1, R, C) each."""
        ct, mask = functional.pixel_shuffle(self.conv(features), FOLD).chunk(2, 1)
        return ct, mask


def set_bias(conv: nn.Conv2d, values: list[float]) -> None:
    """Begin a convolution's bias at these values, one per output channel."""
    assert conv.bias is not None
    with torch.no_grad():
        conv.bias.copy_(torch.tensor(values))


def logit(share: float) -> float:
    """Return the number whose sigmoid is `share`."""
    return math.log(share / (1 - share))


def column_means(seen: SliceInput) -> Tensor:
    """Return each column's mean over the rows next to the gap, above and below, (B, 1, 1, C).

    Rows that show nothing, -1 throughout, do not count; if none shows anything the mean is 0.
    """
    gap = seen.gap[..., :1]                                                        # (B, 1, R, 1)
    is_near = functional.max_pool2d(gap, (2 * MEAN_ROWS + 1, 1), 1, (MEAN_ROWS, 0)) - gap
    counts = is_near * (seen.masked_ct.amax(3, keepdim=True) > -1)
    return (seen.masked_ct * counts).sum(2, keepdim=True) / counts.sum(2, keepdim=True).clamp_min(1)


def places(seen: SliceInput) -> Tensor:
    """Tell each folded position where it is, (B, 4, R/4, C/4).

    Rows from the gap's centre, columns from the middle, whether it is in the gap, and the slice's distance.
    """
    rows, columns = torch.broadcast_tensors(row_offset(seen.gap), column_offset(seen.gap))
    planes = [rows / OFFSET_SCALE_MM, columns.expand_as(rows) / OFFSET_SCALE_MM, seen.gap,
              as_plane(seen.distance, seen.gap)]
    return functional.avg_pool2d(torch.cat(planes, 1), FOLD)


def height_rows(height_mm: Tensor, gap: Tensor) -> Tensor:
    """Draw a height, folded: 1 in the rows of that height at the gap's centre, -1 outside, a ramp between.

    Args:
        height_mm: (B,).
        gap: (B, 1, R, C).

    Returns:
        (B, 4, R/4, C/4), one channel per folded row; differentiable with respect to the height.
    """
    inside_mm = height_mm[:, None, None, None] / 2 - row_offset(gap).abs()         # (B, 1, R, 1)
    ramp = (inside_mm / EDGE_MM).clamp(-1, 1)
    folded = ramp.reshape(len(ramp), -1, FOLD).transpose(1, 2)[..., None]          # (B, 4, R/4, 1)
    return folded.expand(-1, -1, -1, gap.shape[3] // FOLD)


class ResidualGenerator(nn.Module):
    """Both stages. Rows and columns must be multiples of 16."""

    def __init__(self, ngf: int = 16, attention: bool = True, column_means: bool = True) -> None:
        """Make both stages.

        Args:
            ngf: base width.
            attention: whether they take the map of healthy attention.
            column_means: whether the gap begins as its neighbours' mean; weights of earlier versions did not.
        """
        super().__init__()
        self.arguments = {"kind": "residual", "ngf": ngf, "attention": attention,
                          "column_means": column_means}
        seen_channels = (1 + int(attention)) * FOLD**2 + PLACES
        self.coarse = StageNetwork(seen_channels, ngf, gap_attention=False)
        self.coarse_images = PixelHead(2 * ngf, NEIGHBOURS_SHARE)
        self.coarse_height = HeightHead(2 * ngf, 8 * ngf)
        self.fine = StageNetwork(2 * FOLD**2 + FOLD + PLACES + 2 * ngf, ngf, gap_attention=True)
        self.fine_images = PixelHead(2 * ngf, BODY_SHARE)
        self.fine_height = HeightHead(2 * ngf, 8 * ngf)

    def forward(self, seen: SliceInput) -> GeneratorOutput:
        """Restore the vertebrae of a batch of slices in the opened frame."""
        where = places(seen)                                                       # (B, 4, R/4, C/4)
        means = column_means(seen) if self.arguments["column_means"] else None     # (B, 1, 1, C)
        begun = seen.masked_ct if means is None else torch.lerp(seen.masked_ct, means, seen.gap)
        given = [begun] + ([seen.attention] if self.arguments["attention"] else [])
        features, deep = self.coarse(torch.cat([fold(given), where], 1), seen.gap)
        coarse_ct, neighbours = self.coarse_images(features)                       # (B, 1, R, C) each
        if means is not None:
            coarse_ct = means + coarse_ct
        neighbours = neighbours.sigmoid() * (1 - seen.gap)
        height_logit = self.coarse_height(features, deep) + logit(TYPICAL_HEIGHT_MM / GAP_ROWS)    # (B,)
        coarse_height_mm = GAP_ROWS * height_logit.sigmoid()
        filled = torch.lerp(seen.masked_ct, coarse_ct.to(seen.gap.dtype), seen.gap)
        drawn = height_rows(coarse_height_mm, seen.gap)
        given = [fold([filled, neighbours]), drawn, where, features]
        features, deep = self.fine(torch.cat(given, 1), seen.gap)
        ct, body = self.fine_images(features)
        height_mm = GAP_ROWS * (height_logit + self.fine_height(features, deep)).sigmoid()
        return GeneratorOutput(coarse_ct, neighbours, coarse_height_mm, coarse_ct + ct,
                               body.sigmoid() * seen.gap, height_mm)


def fold(images: list[Tensor]) -> Tensor:
    """Turn 4x4 pixels into channels: (B, 1, R, C) each -> (B, 16 per image, R/4, C/4)."""
    return functional.pixel_unshuffle(torch.cat(images, 1), FOLD)
