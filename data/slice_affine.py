"""Small rotations and scalings of a slice about its target, with an exact extent.

[top, bottom) is the vertebra's extent over all its slices, and its height is the truth that a network learns.
So the scale is rounded such that the new extent is a whole number of rows, and the old extent is laid exactly
on the new one: every slice of the vertebra would scale to within the same new extent. A rotation tilts the
slice's body, which then occupies more rows. The extent becomes that of the tilted body, with the scaled
margins that the vertebra's extent had above and below this slice's body.
"""

import torch
from torch import Tensor

from data.slice_input import RawSlices
from data.slice_sampling import extent, sample_slices
from util.geometry import GAP_ROWS, closed_top

ROUNDING_ROWS = 2  # what rounding may add to a tilted extent: one for pixels, a half for each margin


def turn_and_scale(raw: RawSlices, angle_deg: Tensor, scale: Tensor) -> RawSlices:
    """Turn each slice about its target's centre and scale it in both directions.

    The target stays where it was, and fits into the gap's 40 rows: scale and angle are cut to what does.

    Args:
        raw: slices.
        angle_deg: (B,) positive turns the slice's first column down.
        scale: (B,) > 1 enlarges.
    """
    rows = raw.ct.shape[2]
    height = raw.bottom - raw.top
    new_height = (height * scale).round().long().clamp(1, GAP_ROWS)
    new_top = closed_top(raw.top, raw.bottom, new_height).clamp_min(0).minimum(rows - new_height)
    ratio = new_height / height                                                           # (B,)
    first, last = extent(raw.body.any(2)[:, 0])
    angle = _limited(torch.deg2rad(angle_deg), new_height, (last - first) * ratio)
    old_centre = torch.stack([(raw.top + raw.bottom) / 2, (first + last) / 2])            # (2, B)
    new_centre = torch.stack([new_top + new_height / 2, old_centre[1]])
    turned = sample_slices(raw, *_sources(raw.ct, old_centre, new_centre, angle, ratio))
    upright = (angle == 0) | (raw.body == 0).flatten(1).all(1)
    top, bottom = _tilted_extent(raw, turned.body, ratio)
    return turned._replace(top=torch.where(upright, new_top, top),
                           bottom=torch.where(upright, new_top + new_height, bottom))


def _limited(angle: Tensor, height: Tensor, depth: Tensor) -> Tensor:
    """Cut angles (B,), in radians, to those at which a body of this height and depth fits into the gap.

    A box of height h and depth d, tilted by an angle a, occupies h cos(a) + d sin(a) <= h + d sin(a) rows.
    """
    room = (GAP_ROWS - ROUNDING_ROWS - height).clamp_min(0)
    limit = torch.asin((room / depth).clamp_max(1.0))
    return angle.maximum(-limit).minimum(limit)


def _sources(image: Tensor, old_centre: Tensor, new_centre: Tensor, angle: Tensor,
             ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row and the column, (B, R, C) each, that every pixel of an image (B, 1, R, C) comes from.

    Args:
        image: tells the shape.
        old_centre, new_centre: (2, B) row and column of the fixed point before and after, in pixels' edges.
        angle: (B,) radians.
        ratio: (B,) scale.
    """
    old, new = old_centre[:, :, None, None], new_centre[:, :, None, None]
    down = torch.arange(image.shape[2], device=image.device)[None, :, None] + 0.5 - new[0]
    across = torch.arange(image.shape[3], device=image.device)[None, None] + 0.5 - new[1]
    sine, cosine = ((each / ratio)[:, None, None] for each in (torch.sin(angle), torch.cos(angle)))
    return (cosine * down + sine * across + old[0] - 0.5,
            cosine * across - sine * down + old[1] - 0.5)


def _tilted_extent(raw: RawSlices, tilted: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the extent, (B,) each, of vertebrae whose body in this slice is now `tilted` (B, 1, R, C)."""
    first, last = extent(raw.body.any(3)[:, 0])
    margins = [(margin * ratio).round().long() for margin in (first - raw.top, raw.bottom - last)]
    new_first, new_last = extent(tilted.any(3)[:, 0])
    return (new_first - margins[0]).clamp_min(0), (new_last + margins[1]).clamp_max(raw.ct.shape[2])
