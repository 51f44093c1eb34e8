"""One height per vertebra: what the network drew is stretched until its thirds have the heights agreed upon.

Slices and planes each draw a body of their own height. The heights that are agreed upon hold for the vertebra
as a whole, so the drawn rows are stretched, column by column and smoothly from front to back, until the
body's anterior, middle and posterior third measure them.

Two witnesses agree: the other vertebrae (`models.height_prior`) and the height heads. What a vertebra has of
its own neither can know. Each is weighed by what it leaves open beyond that: the other vertebrae the more,
the fewer of them are there; the heads as their validation has shown.
"""

import math
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
from util.mask_box import extent

FACTOR_LIMITS = (0.5, 2.0)  # of a stretch: what needs more was not drawn
OFF_CENTRE = 0.25           # rows: else both endplates of a level body would jump to the next row together
ROUNDS = 6                  # of stretching and measuring; the thirds of a body then agree within 0.1 mm
THIRD_CENTRES = (np.arange(len(THIRDS)) + 0.5) / len(THIRDS)


DRAWN = "drawn"


class ImpliedHeight(NamedTuple):
    """What the other vertebrae say."""

    log_mm: np.ndarray  # (3,) expected logarithm of the height of the anterior, middle and posterior third
    doubt: np.ndarray   # (3,) variance of its error, less the vertebra's own spread


class HeadHeight(NamedTuple):
    """What the height heads say."""

    extent_mm: float          # of the whole vertebra
    doubt: float = math.inf   # as above; infinite where no validation has shown it


WantedHeight = ImpliedHeight | str | None  # DRAWN; None for what the heads predict


class Fitted(NamedTuple):
    """A gap whose body has its height."""

    gap: "DrawnGap"              # the body lies at its centre
    rows: int                    # that the body occupies
    agreed_mm: tuple[float, ...]  # heights of the thirds that were agreed upon; () if none were


class DrawnGap(NamedTuple):
    """What the planes drew together in the rows of the gap (G = 40)."""

    ct: Tensor           # (G, C, Z) float32
    probability: Tensor  # (G, C, Z) float32: of the body


def fit_height(gap: DrawnGap, wanted: WantedHeight, head: HeadHeight) -> Fitted:
    """Give a drawn body its height; the heads decide where they are to, or no body was drawn."""
    by_head = Fitted(gap, min(max(round(head.extent_mm), 1), GAP_ROWS), ())
    if wanted is None:
        return by_head
    try:
        alone = body_alone(gap)
        body, drawn_mm = measure_drawn(alone.probability)
        if isinstance(wanted, str):
            return Fitted(*centred(alone), ())
        heights_mm = agree(wanted, body, drawn_mm, head)
        return Fitted(*centred(stretch_to(alone, body, drawn_mm, heights_mm)), tuple(heights_mm.tolist()))
    except UndefinedHeightError:
        return by_head


def agree(implied: ImpliedHeight, body: BodyHeights, drawn_mm: np.ndarray, head: HeadHeight) -> np.ndarray:
    """Return the heights of the thirds (3,) in mm that both witnesses agree upon.

    The heads tell an extent; with it a drawn body has the heights of its thirds.

    Args:
        implied: by the other vertebrae.
        body, drawn_mm: as `measure_drawn` measures the body.
        head: what the heads say.
    """
    head_mm = drawn_mm * head.extent_mm / (body.rows[1] - body.rows[0])
    share = implied.doubt / (implied.doubt + head.doubt)                  # (3,) of the heads
    return np.exp((1 - share) * implied.log_mm + share * np.log(head_mm))


def body_alone(gap: DrawnGap) -> DrawnGap:
    """Return a gap with the largest piece of its body; smaller ones have no say, so they are not there."""
    mask = gap.probability > 0.5
    largest = torch.from_numpy(own_body(mask.numpy().view(np.uint8), 1))
    return gap._replace(probability=gap.probability.masked_fill(mask & ~largest, 0.0))


