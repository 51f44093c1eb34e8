"""A vertebral body of any mask as columns: endplates, footprint and size in the body's own frame.

Local coordinates in mm: (caudal, posterior, left) of the straightened frame at the body's centre. The curve
is straight through a body, so that this frame is rigid, and unlike the curve's it holds for any distance: a
spinous process is as rigid as the body that it hangs on.
"""

from dataclasses import dataclass, replace

import numpy as np

from straighten.bodies import WINDOW_ROWS, Boxes
from straighten.curve import Curve
from straighten.sampling import grid_mm, sample_label
from straighten.vertebral_body import extract_body
from util.body_heights import BodyHeights, central_slices, measure_body, own_body
from util.volume import Volume

ENDPLATE_SMOOTHING_MM = 0.7  # takes the steps of a voxel, leaves lips and spurs
RIM_FRACTION = 0.6           # of the median height; lower columns are the body's rounded edge
RING_MM = 4                  # of the footprint's edge, on which the neighbouring discs' rings stand


@dataclass(frozen=True)
class LocalFrame:
    """A rigid frame: origin (3,) in the world, axes (3, 3) with caudal, posterior, left as columns."""

    origin: np.ndarray
    axes: np.ndarray

    def to_local(self, world_mm: np.ndarray) -> np.ndarray:
        """Map world points (..., 3) to local ones."""
        return (world_mm - self.origin) @ self.axes

    def to_world(self, local_mm: np.ndarray) -> np.ndarray:
        """Map local points (..., 3) to world ones."""
        return local_mm @ self.axes.T + self.origin


@dataclass(frozen=True)
class BodyColumns:
    """A body's columns on the table of `straighten.sampling.grid_mm`, mm.

    Attributes:
        top, bottom: (COLUMNS, SLICES) caudal coordinate of either endplate, continued beyond the body.
        footprint: (COLUMNS, SLICES) bool, where the body is; the rounded rim left out.
        front, back: posterior coordinate of the walls on the midline.
        middle, width: left coordinate of the midline, and the whole width.
    """

    top: np.ndarray
    bottom: np.ndarray
    footprint: np.ndarray
    front: float
    back: float
    middle: float
    width: float

    @property
    def height(self) -> np.ndarray:
        """Height of every column, (COLUMNS, SLICES) mm."""
        return self.bottom - self.top

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every column's place: across (-1..1 in the body), along (0 in front, 1 behind)."""
        posterior, left = grid_mm()
        along = (posterior - self.front) / (self.back - self.front)
        across = 2.0 * (left - self.middle) / self.width
        return np.meshgrid(across, along)[0], np.meshgrid(across, along)[1]

    def rim_plane(self, values: np.ndarray) -> np.ndarray:
        """Return the plane that values (COLUMNS, SLICES) on the body's rim lie on.

        Returns:
            (3,): its value at the middle of the posterior wall, its slope backwards and to the left, per mm.
        """
        from scipy.ndimage import binary_erosion

        rim = self.footprint & ~binary_erosion(self.footprint, iterations=RING_MM)
        posterior, left = grid_mm()
        column, side = np.nonzero(rim)
        design = np.stack([np.ones(len(column)), posterior[column] - self.back, left[side] - self.middle], 1)
        return np.linalg.lstsq(design, values[rim], rcond=None)[0]


def local_frame(curve: Curve, label: int) -> LocalFrame:
    """Return the rigid frame of a body; its columns stand where the straightened ones do."""
    row = int(curve.target_point(label)[0])
    return LocalFrame(curve.positions_mm[row], curve.frames[row])


def body_columns(mask: Volume, boxes: Boxes, label: int, frame: LocalFrame) -> BodyColumns:
    """Measure a body of a mask in its rigid frame."""
    offsets = np.arange(-WINDOW_ROWS, WINDOW_ROWS, dtype=float)
    line = Curve(frame.origin + offsets[:, None] * frame.axes[:, 0],
                 np.broadcast_to(frame.axes, (len(offsets), 3, 3)), {})
    voxels = extract_body(sample_label(mask, boxes[label], label, line, slice(0, len(offsets))))
    heights = whole_heights(voxels)
    filled = heights.columns_mm > 0
    footprint = heights.columns_mm >= RIM_FRACTION * np.median(heights.columns_mm[filled])
    first = voxels.argmax(axis=0) - WINDOW_ROWS - 0.5
    last = first + heights.columns_mm
    posterior, left = grid_mm()
    depth = np.median(heights.depth[central_slices(heights)], axis=0)
    sides = np.array(heights.slices)
    return BodyColumns(_continued(first, footprint), _continued(last, footprint), footprint,
                       front=float(posterior[0] + depth[0] - 0.5), back=float(posterior[0] + depth[1] - 0.5),
                       middle=float(left[0] + sides.mean() - 0.5), width=float(np.diff(sides)[0]))


def _continued(surface: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Return a surface (COLUMNS, SLICES) smoothed, and beyond the footprint as at its nearest edge."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    nearest = distance_transform_edt(~footprint, return_distances=False, return_indices=True)
    return gaussian_filter(surface[tuple(nearest)], ENDPLATE_SMOOTHING_MM, mode="nearest")


def whole_heights(voxels: np.ndarray) -> BodyHeights:
    """Measure the columns of a body (rows, COLUMNS, SLICES) as every stage does."""
    return measure_body(own_body(voxels.astype(np.uint8), 1))


def pressed_heights(heights: BodyHeights, loss: np.ndarray | float) -> BodyHeights:
    """Return a body's heights once every column (COLUMNS, SLICES) has lost its share."""
    return replace(heights, columns_mm=heights.columns_mm * (1.0 - loss))
