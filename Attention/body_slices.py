"""Slices of one vertebral body, cropped around it: what the fracture classifier sees.

A slice is `(row, column)`: cranial to caudal, then anterior to posterior (sagittal) or right to left
(coronal). The crop is centred on the body's own extent, so that the network judges what lies in the middle.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from util.mask_box import bounding_box

PLANE_AXES = {"sagittal": 2, "coronal": 1}
CROP_ROWS = 112  # mm: the body and both its neighbours (centres 35 mm apart, bodies up to 30 mm high)
CROP_COLUMNS = {"sagittal": 80, "coronal": 64}  # mm: above any body's depth, 42; the volume's width


class BodySlices(NamedTuple):
    """All slices of one body along a plane's axis."""

    images: np.ndarray  # (S, rows, columns) uint8, zero where the crop leaves the volume
    indices: np.ndarray  # (S,) index of each slice along the plane's axis
    corner: tuple[int, int]  # row and column of the crop's first pixel in the slice; may be negative


def _window(start: int, length: int, available: int) -> tuple[slice, slice]:
    """Where a window meets an axis: its part of the axis, and that part's place in the window."""
    first, last = max(start, 0), min(start + length, available)
    return slice(first, last), slice(first - start, last - start)


def cut_body_slices(ct: np.ndarray, body: np.ndarray, plane: str, rows: int, columns: int) -> BodySlices:
    """Crops every slice that holds the body, centred on the body's extent.

    Args:
        ct: (rows, anterior-posterior, right-left) uint8, 1 mm.
        body: bool, same shape, at least one voxel.
        plane: `sagittal` or `coronal`.
        rows: height of the crop in mm.
        columns: width of the crop in mm.
    """
    slices_first = (PLANE_AXES[plane], 0, 3 - PLANE_AXES[plane])
    ct, body = ct.transpose(slices_first), body.transpose(slices_first)
    box = bounding_box(body)
    assert box is not None, "a body without a voxel"
    indices, down, across = box
    corner = ((down.start + down.stop) // 2 - rows // 2, (across.start + across.stop) // 2 - columns // 2)
    images = np.zeros((indices.stop - indices.start, rows, columns), np.uint8)
    (source_rows, crop_rows), (source_columns, crop_columns) = (
        _window(start, length, available)
        for start, length, available in zip(corner, (rows, columns), ct.shape[1:], strict=True)
    )
    images[:, crop_rows, crop_columns] = ct[indices, source_rows, source_columns]
    return BodySlices(images, np.arange(indices.start, indices.stop), corner)


def paste_slices(target: np.ndarray, values: np.ndarray, slices: BodySlices, plane: str) -> None:
    """Writes cropped maps back into a volume, keeping the larger value where maps overlap.

    Args:
        target: (rows, anterior-posterior, right-left), changed in place.
        values: (S, rows, columns) of the crop.
        slices: where the crop came from.
        plane: `sagittal` or `coronal`.
    """
    view = target.transpose(PLANE_AXES[plane], 0, 3 - PLANE_AXES[plane])
    (target_rows, crop_rows), (target_columns, crop_columns) = (
        _window(start, length, available)
        for start, length, available in zip(slices.corner, values.shape[1:], view.shape[1:], strict=True)
    )
    region = view[slices.indices[0] : slices.indices[-1] + 1, target_rows, target_columns]
    np.maximum(region, values[:, crop_rows, crop_columns], out=region)


def central_part(count: int, fraction: float) -> slice:
    """The central `fraction` of `count` slices, as many dropped on either side, at least one kept."""
    dropped = (count - max(1, round(count * fraction))) // 2
    return slice(dropped, count - dropped)
