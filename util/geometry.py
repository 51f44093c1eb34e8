"""Rows: where a vertebra lies, how a gap is opened in its place, and how the gap closes to a height.

This is the only place that computes rows. A row interval is half-open, [top, bottom). Opening the gap
and closing it are one operation: the rows [top, bottom) of an image are replaced by `height` rows that
begin at `new_top`, and what lies above and below moves, unchanged, to border them. The operation is an
integer map from output row to source row, one per sample, applied to a batch with a single gather.

The extent [top, bottom) is the vertebra's, over all slices of its body, not the slice's. So all slices
of both planes share one frame, the neighbours move as rigid bodies, and fusing planes needs no warping.
"""

import numpy as np
import torch
from torch import Tensor

from util.errors import InputError

GAP_ROWS = 40  # mm; higher than any healthy thoracic or lumbar body
NOTHING = -1   # a row without a source


def row_extent(mask: np.ndarray) -> tuple[int, int]:
    """Return the half-open interval of rows (axis 0) that a 3-D body mask occupies.

    Raises:
        InputError: the mask is empty.
    """
    rows = np.flatnonzero(mask.any(axis=(1, 2)))
    if rows.size == 0:
        raise InputError("expected a vertebral body in the mask, found none; check the label")
    return int(rows[0]), int(rows[-1]) + 1


def gap_top(rows: int) -> int:
    """Return the first row of the gap in an opened frame of `rows` rows."""
    return (rows - GAP_ROWS) // 2


def closed_top(top: Tensor, bottom: Tensor, height: Tensor) -> Tensor:
    """Return the first row of an interval of `height` rows centred on [top, bottom). All (B,)."""
    return torch.div(top + bottom - height, 2, rounding_mode="floor")


def replace_rows_map(top: Tensor, bottom: Tensor, new_top: Tensor, height: Tensor, rows: int) -> Tensor:
    """Map output rows to source rows when [top, bottom) gives way to `height` rows from `new_top`.

    Args:
        top, bottom: (B,) the interval taken out.
        new_top, height: (B,) the interval put in its place.
        rows: of source and output alike.

    Returns:
        (B, rows) int64; -1 inside the new interval and wherever the source has no such row.
    """
    row = torch.arange(rows, device=top.device)[None]                # (1, R)
    new_bottom = (new_top + height)[:, None]                         # (B, 1)
    new_top, top, bottom = new_top[:, None], top[:, None], bottom[:, None]
    above = row - new_top + top                                      # (B, R)
    below = row - new_bottom + bottom
    source = torch.where(row < new_top, above, torch.where(row >= new_bottom, below, NOTHING))
    return torch.where((source >= 0) & (source < rows), source, NOTHING)


def open_gap_map(top: Tensor, bottom: Tensor, rows: int, context_above: Tensor,
                 context_below: Tensor) -> Tensor:
    """Map output rows to source rows when a gap of 40 rows replaces [top, bottom).

    The gap lies in the middle of the output. Rows further from it than the visible context are blank,
    so that where the content ends says nothing about the height of what was taken out.

    Args:
        top, bottom: (B,) the vertebra's extent.
        context_above, context_below: (B,) visible rows on either side of the gap.

    Returns:
        (B, rows) int64; -1 in the gap, beyond the context and where the image ends.
    """
    first = torch.full_like(top, gap_top(rows))
    source = replace_rows_map(top, bottom, first, torch.full_like(top, GAP_ROWS), rows)
    row = torch.arange(rows, device=top.device)[None]
    visible = (row >= first[:, None] - context_above[:, None]) & (
        row < first[:, None] + GAP_ROWS + context_below[:, None])
    return torch.where(visible, source, NOTHING)


def close_gap_maps(top: Tensor, bottom: Tensor, height: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Map output rows to their sources when the gap closes to its central `height` rows.

    The restored interval is centred where the vertebra was.

    Returns:
        outside: (B, rows) source row in the original image, -1 inside the restored interval.
        inside: (B, rows) source row in the opened frame's gap, -1 outside the restored interval.
    """
    new_top = closed_top(top, bottom, height)
    outside = replace_rows_map(top, bottom, new_top, height, rows)
    row = torch.arange(rows, device=top.device)[None]
    central = gap_top(rows) + torch.div(GAP_ROWS - height, 2, rounding_mode="floor")
    within = (row >= new_top[:, None]) & (row < (new_top + height)[:, None])
    return outside, torch.where(within, row - new_top[:, None] + central[:, None], NOTHING)


def opened_body_map(top: Tensor, bottom: Tensor, rows: int) -> Tensor:
    """Map opened-frame rows to original rows for the vertebra itself: its rows at the gap's centre.

    The inverse of the inner map of `close_gap_maps` at the vertebra's own height.

    Returns:
        (B, rows) int64; -1 outside the central bottom - top rows of the gap.
    """
    height = bottom - top
    first = (gap_top(rows) + torch.div(GAP_ROWS - height, 2, rounding_mode="floor"))[:, None]
    row = torch.arange(rows, device=top.device)[None]
    within = (row >= first) & (row < first + height[:, None])
    return torch.where(within, row - first + top[:, None], NOTHING)


def gather_rows(images: Tensor, row_map: Tensor, fill: float) -> Tensor:
    """Take rows of a batch of images by a row map.

    Args:
        images: (B, C, R, W).
        row_map: (B, N) source rows, -1 for none.
        fill: value of rows without a source.

    Returns:
        (B, C, N, W).
    """
    batch, channels, rows, columns = images.shape
    missing = row_map == NOTHING                                                   # (B, N)
    own = torch.arange(row_map.shape[1], device=images.device).clamp_max(rows - 1)
    source = torch.where(missing, own, row_map)  # rows to be filled: spread, else their gradients would queue
    first = rows * torch.arange(batch * channels, device=images.device).view(batch, channels, 1)
    index = (first + source[:, None]).flatten()    # whole rows lie together in memory and are copied as such
    taken = images.reshape(-1, columns).index_select(0, index).view(batch, channels, -1, columns)
    return taken.masked_fill_(missing[:, None, :, None], fill)


def compose(original: Tensor, generated: Tensor, top: Tensor, bottom: Tensor, height: Tensor,
            fill: float = -1.0) -> Tensor:
    """Close the gap: original rows outside, the gap's central `height` rows of `generated` inside.

    Args:
        original: (B, C, R, W) in the original frame.
        generated: (B, C, R, W) in the opened frame.
        top, bottom: (B,) the vertebra's extent in the original frame.
        height: (B,) whole rows, 0 to 40.
        fill: value where the original ends.

    Returns:
        (B, C, R, W); differentiable with respect to `generated`.
    """
    outside, inside = close_gap_maps(top, bottom, height, original.shape[2])
    restored = gather_rows(generated, inside, fill)
    surroundings = gather_rows(original, outside, fill)
    return torch.where(inside[:, None, :, None] != NOTHING, restored, surroundings)
