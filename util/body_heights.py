"""Height of a vertebral body, column by column.

A body is a mask (rows, columns, slices) in the straightened frame: cranial to caudal, anterior to posterior,
right to left. The height of a column (one anterior-posterior position of one sagittal slice) is bottom minus
top of the target's own connected body, so a hole inside does not shorten it. Each body is measured in its own
extent: its slices, and in each slice its depth.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from util.mask_box import bounding_box, extent

THIRDS = ("anterior", "middle", "posterior")
CENTRAL_SHARE = 2 / 5      # of the body's slices, those that heights are taken from
RIM_FRACTION = 0.5         # a column lower than this fraction of the body's median height may be rim
RIM_SHARE = 0.15           # of the depth: a longer run of low columns is a collapse, not rim, and stays
CUT_OFF_FRACTION = 0.05    # of a body's columns that end where the scan has no more voxels
SLIVER_FRACTION = 0.25     # slices at either side with less than this fraction of the median area are dropped


class UndefinedHeightError(ValueError):
    """A body has no height; the text is the reason."""


@dataclass(frozen=True)
class BodyHeights:
    """Heights of one body.

    Attributes:
        columns_mm: (columns, slices) height of every column in mm; 0 where the body has none.
        slices: half-open interval of the body's slices.
        depth: (slices, 2) half-open interval of columns of each slice, rim dropped; 0, 0 outside the body.
        rows: half-open interval of rows of the whole body.
    """

    columns_mm: np.ndarray
    slices: tuple[int, int]
    depth: np.ndarray
    rows: tuple[int, int]


def own_body(labels: np.ndarray, label: int) -> np.ndarray:
    """Return the mask of the largest connected piece (26 neighbours) of a label; empty if there is none.

    Args:
        labels: (rows, columns, slices), any integer type.
    """
    from scipy import ndimage

    mask = labels == label
    box = bounding_box(mask)
    if box is None:
        return mask
    pieces, count = ndimage.label(mask[box], structure=np.ones((3, 3, 3)))
    if count > 1:
        mask[box] = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
    return mask


def ends_with_the_scan(mask: np.ndarray, content: np.ndarray) -> bool:
    """Tell whether the scan ends within a body: its columns border rows that hold no CT.

    Args:
        mask: (rows, columns, slices) boolean, not empty.
        content: the same shape, boolean: where the scan has voxels; beyond the array there are none.
    """
    rows = extent(mask.any(axis=(1, 2)))
    content = np.pad(content, ((1, 1), (0, 0), (0, 0)))[rows.start:rows.stop + 2]  # the body's and one around
    body = np.pad(mask[rows], ((1, 1), (0, 0), (0, 0)))
    ends_above = (body[1:] & ~content[:-1]).any(axis=0)
    ends_below = (body[:-1] & ~content[1:]).any(axis=0)
    return bool((ends_above | ends_below).sum() > CUT_OFF_FRACTION * body.any(axis=0).sum())


def measure_body(mask: np.ndarray, row_mm: float = 1.0) -> BodyHeights:
    """Measure every column of a body.

    Args:
        mask: (rows, columns, slices) of one connected body, see `own_body`.
        row_mm: size of a row in mm.

    Raises:
        UndefinedHeightError: the mask is empty, touches the first or last row (cut off), or is too thin.
    """
    if not mask.any():
        raise UndefinedHeightError("is empty")
    rows = extent(mask.any(axis=(1, 2)))
    if rows.start == 0 or rows.stop == mask.shape[0]:
        raise UndefinedHeightError("is cut off by the image's edge")
    columns_mm = _column_heights(mask[rows]) * row_mm
    areas = columns_mm.sum(axis=0)
    least_area = SLIVER_FRACTION * np.median(areas[areas > 0])
    [[first, end]] = _trim(areas[:, None], least_area, longest_share=1.0).tolist()
    low_mm = RIM_FRACTION * np.median(columns_mm[columns_mm > 0])
    depth = np.zeros((mask.shape[2], 2), int)
    depth[first:end] = _trim(columns_mm[:, first:end], low_mm, longest_share=RIM_SHARE)
    if np.median(np.diff(depth[first:end])) < len(THIRDS):
        raise UndefinedHeightError(f"is less than {len(THIRDS)} columns deep")
    return BodyHeights(columns_mm, (first, end), depth, (rows.start, rows.stop))


def _column_heights(mask: np.ndarray) -> np.ndarray:
    """Return bottom minus top in rows of every column of a mask that is not empty; 0 where it has none."""
    filled = np.asarray(mask.any(axis=0))
    box = extent(filled.any(axis=1)), extent(filled.any(axis=0))
    within = mask[:, *box]
    height = len(mask) - within.argmax(axis=0) - within[::-1].argmax(axis=0)
    heights = np.zeros(filled.shape, height.dtype)
    heights[box] = np.where(filled[box], height, 0)
    return heights


def _trim(profiles: np.ndarray, threshold: float, longest_share: float) -> np.ndarray:
    """Return the half-open extents (S, 2) of profiles (N, S) without the low rim at either end.

    A run of values below the threshold is rim, and dropped, if it is no longer than a share of the extent.
    What lies between the two rims is never looked at. An empty profile has the extent 0, 0.
    """
    high = profiles >= threshold
    first, last = _ends(profiles > 0)
    high_first, high_last = _ends(high)
    longest = np.where(high.any(axis=0), longest_share * (last - first), -np.inf)
    front, back = high_first - first, last - high_last
    return np.stack([first + np.where(front <= longest, front, 0),
                     last - np.where(back <= longest, back, 0)], axis=1)


def _ends(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first place of each column of a mask (N, S) and the one after its last; 0, 0 if empty."""
    last = len(mask) - mask[::-1].argmax(axis=0)
    return mask.argmax(axis=0), np.where(mask.any(axis=0), last, 0)


