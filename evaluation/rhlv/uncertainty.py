"""How sure a height loss is: split-conformal intervals, and the probability of each grade.

A synthetic height is the true healthy height times exp(r). The residual r is that of the synthesis and of the
measurements; it does not depend on whether the vertebra is fractured, since the synthesis does not see the
vertebra. A healthy one has lost nothing, so it shows its residual: r = log(H_syn / H_ori) = -log(1 - RHLV).
Of any vertebra then

    log(1 - loss) = log(H_ori / H_syn) + r,    loss = 1 - (1 - RHLV) exp(r),

and quantiles of r over healthy vertebrae give an interval of the loss, in percentage points the narrower the
less height is left.

Quantiles are those of split conformal prediction, two-sided, with the correction for a finite sample (Vovk et
al. 2005; Lei et al. 2018; Angelopoulos & Bates, arXiv:2107.07511): whatever the residuals' distribution, an
interval of 90 % covers at least 90 % of new vertebrae like those it was calibrated on. Residuals are divided
by a scale that grows where the synthesis disagrees with itself (normalised conformal prediction, Papadopoulos
et al. 2002; Lei et al. 2018), if that foretells their size out of fold.

What this leaves open. The guarantee is for a constant scale; a varying one is judged out of fold on the
calibration vertebrae, but fitted on all of them for a new one. Where the split `test` also chose the best
weights, its residuals are a little smaller than new ones. Vertebrae of one patient resemble each other, so
coverage varies more between small calibration cohorts than their number of vertebrae suggests. And 'healthy'
means a loss of 0 here, as in a phantom; in real cohorts grade 0 may hide up to 20 % of loss. Such losses are
taken for residuals: intervals are then wider than need be, and the calibrated loss is too low by the median
loss of the healthy vertebrae.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.heights import GENANT_LIMITS, genant_grades
from evaluation.rhlv.uncertainty_scale import Scale, fit_scale
from util.body_heights import THIRDS
from util.errors import InputError
from util.paths import read_json, write_json

LEAST_VERTEBRAE = 20  # an interval of 90 % has finite limits from 19 on, its limits then being the extremes
SPECIFICITY_AIM = 0.97  # of the threshold that a calibration gives
ROUNDING = 1e-9       # 20 * 0.05 is to be 1
DECIMALS = 6          # of residuals in files


@dataclass(frozen=True)
class Origin:
    """What a calibration was made from.

    Attributes:
        cohort: name of the cohort file.
        recipe: digest of the weights and method that synthesized, as in the synthesis records; '' if unknown.
        cases: the healthy vertebrae.
    """

    cohort: str
    recipe: str
    cases: tuple[str, ...]

    @property
    def patients(self) -> int:
        """Number of patients."""
        return len({case.rpartition("_")[0] for case in self.cases})


@dataclass(frozen=True, eq=False)
class LossUncertainty:
    """What a calibration says of one vertebra; NaN where the loss is undefined.

    Attributes:
        low, high: (4,) interval of the loss of the anterior, middle and posterior third, and overall.
        calibrated: (4,) loss freed from the median residual; always within the interval.
        grade_probabilities: (3,) that the Genant grade is at least 1, 2, 3; never rising.
        level: share of vertebrae, 0..1, whose loss the interval is to cover.
    """

    low: np.ndarray
    high: np.ndarray
    calibrated: np.ndarray
    grade_probabilities: np.ndarray
    level: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """Residuals of healthy vertebrae, and what follows from them for any other.

    Attributes:
        level: coverage of the intervals, 0..1.
        residuals: (N, 4) log(H_syn / H_ori) of the thirds and overall.
        scales: (N,) what each was divided by, judged by vertebrae of other patients.
        scale: the same for a new vertebra.
        origin: where the residuals come from.
    """

    level: float
    residuals: np.ndarray
    scales: np.ndarray
    scale: Scale
    origin: Origin

    @property
    def centre(self) -> np.ndarray:
        """Median residual, (4,)."""
        return np.median(self.residuals, axis=0)

    @property
    def scores(self) -> np.ndarray:
        """Residuals about their median in units of their scales, (N, 4)."""
        return (self.residuals - self.centre) / self.scales[:, None]

    def corrected(self, rhlv: np.ndarray) -> np.ndarray:
        """Return losses (..., 4) freed from the median residual."""
        return 1.0 - (1.0 - rhlv) * np.exp(self.centre)

    def interval(self, rhlv: np.ndarray, disagreement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper limit of the loss, (4,) each.

        Args:
            rhlv: (4,) measured loss of the thirds and overall.
            disagreement: (4,) as `uncertainty_scale.DISAGREEMENTS` names them; NaN where unknown.
        """
        quantiles = conformal_limits(self.scores, self.level)
        residual = self.centre + self.scale.of(disagreement) * np.array(quantiles)     # (2, 4) low, high
        high, low = 1.0 - (1.0 - rhlv) * np.exp(residual)
        return low, high

    def grade_probabilities(self, rhlv: np.ndarray, disagreement: np.ndarray) -> np.ndarray:
        """Return the probability that the Genant grade is at least 1, 2, 3: (3,).

        Each healthy vertebra's three residuals are applied together, so that thirds that err together stay
        together. Counted are those with which the largest loss reaches a grade: (count + 1/2) / (N + 1), the
        conformal predictive distribution with its ties halved (Vovk et al. 2019). It is never 0 or 1.
        """
        if not np.isfinite(rhlv[:3]).all():
            return np.full(len(GENANT_LIMITS), np.nan)
        residuals = (self.centre + self.scale.of(disagreement) * self.scores)[:, :3]
        worst = np.max(1.0 - (1.0 - rhlv[:3]) * np.exp(residuals), axis=1)
        reached = genant_grades(worst) >= np.arange(1, len(GENANT_LIMITS) + 1)[:, None]
        return (reached.sum(axis=1) + 0.5) / (len(worst) + 1)

    def judge(self, rhlv: np.ndarray, disagreement: np.ndarray) -> LossUncertainty:
        """Return all that follows for a vertebra; arguments as of `interval`."""
        low, high = self.interval(rhlv, disagreement)
        return LossUncertainty(low, high, self.corrected(rhlv), self.grade_probabilities(rhlv, disagreement),
                               self.level)

    def threshold(self, specificity: float) -> float:
        """Return the loss of the worst third from which a vertebra is called fractured.

        Args:
            specificity: share 0..1 of healthy vertebrae that must stay below it, new ones included.
        """
        return conformal_threshold(-np.expm1(-self.residuals[:, :3]).max(axis=1), specificity)

    def save(self, path: Path) -> None:
        """Write the calibration as JSON."""
        write_json(path, self._content())

    def _content(self) -> dict[str, Any]:
        """Return what the file holds; the residuals are the calibration, the rest says what they are."""
        return {"level": self.level, "cohort": self.origin.cohort, "recipe": self.origin.recipe,
                "vertebrae": len(self.residuals), "patients": self.origin.patients,
                "threshold": None if math.isnan(limit := self.threshold(SPECIFICITY_AIM)) else limit,
                "specificity": SPECIFICITY_AIM, "parts": [*THIRDS, "overall"],
                "median_residual": self.centre.round(DECIMALS).tolist(),
                "scale": self.scale.content(), "cases": list(self.origin.cases),
                "residuals": self.residuals.tolist(), "scales": self.scales.tolist()}


