"""Boxes around what is set in a mask."""

import numpy as np
from numpy.typing import ArrayLike


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Return the box of what is set in a mask (bool, one axis or more); None where nothing is."""
    if mask.ndim == 1:
        return (extent(mask),) if mask.any() else None
    beyond = bounding_box(np.asarray(mask.any(axis=0)))
    return None if beyond is None else (extent(mask.any(axis=tuple(range(1, mask.ndim)))), *beyond)


def extent(flags: ArrayLike) -> slice:
    """Return from the first flag that is set to behind the last; empty where none is."""
    found = np.flatnonzero(flags)
    return slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0)
