"""The default generator: two residual U-Nets that work at a quarter of the resolution and read heights in mm.

It keeps the two published stages, their inputs and heads, contextual attention and the attention map.
Inside, measured steps and seconds to quality decided: 4x4 pixels become channels (no pixel is lost and
the convolutions run on a sixteenth of the positions), group norm instead of spectral norm, blocks that
begin as the identity, heads without dead ends, and heights measured as sums of rows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from data.slice_input import SliceInput
from models.contextual_attention import GapAttention
from models.generator_output import GeneratorOutput
from models.layers import ResidualBlock, as_plane, column_offset, normalisation, row_offset
from util.geometry import GAP_ROWS

FOLD = 4                 # rows and columns of pixels that become channels
OFFSET_SCALE_MM = 64.0   # positions enter the network as multiples of this
EDGE_MM = 4.0            # the height plane runs from 1 inside to -1 outside within this distance of an endplate
TYPICAL_HEIGHT_MM = 24.0  # what an untrained height head answers


class HeightHead(nn.Module):
    """Read a height (SHRM) from soft bodies measured in mm, and from the size of all that is seen.

    Learned maps say where a body is; summed along a column they are lengths in mm, and a learned weight
    per column averages them. So the head adds up rows at full precision instead of guessing from means.
    """

    def __init__(self, channels: int, deep_channels: int, maps: int = 8, hidden: int = 32) -> None:
        super().__init__()
        self.maps = maps
        self.bodies = nn.Conv2d(channels, 2 * maps, 3, padding=1)
        self.mixer = nn.Sequential(nn.Linear(maps + 2 * deep_channels, hidden), nn.SiLU(), nn.Linear(hidden, 1))
        self.lengths = nn.Linear(maps, 1)
        nn.init.zeros_(self.mixer[-1].weight)

    def forward(self, features: Tensor, deep: Tensor) -> Tensor:
        """Return the logit of height / 40 mm, (B,).

        Args:
            features: (B, channels, R / 4, C / 4).
            deep: (B, deep_channels, R / 16, C / 16).
        """
        presence, weight = self.bodies(features).chunk(2, 1)                       # (B, K, r, c) each
        columns = weight.mean(2).softmax(2)                                        # (B, K, c)
        lengths = (presence.sigmoid().sum(2) * columns).sum(2) * FOLD / OFFSET_SCALE_MM    # (B, K)
        size = torch.cat([lengths, deep.mean((2, 3)), deep.amax((2, 3))], 1)
        return (self.lengths(lengths) + self.mixer(size)).squeeze(1)


class StageNetwork(nn.Module):
    """A U-Net over folded pixels: quarter, eighth and sixteenth resolution."""

    def __init__(self, planes: int, ngf: int, gap_attention: bool) -> None:
        super().__init__()
        wide, wider, widest = 2 * ngf, 4 * ngf, 8 * ngf
        self.stem = nn.Conv2d(planes * FOLD**2 + 2, wide, 3, padding=1)
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

    def forward(self, planes: Tensor, positions: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
        """Return decoded features (B, 2 ngf, R/4, C/4) and the deepest ones (B, 8 ngf, R/16, C/16).

        Args:
            planes: (B, planes, R, C); R and C multiples of 16.
            positions: (B, 2, R/4, C/4).
            gap: (B, 1, R, C).
        """
        quarter = self.stem(torch.cat([functional.pixel_unshuffle(planes, FOLD), positions], 1))
        quarter = self.encode(quarter)                                             # (B, 2 ngf, R/4, C/4)
        eighth = self.encode_half(self.down(quarter))                              # (B, 4 ngf, R/8, C/8)
        if self.attend is not None:
            eighth = self.attend(eighth, gap)
        deep = self.deep(self.down_half(eighth))                                   # (B, 8 ngf, R/16, C/16)
        eighth = self.decode_half(eighth + enlarge(self.up_half(deep)))
        return self.decode(quarter + enlarge(self.up(eighth))), deep


def enlarge(features: Tensor) -> Tensor:
    """Double rows and columns."""
    return functional.interpolate(features, scale_factor=2, mode="nearest")


def pixel_head(channels: int, images: int) -> nn.Sequential:
    """Return a head that unfolds features at a quarter of the resolution into full-resolution images."""
    return nn.Sequential(nn.Conv2d(channels, images * FOLD**2, 3, padding=1), nn.PixelShuffle(FOLD))


def positions_of(gap: Tensor) -> Tensor:
    """Return rows from the gap's centre and columns from the middle, folded: (B, 1, R, C) -> (B, 2, R/4, C/4)."""
    rows, columns = torch.broadcast_tensors(row_offset(gap), column_offset(gap))
    return functional.avg_pool2d(torch.cat([rows, columns], 1) / OFFSET_SCALE_MM, FOLD)


def height_plane(height_mm: Tensor, gap: Tensor) -> Tensor:
    """Draw a height: 1 inside the interval of that height at the gap's centre, -1 outside, a ramp between.

    Args:
        height_mm: (B,).
        gap: (B, 1, R, C).

    Returns:
        (B, 1, R, C), differentiable with respect to the height.
    """
    inside_mm = height_mm[:, None, None, None] / 2 - row_offset(gap).abs()         # (B, 1, R, 1)
    return (inside_mm / EDGE_MM).clamp(-1, 1).expand_as(gap)


def typical_logit() -> float:
    """Return the logit of the typical height."""
    share = TYPICAL_HEIGHT_MM / GAP_ROWS
    return float(torch.logit(torch.tensor(share)))


class ResidualGenerator(nn.Module):
    """Both stages. Rows and columns must be multiples of 16."""

    def __init__(self, ngf: int = 16, attention: bool = True) -> None:
        super().__init__()
        self.arguments = {"kind": "residual", "ngf": ngf, "attention": attention}
        self.coarse = StageNetwork(3 + int(attention), ngf, gap_attention=False)
        self.coarse_images = pixel_head(2 * ngf, 2)
        self.coarse_height = HeightHead(2 * ngf, 8 * ngf)
        self.fine = StageNetwork(6 + int(attention), ngf, gap_attention=True)
        self.fine_images = pixel_head(2 * ngf, 2)
        self.fine_height = HeightHead(2 * ngf, 8 * ngf)

    def forward(self, seen: SliceInput) -> GeneratorOutput:
        """Restore the vertebrae of a batch of slices in the opened frame."""
        positions = positions_of(seen.gap)                                         # (B, 2, R/4, C/4)
        given = [seen.masked_ct, seen.gap, as_plane(seen.distance, seen.gap)]
        given += [seen.attention] if self.arguments["attention"] else []
        features, deep = self.coarse(torch.cat(given, 1), positions, seen.gap)
        coarse_ct, neighbours = self.coarse_images(features).chunk(2, 1)           # (B, 1, R, C) each
        height_logit = self.coarse_height(features, deep) + typical_logit()        # (B,)
        coarse_height_mm = GAP_ROWS * height_logit.sigmoid()
        neighbours = neighbours.sigmoid()
        given[0] = torch.lerp(seen.masked_ct, coarse_ct, seen.gap)
        given += [coarse_ct, neighbours, height_plane(coarse_height_mm, seen.gap)]
        features, deep = self.fine(torch.cat(given, 1), positions, seen.gap)
        ct, body = self.fine_images(features).chunk(2, 1)
        height_mm = GAP_ROWS * (height_logit + self.fine_height(features, deep)).sigmoid()
        return GeneratorOutput(coarse_ct, neighbours, coarse_height_mm, coarse_ct + ct, body.sigmoid(), height_mm)
