"""The direction in which a vertebral body stands, by its endplates."""

import numpy as np

ENDPLATE_REACH_MM = 12.0  # around the middle of the body: rims, spurs and stubs of processes lie further out
STEEPEST_TILT = 35        # degrees against the present frame


def endplate_axis(body: np.ndarray) -> np.ndarray:
    """Return the caudal axis (3,) of a body (rows, columns, slices): the normal of its endplates.

    Found as a skewed page is: by the tilt at which the body's row profile rises and falls most steeply.
    """
    voxels = np.argwhere(body)
    centre = np.rint(voxels.mean(axis=0))
    middle = np.abs(np.arange(body.shape[2]) - centre[2]) < ENDPLATE_REACH_MM
    counts = body[:, :, middle].sum(axis=2)                                     # of each row and column
    row, column = np.nonzero(counts)
    posterior = _sharpest_tilt(row - centre[0], column - centre[1], counts[row, column])
    row, column, side = (voxels - centre).T
    middle = np.abs(column) < ENDPLATE_REACH_MM
    left = _sharpest_tilt((row - posterior * column)[middle], side[middle])
    axis = np.array([1.0, -posterior, -left])
    return axis / np.linalg.norm(axis)


def _sharpest_tilt(row: np.ndarray, along: np.ndarray, counts: np.ndarray | None = None) -> float:
    """Return the slope of rows over a second axis at which the profile of points is steepest.

    Args:
        row, along: (N,) of each point.
        counts: (N,) how many points each stands for; one without it.
    """
    from scipy.ndimage import gaussian_filter1d

    slopes = np.tan(np.deg2rad(np.arange(-STEEPEST_TILT, STEEPEST_TILT + 1)))
    profiles = []
    for slope in slopes:
        rows = np.floor(row - slope * along).astype(int)
        profiles.append(np.bincount(rows - rows.min(), counts))
    lengths = np.array([profile.size for profile in profiles])[:, None]
    covered = np.arange(lengths.max()) < lengths                                # (slopes, rows)
    padded = np.zeros(covered.shape)
    padded[covered] = np.concatenate(profiles)
    smooth = np.where(covered, gaussian_filter1d(padded, 1.0, axis=1, mode="constant"), 0.0)
    rise = np.diff(smooth, prepend=0.0, append=0.0)
    return float(slopes[int(np.argmax(np.ptp(rise, axis=1)))])
