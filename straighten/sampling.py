"""Sampling a scanner's volume on the straightened grid, once, straight from its own voxels.

CT is sampled linearly. A label is not sampled by nearest neighbour: slices 2 to 3 mm apart would leave steps
as high as the losses to be measured. Its signed distance to the surface in mm, smoothed a little, is
interpolated linearly instead, and the label is where that is negative. On tilted bodies of known shape at
spacings of 1 to 3 mm this raises Dice from 0.95-0.97 to 0.975-0.987 and lowers the mean error of a column's
height from 0.7-1.2 mm to 0.3-0.8 mm.
"""

from dataclasses import dataclass

import numpy as np

from straighten.curve import FURTHEST_ASIDE_MM, Curve
from util.mask_box import extent
from util.volume import CONTENT_COLUMNS, STRAIGHTENED_SHAPE, Volume, hu_to_uint8

Box = tuple[slice, slice, slice]

HALF_ROWS = STRAIGHTENED_SHAPE[0] // 2
# sampled along a whole spine; targets are cut out of it
COLUMNS = CONTENT_COLUMNS + 2 * FURTHEST_ASIDE_MM
SLICES = STRAIGHTENED_SHAPE[2] + 2 * FURTHEST_ASIDE_MM
CURVE_COLUMN, CURVE_SLICE = COLUMNS // 2, SLICES // 2   # where the curve runs
AIR_HU = -1000.0
CHUNK_ROWS = 64        # bounds memory: rows at a time
DISTANCE_LIMIT_MM = 6.0
FINE_ENOUGH_MM = 0.75  # spacing of a mask; the accuracy above holds for this and coarser ones
SMOOTHING_MM = 0.8     # less leaves the steps of slices, more rounds the rims


def grid_mm() -> tuple[np.ndarray, np.ndarray]:
    """Return posterior (COLUMNS,) and left (SLICES,) offsets of the samples from the curve in mm, float32."""
    return (np.arange(COLUMNS, dtype=np.float32) - CURVE_COLUMN,
            np.arange(SLICES, dtype=np.float32) - CURVE_SLICE)


@dataclass(frozen=True)
class SampleGrid:
    """Where the samples of straightened rows lie in a scanner's volume, in its voxels.

    Attributes:
        origin: (3, R) float32, each row's place on the curve.
        backwards, leftwards: (3, R) float32, the steps to the next sample.
    """

    origin: np.ndarray
    backwards: np.ndarray
    leftwards: np.ndarray

    @classmethod
    def of(cls, curve: Curve, rows: slice, affine: np.ndarray) -> "SampleGrid":
        """Return the grid of rows of a curve in a volume of this affine."""
        to_voxel = np.linalg.inv(affine)
        origin = curve.positions_mm[rows] @ to_voxel[:3, :3].T + to_voxel[:3, 3]       # (R, 3)
        axes = np.einsum("ij,rjk->rik", to_voxel[:3, :3], curve.frames[rows])          # (R, 3, 3)
        axes = axes.transpose(1, 2, 0).astype(np.float32)
        return cls(origin.T.astype(np.float32), axes[:, 1], axes[:, 2])

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return (R, COLUMNS, SLICES)."""
        return self.origin.shape[1], COLUMNS, SLICES

    def coordinates(self, window: Box) -> np.ndarray:
        """Return the voxel coordinates of a window of samples, (3, rows, columns, slices) float32."""
        posterior, left = grid_mm()
        rows, columns, slices = window
        plane = self.backwards[:, rows, None] * posterior[columns] + self.origin[:, rows, None]
        return plane[..., None] + (self.leftwards[:, rows, None] * left[slices])[:, :, None, :]

    def window_on(self, first: np.ndarray, shape: tuple[int, ...]) -> Box:
        """Return a window that holds every sample within a box of voxels; hardly more, and cheap to find.

        Args:
            first: (3,) the box's first voxel.
            shape: of the box.
        """
        posterior, left = grid_mm()
        low = np.asarray(first)[:, None, None] - 1.0                                   # a voxel to spare
        high = low + np.array(shape)[:, None, None] + 1.0
        across = self.origin[..., None] + self.backwards[..., None] * posterior        # (3, R, COLUMNS)
        meets = _lines_meet(across, self.leftwards[..., None] * left[[0, -1]], low, high)
        rows, columns = extent(meets.any(axis=1)), extent(meets.any(axis=0))
        if not meets.any():
            return rows, columns, slice(0, 0)
        along = self.origin[..., None] + self.leftwards[..., None] * left              # (3, R, SLICES)
        meets = _lines_meet(along, self.backwards[..., None] * posterior[columns][[0, -1]], low, high)
        return rows, columns, extent(meets.any(axis=0))


def _lines_meet(lines: np.ndarray, ends: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Tell which lines of samples may meet a box of voxels.

    Args:
        lines: (3, R, K) a point of each.
        ends: (3, R, 2) how far from there each begins and ends.
        low, high: (3, 1, 1) corners of the box.

    Returns:
        (R, K) bool.
    """
    below, above = (lines + end[..., None] for end in (ends.min(axis=2), ends.max(axis=2)))
    return np.asarray(((above >= low) & (below <= high)).all(axis=0))


