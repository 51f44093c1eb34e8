"""Slices of box spines in memory: a target at row 128, the same boxes above and below it."""

import numpy as np
import torch

from data.slice_input import RawSlices

ROWS, COLUMNS, FRONT, BACK = 256, 64, 16, 46
BONE, TISSUE = 150, 80


def boxes(*gaps_and_heights: tuple[int, int], target: int = 24, outside: int = 0) -> RawSlices:
    """One slice: a target of `target` rows at row 128, boxes above it and the same below.

    Args:
        gaps_and_heights: rows of disc and of body, outwards from the target.
        target: rows of the target.
        outside: columns at the left edge that lie outside the scan.
    """
    body, neighbours = torch.zeros(2, 1, 1, ROWS, COLUMNS, dtype=torch.uint8)
    top = 128 - target // 2
    bottom = top + target
    body[:, :, top:bottom, FRONT:BACK] = 1
    above, below = top, bottom
    for gap, height in gaps_and_heights:
        neighbours[:, :, above - gap - height:above - gap, FRONT:BACK] = 1
        neighbours[:, :, below + gap:below + gap + height, FRONT:BACK] = 1
        above, below = above - gap - height, below + gap + height
    ct = (TISSUE + (BONE - TISSUE) * (body | neighbours)).to(torch.uint8)
    ct[:, :, :, :outside] = 0
    return RawSlices(ct, body, neighbours, torch.zeros_like(ct), torch.tensor([top]), torch.tensor([bottom]),
                     torch.tensor([0.25]))


def joined(*batches: RawSlices) -> RawSlices:
    """Batches as one."""
    return RawSlices(*(torch.cat(fields) for fields in zip(*batches, strict=True)))


def noisy(raw: RawSlices, seed: int = 0) -> RawSlices:
    """The slices with a texture in CT and heatmap."""
    generator = torch.Generator().manual_seed(seed)
    texture = torch.randint(0, 40, raw.ct.shape, generator=generator, dtype=torch.uint8)
    return raw._replace(ct=torch.where(raw.ct > 0, raw.ct + texture, 0), heatmap=texture)


def heights(mask: torch.Tensor) -> np.ndarray:
    """Rows of a mask in every column of the boxes."""
    return mask[0, 0, :, FRONT:BACK].sum(0).numpy()
