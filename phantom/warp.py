"""Resampling a CT and its mask under a deformation: once, straight from the scanner's own voxels.

CT is sampled linearly; a label is where its smoothed signed distance is the most negative, as in
straightening, so that a body's height is true to a fraction of a voxel. What does not move keeps its voxels.
Beyond the scan's border the border goes on: a vertebra that the scan cuts off stays cut off.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from phantom.deformation import Deformation
from straighten.bodies import Boxes, label_boxes
from straighten.sampling import signed_distance
from util.volume import Volume

CHUNK_VOXELS = 1_000_000   # bounds memory
STILL_VOXELS = 1e-3        # what moves less keeps its voxel
DENSITY_SMOOTHING_MM = 1.2  # noise is not bone: what is compacted is the mean around a voxel
EDGE_SMOOTHING_MM = 0.5    # of the body's border, as soft as the scanner draws it
MOST_ADDED_HU = 700.0      # by compaction; a cortex does not become metal
HU_CEILING = 2000.0        # that compaction does not exceed


@dataclass(frozen=True)
class Density:
    """Bone that is compacted: HU above water of the bodies to be pressed, on a box of the CT's grid."""

    array: np.ndarray
    first: np.ndarray  # (3,) voxel of the box's corner

    def at(self, voxels: np.ndarray) -> np.ndarray:
        """Return HU at voxel coordinates (3, N), linearly; 0 outside."""
        from scipy.ndimage import map_coordinates

        return map_coordinates(self.array, voxels - self.first[:, None], order=1, mode="constant", cval=0.0)


def bone_density(ct: Volume, body: np.ndarray, kept: float = 1.0) -> Density:
    """Return the HU above water that compaction adds to bodies in a CT where they become twice as dense.

    Args:
        ct: in HU.
        body: bool array on its grid.
        kept: share 0..1 of the pressed bone that stays.
    """
    from scipy.ndimage import find_objects, gaussian_filter

    if not body.any():
        return Density(np.zeros((1, 1, 1), np.float32), np.zeros(3))
    extent = find_objects(body.astype(np.uint8))[0]
    box = tuple(slice(max(side.start - 4, 0), side.stop + 4) for side in extent)
    share = gaussian_filter(body[box].astype(np.float32), EDGE_SMOOTHING_MM / ct.spacing_mm)
    sigma = DENSITY_SMOOTHING_MM / ct.spacing_mm
    inside = body[box].astype(np.float32)
    mass = gaussian_filter(ct.array[box].astype(np.float32) * inside, sigma)
    mean = mass / np.maximum(gaussian_filter(inside, sigma), 1e-3)
    return Density(np.clip(mean, 0.0, None) * share * kept, np.array([side.start for side in box], float))


def warp(ct: Volume, mask: Volume, deformation: Deformation, density: Density) -> tuple[Volume, Volume]:
    """Return CT and mask after a deformation, on their own grid and in their own types.

    Args:
        ct: in HU.
        mask: on the CT's grid.
        deformation: in the world.
        density: of the bone that is compacted.
    """
    new_ct, new_mask = ct.array.copy(), mask.array.copy()
    boxes, distances = _surfaces(mask)
    for where, source, compaction in _moved(ct, deformation):
        new_ct[where] = _sampled_hu(ct, source, compaction, density)
        new_mask[where] = _sampled_labels(source, boxes, distances)
    return Volume(new_ct, ct.affine), Volume(new_mask, mask.affine)


def warp_mask(mask: Volume, deformation: Deformation) -> Volume:
    """Return the mask that `warp` returns, without its CT."""
    new_mask = mask.array.copy()
    boxes, distances = _surfaces(mask)
    for where, source, _ in _moved(mask, deformation):
        new_mask[where] = _sampled_labels(source, boxes, distances)
    return Volume(new_mask, mask.affine)


def _surfaces(mask: Volume) -> tuple[Boxes, dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Return the box of each label of a mask and its signed distance with its first voxel."""
    boxes = label_boxes(mask)
    return boxes, {label: signed_distance(mask, box, label) for label, box in boxes.items()}


def _moved(grid: Volume, deformation: Deformation) -> Iterator[tuple[tuple, np.ndarray, np.ndarray]]:
    """Yield, chunk by chunk, the voxels that move, where they come from (3, N), and how much denser they are.

    The voxels come as an index into the array.
    """
    shape = grid.array.shape
    for first in range(0, grid.array.size, CHUNK_VOXELS):
        flat = np.arange(first, min(first + CHUNK_VOXELS, grid.array.size))
        index = np.stack(np.unravel_index(flat, shape))                         # (3, N)
        source, compaction = _source_voxels(grid, deformation, index)
        moved = (np.abs(source - index) > STILL_VOXELS).any(axis=0)
        if moved.any():
            yield tuple(index[:, moved]), source[:, moved], compaction[moved]


def _source_voxels(grid: Volume, deformation: Deformation,
                   index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where voxels (3, N) come from in voxels, kept within the scan, and how much denser they are."""
    to_world, to_voxel = grid.affine, np.linalg.inv(grid.affine)
    world, compaction = deformation.backward(index.T @ to_world[:3, :3].T + to_world[:3, 3])
    source = (world @ to_voxel[:3, :3].T + to_voxel[:3, 3]).T
    last = np.array(grid.array.shape)[:, None] - 1.0
    return np.clip(source, 0.0, last), compaction


def _sampled_hu(ct: Volume, source: np.ndarray, compaction: np.ndarray, density: Density) -> np.ndarray:
    """Return HU at source voxels (3, N), compacted, in the CT's own type."""
    from scipy.ndimage import map_coordinates

    hu = map_coordinates(ct.array, source, order=1, mode="nearest", output=np.float32)
    denser = np.flatnonzero(compaction > 1.0)
    added = (compaction[denser] - 1.0) * density.at(source[:, denser])
    room = np.clip(HU_CEILING - hu[denser], 0.0, MOST_ADDED_HU)
    hu[denser] += np.minimum(added, room)
    return np.rint(hu).astype(ct.array.dtype) if ct.array.dtype.kind in "iu" else hu.astype(ct.array.dtype)


def _sampled_labels(source: np.ndarray, boxes: Boxes,
                    distances: dict[int, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the label at source voxels (3, N): whose signed distance is the most negative, or 0."""
    from scipy.ndimage import map_coordinates

    labels = np.zeros(source.shape[1], np.uint8)
    least = np.zeros(source.shape[1], np.float32)
    for label, box in boxes.items():
        low, high = (np.array([getattr(side, end) for side in box])[:, None] for end in ("start", "stop"))
        near = np.flatnonzero(((source >= low - 1.0) & (source <= high)).all(axis=0))
        distance_mm, first = distances[label]
        sampled = map_coordinates(distance_mm, source[:, near] - first[:, None], order=1, mode="nearest")
        nearest = sampled < least[near]
        labels[near[nearest]] = label
        least[near[nearest]] = sampled[nearest]
    return labels
