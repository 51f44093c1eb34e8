"""How well a restored body agrees in shape with the body before the fracture: Dice and Hausdorff distance."""

import numpy as np

from evaluation.metrics import dice

HAUSDORFF_PERCENT = 95


def overlap(restored: np.ndarray, healthy: np.ndarray, *, align: bool,
            voxel_mm: float = 1.0) -> tuple[float, float]:
    """Return Dice 0..1 and 95 % Hausdorff distance in mm of two bodies; NaN where either is empty.

    Args:
        restored, healthy: masks (rows, columns, slices) of one shape.
        align: move the restored body by the whole voxels that bring the centroids together. For bodies that
            were straightened along different curves, before and after the fracture.
        voxel_mm: edge of a voxel, all axes alike.
    """
    if not restored.any() or not healthy.any():
        return float("nan"), float("nan")
    first, second = on_one_grid(np.argwhere(restored), np.argwhere(healthy), align=align)
    return dice(first, second), voxel_mm * hausdorff_distance(first, second)


def on_one_grid(first: np.ndarray, second: np.ndarray, *, align: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets of voxels (N, 3) as masks on the smallest grid that holds both and a margin of one.

    With `align` the first moves by the whole voxels that bring the centroids together.
    """
    if align:
        first = first + np.rint(second.mean(axis=0) - first.mean(axis=0)).astype(int)
    low = np.minimum(first.min(axis=0), second.min(axis=0)) - 1
    shape = np.maximum(first.max(axis=0), second.max(axis=0)) + 2 - low
    masks = np.zeros((2, *shape), bool)
    for mask, voxels in zip(masks, (first, second), strict=True):
        mask[tuple((voxels - low).T)] = True
    return masks[0], masks[1]


def hausdorff_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the 95 % Hausdorff distance in voxels: the larger of both directions' 95th percentiles.

    Between surfaces, as MONAI's `compute_hausdorff_distance` has it; the masks do not touch the grid's edge.
    """
    from scipy.ndimage import binary_erosion, distance_transform_edt

    surfaces = [mask & ~binary_erosion(mask) for mask in (first, second)]
    distances = [distance_transform_edt(~other)[own] for own, other in (surfaces, surfaces[::-1])]
    return float(max(np.percentile(distance, HAUSDORFF_PERCENT) for distance in distances))
