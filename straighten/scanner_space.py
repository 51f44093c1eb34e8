"""Carrying straightened volumes back to the scanner's grid."""

from itertools import product

import numpy as np

from straighten.curve import Curve, Geometry
from straighten.sampling import HALF_ROWS
from util.volume import CONTENT_COLUMNS, HU_WINDOW, STRAIGHTENED_CENTRE, STRAIGHTENED_SHAPE, Volume

COARSE_STEP_MM = 3.0   # the inverse mapping is exact this far apart and linear between: within 0.2 mm
CHUNK_PLANES = 16      # bounds memory


def straightened_to_scanner(points: np.ndarray, geometry: Geometry, label: int) -> np.ndarray:
    """Map voxel coordinates (..., 3) of a target's straightened volume to the scanner's voxels (..., 3)."""
    world = geometry.curve.to_world(points + _shift(geometry.curve, label))
    to_voxel = np.linalg.inv(geometry.scanner_affine)
    return world @ to_voxel[:3, :3].T + to_voxel[:3, 3]


def scanner_to_straightened(points: np.ndarray, geometry: Geometry, label: int) -> np.ndarray:
    """Map the scanner's voxel coordinates (..., 3) to voxels of a target's straightened volume (..., 3)."""
    world = points @ geometry.scanner_affine[:3, :3].T + geometry.scanner_affine[:3, 3]
    return geometry.curve.from_world(world) - _shift(geometry.curve, label)


def grey_to_hu(grey: np.ndarray) -> np.ndarray:
    """Map grey values 0..255 back to HU, float32; what the window cut off comes back as its ends."""
    low, high = HU_WINDOW
    return grey.astype(np.float32) * np.float32((high - low) / 255.0) + np.float32(low)


def _shift(curve: Curve, label: int) -> np.ndarray:
    """Return what added to a straightened volume's voxel gives (row, posterior mm, left mm)."""
    return curve.target_point(label) - np.array(STRAIGHTENED_CENTRE)


def to_scanner(array: np.ndarray, geometry: Geometry, label: int, *, nearest: bool, fill: float) -> Volume:
    """Carry a target's straightened volume to the scanner's grid.

    Args:
        array: (256, 256, 64).
        geometry: the patient's.
        label: the target.
        nearest: for labels; else linear.
        fill: outside the straightened content.

    Returns:
        A volume of the scanner's shape and affine, in the array's dtype.
    """
    result = np.full(geometry.scanner_shape, fill, array.dtype)
    box = _reached(geometry, label)
    coarse, nodes = _coarse_mapping(geometry, label, box)
    for first in range(box[0].start, box[0].stop, CHUNK_PLANES):
        planes = slice(first, min(first + CHUNK_PLANES, box[0].stop))
        region = (planes, box[1], box[2])
        result[region] = _sample(array, _interpolate(coarse, nodes, region), nearest, fill)
    return Volume(result, geometry.scanner_affine)


def _reached(geometry: Geometry, label: int) -> tuple[slice, slice, slice]:
    """Return the box of scanner voxels that a target's straightened content can reach."""
    rows = np.arange(0, 2 * HALF_ROWS + 1, 4.0)
    columns = STRAIGHTENED_CENTRE[1] + np.array([-0.5, 0.5]) * CONTENT_COLUMNS - 0.5
    edges = np.array(list(product(rows, columns, (-0.5, STRAIGHTENED_SHAPE[2] - 0.5))))
    voxels = straightened_to_scanner(edges, geometry, label)
    low = np.clip(np.floor(voxels.min(axis=0)), 0, geometry.scanner_shape).astype(int)
    high = np.clip(np.ceil(voxels.max(axis=0)) + 1, 0, geometry.scanner_shape).astype(int)
    first, second, third = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return first, second, third


def _coarse_mapping(geometry: Geometry, label: int,
                    box: tuple[slice, slice, slice]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return straightened voxels (n, n, n, 3) at a coarse grid's nodes over a box, and the nodes per axis."""
    spacing = np.linalg.norm(geometry.scanner_affine[:3, :3], axis=0)
    nodes = []
    for side, step in zip(box, COARSE_STEP_MM / spacing, strict=True):
        count = max(2, int(np.ceil((side.stop - side.start) / step)) + 1)
        nodes.append(np.linspace(side.start, max(side.stop - 1, side.start + 1), count))
    points = np.stack(np.meshgrid(*nodes, indexing="ij"), axis=-1)
    return scanner_to_straightened(points, geometry, label), nodes


def _interpolate(coarse: np.ndarray, nodes: list[np.ndarray], region: tuple[slice, ...]) -> np.ndarray:
    """Return straightened voxels (3, ...) of every voxel of a region, linearly between coarse nodes."""
    from scipy.ndimage import map_coordinates

    index = [(np.arange(side.start, side.stop) - at[0]) / (at[1] - at[0])
             for side, at in zip(region, nodes, strict=True)]
    grid = np.stack(np.meshgrid(*index, indexing="ij")).astype(np.float32)
    return np.stack([map_coordinates(coarse[..., axis], grid, order=1, mode="nearest", output=np.float32)
                     for axis in range(3)])


def _sample(array: np.ndarray, coordinates: np.ndarray, nearest: bool, fill: float) -> np.ndarray:
    """Sample a straightened volume at voxels (3, ...); `fill` outside its content."""
    from scipy.ndimage import map_coordinates

    first = STRAIGHTENED_CENTRE[1] - CONTENT_COLUMNS // 2
    low = np.array([0, first, 0])[:, None, None, None] - 0.5
    high = low + np.array([array.shape[0], CONTENT_COLUMNS, array.shape[2]])[:, None, None, None]
    inside = ((coordinates >= low) & (coordinates <= high)).all(axis=0)
    content = array[:, first:first + CONTENT_COLUMNS]
    coordinates = coordinates - np.array([0, first, 0], np.float32)[:, None, None, None]
    sampled = map_coordinates(content, coordinates, order=0 if nearest else 1, mode="nearest",
                              output=np.float32)
    rounded = np.rint(sampled) if array.dtype.kind in "iu" else sampled
    return np.where(inside, rounded, fill).astype(array.dtype)