def measure_drawn(probability: Tensor) -> tuple[BodyHeights, np.ndarray]:
    """Measure a body drawn in one piece (G, C, Z), whether or not it fills the gap.

    Returns:
        The body, and its thirds' heights, (3,) in mm.

    Raises:
        UndefinedHeightError: no body was drawn, or too thin a one, or a third of it is missing.
    """
    body = measure_body(np.pad((probability > 0.5).numpy(), ((1, 1), (0, 0), (0, 0))))
    thirds_mm = third_heights_mm(body)[:len(THIRDS)]
    if not (thirds_mm > 0).all():  # so not where one is NaN either
        raise UndefinedHeightError("lacks a third")
    return body, thirds_mm


def stretch_to(gap: DrawnGap, body: BodyHeights, drawn_mm: np.ndarray, heights_mm: np.ndarray) -> DrawnGap:
    """Stretch a drawn body to the heights of its thirds.

    Args:
        gap: as drawn, with its body alone.
        body, drawn_mm: as `measure_drawn` measures it.
        heights_mm: (3,) wanted of the anterior, middle and posterior third.

    Raises:
        UndefinedHeightError: the body was drawn far too high or too low, so nothing worth stretching.
    """
    middle = sum(body.rows) / 2 - 1                    # one row was padded
    outline = (gap.probability > 0.5).any(dim=0).numpy()
    columns, slices = extent(outline.any(axis=1)), extent(outline.any(axis=0))
    drawn = gap.probability[:, columns, slices]        # beyond it no row has a body, however it is stretched
    measured_mm, factor = drawn_mm, np.ones(len(THIRDS))
    best, least_mm = factor, np.inf
    for _ in range(ROUNDS):  # whole rows are measured, so that a round may overshoot: the best one is kept
        factor = factor * heights_mm / measured_mm
        if factor.min() < FACTOR_LIMITS[0] or factor.max() > FACTOR_LIMITS[1]:
            raise UndefinedHeightError("would have to be stretched too far")
        source = _source_rows(middle, _column_factors(body, factor)[columns])
        _, measured_mm = measure_drawn(_body_at(drawn, source))
        error_mm = float(np.abs(measured_mm - heights_mm).max())
        if error_mm < least_mm:
            best, least_mm = factor, error_mm
    source = _source_rows(middle, _column_factors(body, best))
    return DrawnGap(_rows_at(gap.ct, source), _body_at(gap.probability, source))


def _column_factors(body: BodyHeights, factor: np.ndarray) -> Tensor:
    """Return each column's factor (C, 1), linear between the middles of the thirds."""
    front, back = np.median(body.depth[central_slices(body)], axis=0)
    place = (np.arange(len(body.columns_mm)) + 0.5 - front) / max(back - front, 1.0)
    return torch.from_numpy(np.interp(place, THIRD_CENTRES, factor).astype(np.float32))[:, None]


def _source_rows(middle: float, factor: Tensor) -> Tensor:
    """Return where each row of a stretched gap comes from, (G, C, 1): `middle` moves to the gap's.

    Args:
        middle: row.
        factor: (C, 1) of each column.
    """
    row = torch.arange(GAP_ROWS)[:, None, None] + 0.5 - GAP_ROWS / 2 + OFF_CENTRE      # (G, 1, 1)
    return row / factor + middle - 0.5


def _rows_at(values: Tensor, source: Tensor) -> Tensor:
    """Sample (G, C, Z) at rows (G, C, 1), linear between; what lies beyond repeats the last row."""
    source = source.clamp(0, GAP_ROWS - 1)
    above = source.floor().long().clamp_max(GAP_ROWS - 2)
    column = torch.arange(values.shape[1]).expand(GAP_ROWS, -1)                        # (G, C)
    return torch.lerp(values[above[..., 0], column], values[above[..., 0] + 1, column], source - above)


def _body_at(probability: Tensor, source: Tensor) -> Tensor:
    """Sample the body (G, C, Z) likewise; there is none beyond."""
    outside = (source < -0.5) | (source > GAP_ROWS - 0.5)
    return _rows_at(probability, source).masked_fill(outside, 0.0)


def centred(gap: DrawnGap) -> tuple[DrawnGap, int]:
    """Move a body by whole rows to where closing the gap to its extent takes it from; tell that extent."""
    top, bottom = row_extent((gap.probability > 0.5).numpy())
    shift = (GAP_ROWS - (bottom - top)) // 2 - top
    moved = DrawnGap(*(values.roll(shift, 0) for values in gap))
    return moved, bottom - top