def sample_grey(ct: Volume, curve: Curve, rows: slice) -> np.ndarray:
    """Sample a CT linearly on straightened rows, (R, COLUMNS, SLICES) uint8 grey; air outside the scan.

    Rows come next to each other in memory, as in a NIfTI file: what is cut out is written as it lies.
    """
    from scipy.ndimage import map_coordinates

    grey: np.ndarray = np.zeros((rows.stop - rows.start, COLUMNS, SLICES), np.uint8, order="F")
    for first in range(rows.start, rows.stop, CHUNK_ROWS):
        grid = SampleGrid.of(curve, slice(first, min(first + CHUNK_ROWS, rows.stop)), ct.affine)
        window = grid.window_on(np.zeros(3), ct.array.shape)
        hu = map_coordinates(ct.array, grid.coordinates(window), output=np.float32, order=1,
                             mode="constant", cval=AIR_HU)
        grey[first - rows.start:][window] = hu_to_uint8(hu)
    return grey


def thinned(mask: Volume) -> Volume:
    """Return every n-th voxel of a mask along each axis, at most FINE_ENOUGH_MM apart, with its true affine.

    Finer voxels cost time and tell nothing more on a grid of 1 mm.
    """
    steps = np.maximum(FINE_ENOUGH_MM / mask.spacing_mm, 1.0).astype(int)
    array = mask.array[tuple(slice(None, None, step) for step in steps)]
    return Volume(np.ascontiguousarray(array), mask.affine @ np.diag([*steps, 1]))


@dataclass(frozen=True)
class LabelSurface:
    """Where one label of a scanner's mask ends, worked out once for every curve along which it is sampled.

    Attributes:
        distance_mm: signed distance, see `signed_distance`.
        first: (3,) its first voxel in the mask.
        affine: of the mask.
    """

    distance_mm: np.ndarray
    first: np.ndarray
    affine: np.ndarray

    @classmethod
    def of(cls, mask: Volume, box: Box, label: int) -> "LabelSurface":
        """Return the surface of a label that has this bounding box in a mask."""
        return cls(*signed_distance(mask, box, label), mask.affine)

    def sample(self, curve: Curve, rows: slice) -> np.ndarray:
        """Sample the label on straightened rows, (R, COLUMNS, SLICES) bool."""
        from scipy.ndimage import map_coordinates

        grid = SampleGrid.of(curve, rows, self.affine)
        inside = np.zeros(grid.shape, bool)
        window = grid.window_on(self.first, self.distance_mm.shape)
        coordinates = grid.coordinates(window) - self.first.astype(np.float32)[:, None, None, None]
        inside[window] = map_coordinates(self.distance_mm, coordinates, order=1, mode="constant",
                                         cval=DISTANCE_LIMIT_MM) < 0.0
        return inside


def sample_label(mask: Volume, box: Box, label: int, curve: Curve, rows: slice) -> np.ndarray:
    """Sample one label of a mask, which has this bounding box, once: (R, COLUMNS, SLICES) bool."""
    return LabelSurface.of(mask, box, label).sample(curve, rows)


def signed_distance(mask: Volume, box: Box, label: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the signed distance to a label's surface in mm, negative inside, and its first voxel (3,).

    It covers the label's box and a border of two voxels, and is clipped: only its zero matters.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    first = np.array([side.start for side in box]) - 2
    wanted = tuple(slice(max(side.start - 2, 0), side.stop + 2) for side in box)
    inside = mask.array[wanted] == label
    before = [max(-start, 0) for start in first]
    shape = [side.stop - side.start + 4 for side in box]
    after = [full - have - lead for full, have, lead in zip(shape, inside.shape, before, strict=True)]
    inside = np.pad(inside, list(zip(before, after, strict=True)))
    spacing = mask.spacing_mm
    outer = distance_transform_edt(~inside, sampling=spacing)
    inner = distance_transform_edt(inside, sampling=spacing)
    clipped = np.clip(outer - inner, -DISTANCE_LIMIT_MM, DISTANCE_LIMIT_MM).astype(np.float32)
    return gaussian_filter(clipped, SMOOTHING_MM / spacing, mode="nearest"), first
