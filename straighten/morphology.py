"""Boolean volumes: dilation and bounding box, by whole arrays at once."""

import numpy as np

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
    plane = mask.any(axis=0)
    if not plane.any():
        return None
    first, second, third = (_extent(flags) for flags in (mask.any(axis=(1, 2)), plane.any(axis=1),
                                                         plane.any(axis=0)))
    return first, second, third


def _extent(flags: np.ndarray) -> slice:
    """Return from the first that is set to behind the last."""
    found = np.flatnonzero(flags)
    return slice(int(found[0]), int(found[-1]) + 1)
