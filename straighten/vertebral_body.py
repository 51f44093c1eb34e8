"""De-pedicle: of a vertebra's mask, the vertebral body alone.

Works on one vertebra at 1 mm in its straightened frame (caudal, posterior, left). In axial slices the body
is the thickest part, whatever its height, so its core is found without a centre. From there the body's
walls are followed: backwards on the midline, where the canal bounds it, and beside it, where the rows
below the pedicle show the wall that the pedicle hides in others; and sideways likewise, for transverse
processes. A wall is modelled as a profile over rows plus a profile across, both robust.
"""

import numpy as np

from straighten.morphology import dilate
from straighten.robust import quantile, theil_sen_slope
from util.mask_box import bounding_box

CANAL_HALF_WIDTH_MM = 4    # columns behind the core that the canal keeps free
CANAL_INSIDE_MM = 8.0      # behind the posterior wall one is inside the canal (13 to 20 mm deep)
CORE_DEPTH_MM = 8          # columns before the core whose sides no process hides
WALL_SLOPE = 0.6           # of the posterior wall in the vertebra's frame, at most
VISIBLE_QUANTILE = 0.4     # the rows beside a pedicle flare into it
LEAST_VISIBLE_ROWS = 3
SPIKE_MM = 5               # thinner than this and
SPIKE_REACH_MM = 2         # reaching further than this from the rest is no body
ENDPLATE_STEP_MM = 3.0     # a waist is shallower
WALL_BULGE_MM = 3.0        # of the wall beside the canal against the wall before it, at most
CORNER_SLOPE = 1.5
WALL_TOLERANCE_MM = 2.5    # roughness of a wall that is no process
WIDEST_BODY_MM = 58.8      # of 87 patients, L2-L5 by CT (mean 46.7)
SCRAP_MM = 4               # what stands out less than this from the body is its own surface
MINIMUM_CORE_MM = 3.0      # in-plane radius below which there is no body


def extract_body(vertebra: np.ndarray) -> np.ndarray:
    """Return the vertebral body of one vertebra.

    Args:
        vertebra: (rows, columns, slices) bool, axes I-P-L, 1 mm, the vertebra upright.

    Returns:
        Bool array of the same shape; empty where the mask holds no body.
    """
    body = np.zeros_like(vertebra, dtype=bool)
    box = bounding_box(vertebra)
    core = None if box is None else find_core(vertebra[box])
    if core is not None:
        body[box] = _body_at(vertebra[box], core)
    return body


def _body_at(vertebra: np.ndarray, core: tuple[int, int]) -> np.ndarray:
    """Return the body of a vertebra (cropped to its box) around its core's column and slice."""
    whole = _component_at(vertebra, core)
    body = _component_at(_cut_behind(whole, core), core)
    body = _component_at(_cut_beside(body, core), core)
    return _component_at(_without_spikes(_cut_wide(_give_back_scraps(whole, body))), core)


def find_core(vertebra: np.ndarray) -> tuple[int, int] | None:
    """Return column and slice of the body's core, or None if nothing is as thick as a body.

    It is where the squared in-plane distance to the outline, summed over rows, is greatest.
    """
    import cv2

    rows = np.flatnonzero(vertebra.any(axis=(1, 2)))
    thickness: np.ndarray = np.zeros(vertebra.shape[1:], np.float32)
    for row in rows:
        distance = cv2.distanceTransform(vertebra[row].astype(np.uint8), cv2.DIST_L2, 5)
        thickness += np.minimum(distance, max(vertebra.shape)) ** 2  # endless in a row without an outline
    thickness = np.asarray(cv2.GaussianBlur(thickness, (0, 0), 2.0))
    if thickness.max() < MINIMUM_CORE_MM**2:
        return None
    column, left = np.unravel_index(int(np.argmax(thickness)), thickness.shape)
    return int(column), int(left)


def _component_at(mask: np.ndarray, core: tuple[int, int]) -> np.ndarray:
    """Return the connected part (faces) of a mask that has most voxels near the core's axis."""
    from scipy.ndimage import label

    parts, count = label(mask)
    if count < 2:
        return mask
    near = parts[:, max(core[0] - 5, 0):core[0] + 6, max(core[1] - 5, 0):core[1] + 6]
    sizes = np.bincount(near.ravel(), minlength=count + 1)
    sizes[0] = 0
    return parts == int(np.argmax(sizes))


def _cut_behind(mask: np.ndarray, core: tuple[int, int]) -> np.ndarray:
    """Cut off what lies behind the posterior wall."""
    canal = slice(core[1] - CANAL_HALF_WIDTH_MM, core[1] + CANAL_HALF_WIDTH_MM + 1)
    limit = _canal_line(mask, core[0], canal) + CANAL_INSIDE_MM
    visible = last_before(mask, limit)                                          # (rows, slices)
    return mask & _inside(visible, wall_model(visible, canal), mask.shape[1])


def _canal_line(mask: np.ndarray, column: int, canal: slice) -> np.ndarray:
    """Return the posterior wall on the midline as a straight line: its column in each row, (rows,)."""
    runs = mask[:, column:, canal]
    end = column + np.where(runs.all(axis=1), runs.shape[1], np.argmin(runs, axis=1)).astype(float)
    wall = quantile(np.where(runs[:, 0], end, np.nan), 0.5, axis=1, least=1)
    if np.isfinite(wall).sum() < LEAST_VISIBLE_ROWS:
        return np.full(mask.shape[0], float(mask.shape[1]))
    leaning = _lean(wall)
    return float(np.nanmedian(wall - leaning)) + leaning


def _lean(wall: np.ndarray) -> np.ndarray:
    """Return how far a wall (rows,) leans in each row, from row 0; a robust straight line through it."""
    return float(np.clip(theil_sen_slope(wall), -WALL_SLOPE, WALL_SLOPE)) * np.arange(wall.size)


