"""Two formulas of clinical practice that need nothing but the vertebra itself."""

from dataclasses import dataclass

import numpy as np

from evaluation.baseline.reference import Reference, undefined
from evaluation.baseline.surroundings import Surroundings


@dataclass(frozen=True)
class SixPointBaseline:
    """Loss = 1 - min / max of the vertebra's three heights: the highest third is what all once were.

    The quantitative morphometry of six points, two to each height (Genant 1993). A body that is crushed as a
    whole shows it no loss.
    """

    name: str = "six_point"

    def reference(self, surroundings: Surroundings) -> Reference:
        """Return the highest of the target's own thirds as the height of each."""
        if surroundings.own_reason:
            return undefined(surroundings.own_reason)
        return Reference(np.full(4, surroundings.own_heights_mm[:3].max()))


@dataclass(frozen=True)
class PosteriorBaseline:
    """Loss = 1 - min(anterior, middle) / posterior, the formula of commercial software.

    It takes the posterior wall for whole and a healthy body for a box.
    """

    name: str = "posterior"

    def reference(self, surroundings: Surroundings) -> Reference:
        """Return the target's own posterior height as the height of each third."""
        if surroundings.own_reason:
            return undefined(surroundings.own_reason)
        return Reference(np.full(4, surroundings.own_heights_mm[2]))
