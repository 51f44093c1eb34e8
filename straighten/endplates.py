"""The direction in which a vertebral body stands, by its endplates."""

import numpy as np

ENDPLATE_REACH_MM = 12.0  # around the middle of the body: rims, spurs and stubs of processes lie further out
STEEPEST_TILT = 35        # degrees against the present frame


def endplate_axis(body: np.ndarray) -> np.ndarray:
    """Return the caudal axis (3,) of a body (rows, columns, slices): midway between its endplates' normals.

    Found as a skewed page is: by the tilt at which the body's row profile rises most steeply, for the upper
    endplate, and by that at which it falls most steeply, for the lower one. In a wedge the two differ.
    """
    voxels = np.argwhere(body)
    centre = np.rint(voxels.mean(axis=0))
    middle = np.abs(np.arange(body.shape[2]) - centre[2]) < ENDPLATE_REACH_MM
    counts = body[:, :, middle].sum(axis=2)                                     # of each row and column
    row, column = np.nonzero(counts)
    posterior = _mean_tilt(row - centre[0], column - centre[1], counts[row, column])
    row, column, side = (voxels - centre).T
    middle = np.abs(column) < ENDPLATE_REACH_MM
    left = _mean_tilt((row - posterior * column)[middle], side[middle])
    axis = np.array([1.0, -posterior, -left])
    return axis / np.linalg.norm(axis)


def _mean_tilt(row: np.ndarray, along: np.ndarray, counts: np.ndarray | None = None) -> float:
    """Return the slope of rows over a second axis, midway between that of the upper and of the lower edge.

    Args:
        row, along: (N,) of each point.
        counts: (N,) how many points each stands for; one without it.
    """
    from scipy.ndimage import gaussian_filter1d

    tilts_deg = np.arange(-STEEPEST_TILT, STEEPEST_TILT + 1)
    profiles = []
    for slope in np.tan(np.deg2rad(tilts_deg)):
        rows = np.floor(row - slope * along).astype(int)
        profiles.append(np.bincount(rows - rows.min(), counts))
    lengths = np.array([profile.size for profile in profiles])[:, None]
    covered = np.arange(lengths.max()) < lengths                                # (slopes, rows)
    padded = np.zeros(covered.shape)
    padded[covered] = np.concatenate(profiles)
    smooth = np.where(covered, gaussian_filter1d(padded, 1.0, axis=1, mode="constant"), 0.0)
    rise = np.diff(smooth, prepend=0.0, append=0.0)
    upper, lower = (tilts_deg[int(np.argmax(edge.max(axis=1)))] for edge in (rise, -rise))
    return float(np.tan(np.deg2rad((upper + lower) / 2)))
