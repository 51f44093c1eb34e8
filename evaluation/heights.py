"""The relative height loss between two vertebral bodies, measured as in `util.body_heights`.

Original and synthetic body are each measured in their own extent. So a body that lies a few columns further
back than the other, or is a little deeper, is still compared third with third.

RHLV = (H_syn - H_ori) / H_syn, never clipped: a vertebra higher than its synthetic one is negative.
"""

from dataclasses import dataclass

import numpy as np

from util.body_heights import BodyHeights, central_slices, third_heights_mm

GENANT_LIMITS = (0.20, 0.25, 0.40)  # loss where grades 1, 2 begin, and above which grade 3 lies (Genant 1993)
CRUSH_SHARE = 2 / 3        # of the largest loss: where every third has lost as much, the body is crushed
PROFILE_POSITIONS = (np.arange(60) + 0.5) / 60  # relative depth, 0 anterior rim, 1 posterior rim


@dataclass(frozen=True)
class HeightLoss:
    """Heights and losses of one vertebra; NaN where undefined, and why.

    Attributes:
        original_mm, synthetic_mm: (4,) height of the anterior, middle and posterior third, and overall.
        rhlv: (4,) relative height loss of the same.
        reason: why something is NaN; empty if nothing is.
    """

    original_mm: np.ndarray
    synthetic_mm: np.ndarray
    rhlv: np.ndarray
    reason: str = ""


def relative_loss(synthetic: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Return (synthetic - original) / synthetic, elementwise, unclipped; NaN where synthetic is 0 or NaN."""
    defined = np.where(synthetic > 0, synthetic, np.nan)
    return (defined - original) / defined


def height_loss(original: BodyHeights, synthetic: BodyHeights) -> HeightLoss:
    """Return heights of both bodies and the loss per third and overall."""
    original_mm, synthetic_mm = third_heights_mm(original), third_heights_mm(synthetic)
    rhlv = relative_loss(synthetic_mm, original_mm)
    reason = "" if np.isfinite(rhlv).all() else "a third of a body has no height"
    return HeightLoss(original_mm, synthetic_mm, rhlv, reason)


def _relative_heights(body: BodyHeights, index: int, position: np.ndarray) -> np.ndarray:
    """Return heights in mm of one slice at relative depths 0..1, linear between columns' middles."""
    first, last = body.depth[index]
    if first == last:
        return np.full(len(position), np.nan)
    middles = (np.arange(last - first) + 0.5) / (last - first)
    return np.interp(position, middles, body.columns_mm[first:last, index])


def _matching_slice(source: BodyHeights, index: int, target: BodyHeights) -> int:
    """Return the slice of `target` at the relative place that slice `index` has in `source`."""
    relative = (index + 0.5 - source.slices[0]) / (source.slices[1] - source.slices[0])
    return int(target.slices[0] + relative * (target.slices[1] - target.slices[0]))


def height_loss_map(original: BodyHeights, synthetic: BodyHeights) -> np.ndarray:
    """Return the relative height loss of every column of the synthetic body.

    Columns are matched by their relative place: that of the slice in the body's width, that of the column in
    the slice's depth. So the map is of the vertebra as it was before the fracture, and its thirds agree with
    the table's, wherever and how deep either mask is.

    Returns:
        (columns, slices), NaN outside the synthetic body's extent.
    """
    loss = np.full(synthetic.columns_mm.shape, np.nan)
    for index in range(*synthetic.slices):
        first, last = synthetic.depth[index]
        position = (np.arange(last - first) + 0.5) / max(last - first, 1)
        heights = _relative_heights(original, _matching_slice(synthetic, index, original), position)
        loss[first:last, index] = relative_loss(synthetic.columns_mm[first:last, index], heights)
    return loss


def central_profiles_mm(original: BodyHeights, synthetic: BodyHeights) -> tuple[np.ndarray, np.ndarray]:
    """Return heights from anterior to posterior of the synthetic body's central slices and their matches.

    Returns:
        original, synthetic: (slices, 60) mm at the relative depths `PROFILE_POSITIONS`.
    """
    central = central_slices(synthetic)
    matches = [_matching_slice(synthetic, index, original) for index in central]
    return (np.array([_relative_heights(original, index, PROFILE_POSITIONS) for index in matches]),
            np.array([_relative_heights(synthetic, index, PROFILE_POSITIONS) for index in central]))


def genant_grades(loss: np.ndarray) -> np.ndarray:
    """Return the Genant grade 0-3 of losses of the worst third, elementwise, float; NaN where undefined."""
    low, middle, high = GENANT_LIMITS
    grade = (loss >= low).astype(float) + (loss >= middle) + (loss > high)
    return np.where(np.isfinite(loss), grade, np.nan)


def genant_grade(rhlv: np.ndarray) -> int | None:
    """Return the Genant grade 0-3 of the largest loss among the thirds (3,); None where one is undefined."""
    grade = float(genant_grades(np.max(rhlv[:3])))
    return None if np.isnan(grade) else int(grade)


def fracture_kind(rhlv: np.ndarray) -> str:
    """Name the pattern that is largest in the losses of the thirds (3,): wedge, biconcave or crush.

    Crush where every third lost at least two thirds of what the worst one lost, or the posterior is the
    worst; else by the worst third, wedge for the anterior, biconcave for the middle (after Genant 1993, where
    crush takes the posterior height along). 'none' for grade 0, '' where the loss is undefined.
    """
    grade = genant_grade(rhlv)
    if not grade:
        return "" if grade is None else "none"
    losses = rhlv[:3]
    if losses.min() >= CRUSH_SHARE * losses.max():
        return "crush"
    return ("wedge", "biconcave", "crush")[int(losses.argmax())]
