"""One height per vertebra: what the network drew is stretched until its thirds have the heights agreed upon.

Slices and planes each draw a body of their own height. The heights that the other vertebrae imply
(`models.height_prior`) hold for the vertebra as a whole, so the drawn rows are stretched, column by column
and smoothly from front to back, until the body's anterior, middle and posterior third measure them.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from util.body_heights import (
    THIRDS,
    BodyHeights,
    UndefinedHeightError,
    central_slices,
    measure_body,
    own_body,
    third_heights_mm,
)
from util.geometry import GAP_ROWS, row_extent

FACTOR_LIMITS = (0.5, 2.0)  # of a stretch: what needs more was not drawn
OFF_CENTRE = 0.25           # rows: else both endplates of a level body would jump to the next row together
ROUNDS = 6                  # of stretching and measuring; the thirds of a body then agree within 0.1 mm
THIRD_CENTRES = (np.arange(len(THIRDS)) + 0.5) / len(THIRDS)


DRAWN = "drawn"
WantedHeight = np.ndarray | str | None  # (3,) mm of the thirds; DRAWN; None for what the heads predict


class DrawnGap(NamedTuple):
    """What the planes drew together in the rows of the gap (G = 40)."""

    ct: Tensor           # (G, C, Z) float32
    probability: Tensor  # (G, C, Z) float32: of the body


def fit_height(gap: DrawnGap, wanted: WantedHeight) -> tuple[DrawnGap, int] | None:
    """Give a drawn body its height.

    Returns:
        The gap with the body at its centre, and the rows that the body then occupies; None where the height
        heads are to say, or no body was drawn.
    """
    if wanted is None:
        return None
    return centred(gap) if isinstance(wanted, str) else stretch_to(gap, wanted)


def measure_gap(probability: Tensor) -> BodyHeights:
    """Measure the body drawn in a gap (G, C, Z), whether or not it fills it.

    Raises:
        UndefinedHeightError: no body was drawn, or too thin a one.
    """
    mask = (probability > 0.5).numpy()
    return measure_body(np.pad(own_body(mask.astype(np.uint8), 1), ((1, 1), (0, 0), (0, 0))))


def stretch_to(gap: DrawnGap, heights_mm: np.ndarray) -> tuple[DrawnGap, int] | None:
    """Stretch a drawn body to the heights of its thirds.

    Args:
        gap: as drawn.
        heights_mm: (3,) wanted of the anterior, middle and posterior third.

    Returns:
        As `fit_height`.
    """
    try:
        body = measure_gap(gap.probability)
    except UndefinedHeightError:
        return None
    middle = sum(body.rows) / 2 - 1                    # one row was padded
    measured_mm, factor = third_heights_mm(body)[:len(THIRDS)], np.ones(len(THIRDS))
    best, least_mm = gap, np.inf
    for _ in range(ROUNDS):  # whole rows are measured, so that a round may overshoot: the best one is kept
        factor = np.clip(factor * heights_mm / measured_mm, *FACTOR_LIMITS)
        stretched = _stretch(gap, middle, _column_factors(body, factor))
        measured_mm = third_heights_mm(measure_gap(stretched.probability))[:len(THIRDS)]
        error_mm = float(np.abs(measured_mm - heights_mm).max())
        if error_mm < least_mm:
            best, least_mm = stretched, error_mm
    return centred(best)


def _column_factors(body: BodyHeights, factor: np.ndarray) -> Tensor:
    """Return each column's factor (C, 1), linear between the middles of the thirds."""
    front, back = np.median([body.depth[index] for index in central_slices(body)], axis=0)
    place = (np.arange(len(body.columns_mm)) + 0.5 - front) / max(back - front, 1.0)
    return torch.from_numpy(np.interp(place, THIRD_CENTRES, factor).astype(np.float32))[:, None]


def _stretch(gap: DrawnGap, middle: float, factor: Tensor) -> DrawnGap:
    """Stretch rows by a factor per column (C, 1) about `middle`, which moves to the gap's; linear between."""
    rows = len(gap.ct)
    row = torch.arange(rows)[:, None, None] + 0.5 - rows / 2 + OFF_CENTRE              # (G, 1, 1)
    source = (row / factor + middle - 0.5).expand(rows, *gap.ct.shape[1:])             # (G, C, Z)
    outside = (source < -0.5) | (source > rows - 0.5)
    source = source.clamp(0, rows - 1)
    below = source.floor().long().clamp_max(rows - 2)
    share = source - below

    def sample(values: Tensor) -> Tensor:
        return torch.lerp(values.gather(0, below), values.gather(0, below + 1), share)

    return DrawnGap(sample(gap.ct), sample(gap.probability).masked_fill(outside, 0.0))


def centred(gap: DrawnGap) -> tuple[DrawnGap, int] | None:
    """Move the body by whole rows to where closing the gap to its extent takes it from.

    Returns:
        As `fit_height`.
    """
    body = own_body((gap.probability > 0.5).numpy().astype(np.uint8), 1)
    if not body.any():
        return None
    top, bottom = row_extent(body)
    shift = (GAP_ROWS - (bottom - top)) // 2 - top
    moved = DrawnGap(*(values.roll(shift, 0) for values in gap))
    return moved, bottom - top
