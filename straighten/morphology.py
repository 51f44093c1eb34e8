"""Boolean volumes: dilation and bounding box, by whole arrays at once."""

import numpy as np
from numpy.typing import ArrayLike

Box = tuple[slice, slice, slice]


def dilate(mask: np.ndarray, steps: int) -> np.ndarray:
    """Return a mask (three axes, bool) grown by some steps, each to the voxels that share a face.

    What `scipy.ndimage.binary_dilation` gives with as many iterations, several times faster.
    """
    for _ in range(steps):
        grown = mask.copy()
        for axis in range(mask.ndim):
            here, there = np.moveaxis(mask, axis, 0), np.moveaxis(grown, axis, 0)  # views
            there[1:] |= here[:-1]
            there[:-1] |= here[1:]
        mask = grown
    return mask


def bounding_box(mask: np.ndarray) -> Box | None:
    """Return the box of what is set in a mask (three axes, bool); None where nothing is."""
    plane = np.asarray(mask.any(axis=0))
    if not plane.any():
        return None
    return extent(mask.any(axis=(1, 2))), extent(plane.any(axis=1)), extent(plane.any(axis=0))


def extent(flags: ArrayLike) -> slice:
    """Return from the first flag that is set to behind the last; empty where none is."""
    found = np.flatnonzero(flags)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)
