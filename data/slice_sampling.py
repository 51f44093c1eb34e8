"""Sampling slices anew at any place: images linear, masks nearest, zero outside."""

import torch
from torch import Tensor
from torch.nn import functional

from data.slice_input import RawSlices


def sample_slices(raw: RawSlices, row: Tensor, column: Tensor) -> RawSlices:
    """Take every pixel from another place of its slice; extents stay as they are.

    Args:
        raw: slices.
        row, column: (B, R, C) float32, where each output pixel comes from; whole numbers are pixels' middles.

    Returns:
        The slices: CT and heatmap linear, masks nearest, 0 where the source lies outside.
    """
    images = _sample(torch.cat([raw.ct, raw.heatmap], 1), row, column, "bilinear")        # (B, 2, R, C)
    masks = _sample(torch.cat([raw.body, raw.neighbours], 1), row, column, "nearest")
    return raw._replace(ct=images[:, :1], heatmap=images[:, 1:], body=masks[:, :1], neighbours=masks[:, 1:])


def _sample(images: Tensor, row: Tensor, column: Tensor, mode: str) -> Tensor:
    """Sample uint8 images (B, K, R, C)."""
    rows, columns = images.shape[2:]
    grid = torch.stack([(2 * column + 1) / columns - 1, (2 * row + 1) / rows - 1], dim=-1)  # (B, R, C, 2)
    return to_bytes(functional.grid_sample(images.float(), grid, mode, "zeros", align_corners=False))


def to_bytes(values: Tensor) -> Tensor:
    """Round and clip to uint8 0..255."""
    return values.round().clamp(0.0, 255.0).to(torch.uint8)


def extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return first place and place after the last of what is occupied, each (...).

    Args:
        occupied: (..., N) bool; where nothing is, the extent is 0, N.
    """
    count = occupied.shape[-1]
    marks = occupied.to(torch.uint8)
    return marks.argmax(-1), count - marks.flip(-1).argmax(-1)
