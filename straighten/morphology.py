"""Boolean volumes: dilation, by whole arrays at once."""

import numpy as np


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
