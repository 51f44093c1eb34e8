"""The truth per column: heights of a body before and after its fracture, on a table of (x, y)."""

from dataclasses import dataclass

import numpy as np

from phantom.anatomy import GRADE_LOSS
from phantom.vertebra import Vertebra

CENTRAL_SHARE = 0.4  # heights are read on the central 2/5 of the width, as RHLV is
RIM = 0.97  # radius up to which a column counts


@dataclass(frozen=True)
class ColumnTable:
    """Columns on a regular table: x (N,), y (M,) in mm; the rest (N, M); NaN outside the body."""

    x: np.ndarray
    y: np.ndarray
    height_before: np.ndarray
    height_after: np.ndarray
    loss: np.ndarray


def column_table(vertebra: Vertebra, spacing_mm: float = 1.0) -> ColumnTable:
    """Return the body's columns, x from right to left, y from front to back."""
    body = vertebra.body
    x = np.arange(-0.5 * body.width, 0.5 * body.width + spacing_mm, spacing_mm)
    y = np.arange(body.front, body.back + spacing_mm, spacing_mm)
    across, along = np.meshgrid(x, y, indexing="ij")
    outside = body.radius(across, along) > RIM
    loss = np.where(outside, np.nan, vertebra.loss(across, along))
    lower, upper = body.endplates(across, along)
    before = np.where(outside, np.nan, upper - lower)
    return ColumnTable(x, y, before, before * (1.0 - loss), loss)


def third_heights(vertebra: Vertebra) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean heights (anterior, middle, posterior) before and after, each (3,), mm."""
    table = column_table(vertebra, 0.5)
    central = np.abs(table.x) <= 0.5 * CENTRAL_SHARE * vertebra.body.width
    share = (table.y - vertebra.body.front) / vertebra.body.depth
    third = np.clip((share * 3.0).astype(int), 0, 2)
    before, after = ([float(np.nanmean(heights[central][:, third == i])) for i in range(3)]
                     for heights in (table.height_before, table.height_after))
    return np.array(before), np.array(after)


def third_losses(vertebra: Vertebra) -> np.ndarray:
    """Return the height loss of the anterior, middle and posterior third, (3,)."""
    before, after = third_heights(vertebra)
    return 1.0 - after / before


def genant_grade(loss: float) -> int:
    """Return the Genant grade of the loss of the third that loses most."""
    return max((grade for grade, (least, _) in GRADE_LOSS.items() if loss >= least), default=0)
