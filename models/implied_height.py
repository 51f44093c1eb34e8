"""Which height a vertebra is restored to: as agreed upon, as predicted, or as drawn."""

from collections.abc import Callable, Mapping

import numpy as np

from models.agreed_height import DRAWN, ImpliedHeight, WantedHeight
from models.height_prior import HeightPrior
from models.slice_generation import Scan
from util.body_heights import body_measures, ends_with_the_scan
from util.volume import present_labels


def height_chooser(scan: Scan, target: int, heights: str,
                    prior: HeightPrior | None) -> Callable[[int], WantedHeight]:
    """Return what tells the height that a vertebra shall be restored to."""
    if heights == "drawn":
        return lambda label: DRAWN
    if heights == "head" or prior is None:
        return lambda label: None
    measured = measure_whole_bodies(scan, target)
    return lambda label: implied_height(label, measured, prior)


def measure_whole_bodies(scan: Scan, target: int) -> dict[int, np.ndarray]:
    """Return thirds, depth and width (5,) in mm of every vertebra but the target that is wholly there."""
    present = set(present_labels(scan.label)) - {target}
    return body_measures(scan.label, [other for other in present if not is_cut_off(scan, other)])


def implied_height(label: int, measures: Mapping[int, np.ndarray],
                   prior: HeightPrior) -> ImpliedHeight | None:
    """Return what the healthy ones among the other vertebrae say of a vertebra's healthy height.

    Where there is none, its level speaks. None for a level that the prior does not know.
    """
    others = prior.healthy({other: measured for other, measured in measures.items() if other != label})
    predicted = prior.predict(label, others)
    if predicted is None:
        return None
    log_mm, covariance = predicted
    return ImpliedHeight(log_mm, np.clip(covariance.diagonal() - prior.own_variance, 0.0, None))


def is_cut_off(scan: Scan, label: int) -> bool:
    """Tell whether the scan ends within a vertebra, see `util.body_heights.ends_with_the_scan`."""
    return ends_with_the_scan(scan.label == label, scan.ct > 0)