def _cut_beside(mask: np.ndarray, core: tuple[int, int]) -> np.ndarray:
    """Cut off what lies beside the lateral walls behind the core, where processes arise."""
    column, middle = core
    behind = max(column - CORE_DEPTH_MM, 0)                                 # a fragment may end before
    front = slice(0, max(column - behind, 1))
    for step in (1, -1):
        half = mask[:, behind:, middle::step].transpose(0, 2, 1)                # (rows, outwards, columns)
        visible = last_before(half, np.full(half.shape[0], float(half.shape[1] + 1)))
        kept = half & _inside(visible, wall_model(visible, front), half.shape[1])
        mask = mask.copy()
        mask[:, column:, middle::step] = kept.transpose(0, 2, 1)[:, column - behind:]
    return mask


def last_before(mask: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Return where the mask ends along axis 1 before a limit.

    Args:
        mask: (rows, along, across).
        limit: (rows,) position along.

    Returns:
        (rows, across) end (exclusive); NaN where there is nothing, infinite where it runs into the limit.
    """
    along = np.arange(mask.shape[1])
    before = mask & (along[None, :] < limit[:, None])[:, :, None]
    end = mask.shape[1] - np.argmax(before[:, ::-1], axis=1).astype(float)
    end = np.where(end >= limit[:, None] - 1.0, np.inf, end)
    return np.where(before.any(axis=1), end, np.nan)


def wall_model(visible: np.ndarray, free: slice) -> np.ndarray:
    """Return a body's wall from where it can be seen.

    Args:
        visible: (rows, across) where the mask ends; NaN for nothing, infinite where a process hides the wall.
        free: the positions across that no process hides.

    Returns:
        (rows, across): the wall of each row at the free positions, plus what other positions stand out from
        it where they can be seen.
    """
    seen = np.where(np.isfinite(visible), visible, np.nan)
    by_row = quantile(seen[:, free], 0.5, axis=1, least=1)
    by_row = _smooth(_fill(_without_endplates(by_row)))
    across = quantile(seen - by_row[:, None], VISIBLE_QUANTILE, axis=0, least=LEAST_VISIBLE_ROWS)
    highest = np.nanmax(np.append(across[free], 0.0)) + WALL_BULGE_MM
    return by_row[:, None] + _rounded(np.minimum(_fill(across), highest), free)[None, :]


def _rounded(across: np.ndarray, free: slice) -> np.ndarray:
    """Return a profile across that falls off outwards no faster than a body's corner is round.

    At a body's edge a process may hide every row but those with a spur, far from the wall that is meant.
    """
    rounded = across.copy()
    for position in range(min(free.stop, across.size), across.size):
        rounded[position] = max(across[position], rounded[position - 1] - CORNER_SLOPE)
    for position in range(free.start - 1, -1, -1):
        rounded[position] = max(across[position], rounded[position + 1] - CORNER_SLOPE)
    return rounded


def _without_endplates(wall: np.ndarray) -> np.ndarray:
    """Return a wall (rows,) with NaN where rows meet an endplate instead: far inside the straight wall."""
    if np.isfinite(wall).sum() < LEAST_VISIBLE_ROWS:
        return wall
    upright = wall - _lean(wall)
    return np.where(upright < np.nanmedian(upright) - ENDPLATE_STEP_MM, np.nan, wall)


def _inside(visible: np.ndarray, model: np.ndarray, length: int) -> np.ndarray:
    """Return what lies within the wall, (rows, length, across): as seen, or as modelled where hidden."""
    wall = np.where(visible <= model + WALL_TOLERANCE_MM, visible, model)
    return np.arange(length)[None, :, None] < np.rint(wall)[:, None, :]


def _fill(profile: np.ndarray) -> np.ndarray:
    """Fill NaN from the neighbours, linearly."""
    known = np.flatnonzero(np.isfinite(profile))
    if known.size == 0:
        return np.full_like(profile, np.inf)
    return np.interp(np.arange(profile.size), known, profile[known])


def _smooth(profile: np.ndarray) -> np.ndarray:
    """Return the running median over five."""
    from scipy.ndimage import median_filter

    return median_filter(profile, 5, mode="nearest")


def _give_back_scraps(whole: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Return to the body the parts cut off that hardly stand out: its own rough surface."""
    from scipy.ndimage import label

    rest = whole & ~body
    parts, count = label(rest)
    if count == 0:
        return body
    stands_out = np.zeros(count + 1, bool)
    stands_out[parts[rest & ~dilate(body, SCRAP_MM)]] = True
    return whole & ~stands_out[parts]


def _cut_wide(body: np.ndarray) -> np.ndarray:
    """Cut off what stands out further to the sides than any body is wide: spurs and stumps of processes."""
    sides = np.flatnonzero(body.any(axis=(0, 1)))
    if sides.size <= WIDEST_BODY_MM:
        return body
    depth = body.any(axis=0).sum(axis=0)                                   # (slices,) columns
    middle = float(np.average(np.arange(depth.size), weights=depth))
    return body & (np.abs(np.arange(depth.size) - middle) <= 0.5 * WIDEST_BODY_MM)


def _without_spikes(body: np.ndarray) -> np.ndarray:
    """Return a body without what is thin in axial slices and sticks out: stumps of articular processes.

    Slice by slice, so that a collapsed body stays, however low it is.
    """
    import cv2

    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (SPIKE_MM, SPIKE_MM))
    thick = np.stack([cv2.morphologyEx(rows, cv2.MORPH_OPEN, disc) for rows in body.astype(np.uint8)])
    return body & dilate(thick.astype(bool), SPIKE_REACH_MM)