def read_calibration(path: Path) -> Calibration:
    """Read a calibration.

    Raises:
        InputError: the file is missing or is another one.
    """
    content = read_json(path)
    try:
        calibration = Calibration(float(content["level"]), np.array(content["residuals"], float),
                                  np.array(content["scales"], float), Scale.from_content(content["scale"]),
                                  Origin(str(content["cohort"]), str(content["recipe"]),
                                         tuple(content["cases"])))
        count = len(calibration.origin.cases)
        if calibration.residuals.shape != (count, len(THIRDS) + 1) or calibration.scales.shape != (count,):
            raise ValueError(f"{count} cases with residuals of shape {calibration.residuals.shape}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected a calibration of RHLV_quantification.py, found another file "
                         f"({error!r}); choose another or --calibration auto") from error
    return calibration


def fit_calibration(rhlv: np.ndarray, disagreement: np.ndarray, origin: Origin, level: float) -> Calibration:
    """Calibrate on healthy vertebrae.

    Args:
        rhlv: (N, 4) measured loss of vertebrae that have lost nothing, finite.
        disagreement: (N, 4) as `uncertainty_scale.DISAGREEMENTS` names them; NaN where unknown.
        origin: of the vertebrae, in their order.
        level: wanted coverage, 0..1.

    Raises:
        ValueError: there are fewer vertebrae than `least_vertebrae(level)`.
    """
    if len(rhlv) < least_vertebrae(level):
        raise ValueError(f"{len(rhlv)} healthy vertebrae, expected {least_vertebrae(level)}")
    residuals = (-np.log1p(-rhlv)).round(DECIMALS)
    size = np.abs(residuals - np.median(residuals, axis=0))[:, :3].mean(axis=1)
    patients = [case.rpartition("_")[0] for case in origin.cases]
    scale, scales = fit_scale(size, disagreement, patients)
    return Calibration(level, residuals, scales.round(DECIMALS), scale, origin)


def least_vertebrae(level: float) -> int:
    """Return how many healthy vertebrae a calibration needs for finite limits at either side, 20 at least."""
    return max(LEAST_VERTEBRAE, math.ceil(2.0 / (1.0 - level) - 1.0 - ROUNDING))


def conformal_limits(scores: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper limit, with equal tails, of each column of scores (N, ...).

    With a = 1 - level they are the floor((N + 1) a / 2)-th and the ceil((N + 1) (1 - a / 2))-th smallest;
    infinite where N is too small for that.
    """
    ordered, tail = np.sort(scores, axis=0), (len(scores) + 1) * (1.0 - level) / 2.0
    low = math.floor(tail + ROUNDING)
    return -_ranked(-ordered[::-1], len(scores) + 1 - low), _ranked(ordered, len(scores) + 1 - low)


def conformal_threshold(healthy_losses: np.ndarray, specificity: float) -> float:
    """Return the loss that a new healthy vertebra stays below with a probability of at least `specificity`.

    The split-conformal quantile (Vovk et al. 2005): of n losses the ceil(specificity (n + 1))-th smallest. To
    exceed it, not to reach it, is the alarm, so the next larger number is the threshold. NaN if n is too
    small, below 33 for 97 %.

    Args:
        healthy_losses: (n,) measured losses of the worst third, finite, of vertebrae that lost nothing.
        specificity: 0..1.
    """
    rank = math.ceil(specificity * (len(healthy_losses) + 1) - ROUNDING)
    if rank > len(healthy_losses):
        return math.nan
    return float(np.nextafter(np.sort(healthy_losses)[max(rank, 1) - 1], np.inf))


def _ranked(ordered: np.ndarray, rank: int) -> np.ndarray:
    """Return the rank-th (from 1) along the first axis of what is in order; infinite beyond the last."""
    return ordered[rank - 1] if rank <= len(ordered) else np.full(ordered.shape[1:], np.inf)