def central_slices(body: BodyHeights) -> range:
    """Return the slices whose middle lies in the central 2/5 of the body's slices; at least one."""
    first, last = body.slices
    half = CENTRAL_SHARE * (last - first) / 2
    middle = (first + last) / 2
    places = np.arange(first, last)
    inside = places[np.abs(places + 0.5 - middle) <= half].tolist() or [int(middle)]
    return range(inside[0], inside[-1] + 1)


def third_heights_mm(body: BodyHeights) -> np.ndarray:
    """Return the mean height in mm of the anterior, middle and posterior third, and overall: (4,).

    Each central slice's depth is cut into three equal parts; a column that a cut divides counts in both
    with its share. A third is the mean over its columns, then over slices. Overall is the mean of the thirds,
    that is of the whole depth.
    """
    slices = central_slices(body)
    depth = body.depth[slices]
    occupied = depth.any(axis=1)
    if not occupied.any():
        return np.full(len(THIRDS) + 1, np.nan)
    mean = _slice_thirds(body.columns_mm[:, slices][:, occupied], depth[occupied]).mean(axis=0)
    return np.append(mean, mean.mean())


def body_sizes_mm(body: BodyHeights, pixel_mm: float = 1.0) -> np.ndarray:
    """Return a body's depth, the mean of its central slices', and its width: (2,) in mm.

    Args:
        body: as measured.
        pixel_mm: of columns and slices.
    """
    depths = np.diff(body.depth[central_slices(body)])
    return pixel_mm * np.array([depths.mean(), body.slices[1] - body.slices[0]])


def body_measures(labels: np.ndarray, wanted: Iterable[int]) -> dict[int, np.ndarray]:
    """Return the measures of those vertebrae of a label volume that can be measured.

    Args:
        labels: (rows, columns, slices), voxels of 1 mm.
        wanted: labels.

    Returns:
        Per label (5,) in mm: heights of the thirds, depth and width.
    """
    measures: dict[int, np.ndarray] = {}
    box = bounding_box(labels.max(axis=0) > 0)
    if box is None:
        return measures
    labels = labels[:, *box]  # where no label is, nothing is looked at
    for label in wanted:
        try:
            body = measure_body(own_body(labels, label))
        except UndefinedHeightError:
            continue
        thirds = third_heights_mm(body)[:len(THIRDS)]
        if (thirds > 0).all():  # not so where one is NaN
            measures[label] = np.append(thirds, body_sizes_mm(body))
    return measures


def _slice_thirds(heights: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Return the mean height of each third of slices, divided columns shared: (S, 3).

    Args:
        heights: (C, S) of columns.
        depth: (S, 2) half-open intervals of columns that are cut into thirds.
    """
    column, length = np.arange(len(heights))[:, None], depth[:, 1] - depth[:, 0]
    inside = (column >= depth[:, 0]) & (column < depth[:, 1])
    below = np.pad(np.cumsum(np.where(inside, heights, 0.0), axis=0), ((1, 1), (0, 0)), "edge")
    below[0] = 0.0                                                       # (C + 2, S)
    cuts = np.arange(len(THIRDS) + 1)[:, None] * (length / len(THIRDS))  # (4, S)
    cuts[-1] = length
    whole = cuts.astype(int)
    lower, upper = (np.take_along_axis(below, depth[:, 0] + place, axis=0) for place in (whole, whole + 1))
    shares = np.diff((upper - lower) * (cuts - whole) + lower, axis=0)   # (3, S)
    return np.ascontiguousarray((shares * len(THIRDS) / length).T)
