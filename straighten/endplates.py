"""The direction in which a vertebral body stands, by its endplates."""

import numpy as np

ENDPLATE_REACH_MM = 12.0  # around the middle of the body: rims, spurs and stubs of processes lie further out
STEEPEST_TILT = 35        # degrees against the present frame


def endplate_axis(body: np.ndarray) -> np.ndarray:
    """Return the caudal axis (3,) of a body (rows, columns, slices): the normal of its endplates.

    Found as a skewed page is: by the tilt at which the body's row profile rises and falls most steeply.
    """
    offset = np.argwhere(body) - np.rint(np.argwhere(body).mean(axis=0))
    middle = np.abs(offset) < ENDPLATE_REACH_MM
    posterior = _sharpest_tilt(offset[middle[:, 2]][:, [0, 1]])
    offset[:, 0] -= posterior * offset[:, 1]
    left = _sharpest_tilt(offset[middle[:, 1]][:, [0, 2]])
    axis = np.array([1.0, -posterior, -left])
    return axis / np.linalg.norm(axis)


def _sharpest_tilt(points: np.ndarray) -> float:
    """Return the slope of rows over the second axis at which the profile of points (N, 2) is steepest."""
    from scipy.ndimage import gaussian_filter1d

    slopes = np.tan(np.deg2rad(np.arange(-STEEPEST_TILT, STEEPEST_TILT + 1)))
    sharpness = []
    for slope in slopes:
        rows = np.floor(points[:, 0] - slope * points[:, 1]).astype(int)
        profile = gaussian_filter1d(np.bincount(rows - rows.min()).astype(float), 1.0, mode="constant")
        rise = np.diff(profile, prepend=0.0, append=0.0)
        sharpness.append(rise.max() - rise.min())
    return float(slopes[int(np.argmax(sharpness))])
