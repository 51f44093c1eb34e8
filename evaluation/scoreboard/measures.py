"""The benchmark's measures: what of a table's rows each one sums, and what it makes of the sums.

The table has one row per vertebra of one method; `evaluation.scoreboard.table` lists its columns. Undefined
values are NaN and count nowhere; how many there are is reported beside the measures.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from evaluation.grade_metrics import macro_f1, weighted_kappa
from evaluation.heights import genant_grades
from evaluation.patient_sample import Measure, Sample, from_sums, ratio
from util.body_heights import THIRDS

if TYPE_CHECKING:
    import pandas as pd

GENERATOR = "generator"  # the method that is judged; all others are compared with it
LIMITS_SD = 1.96         # limits of agreement: bias and so many standard deviations (Bland and Altman 1986)
SEVERE_LOSS = 0.25       # true loss that must be found: Genant grade 2
FIXED_THRESHOLDS = (0.20, 0.25)
ROUNDING = 1e-6          # a true loss below it is none
GRADES = 4
Errors = Callable[["pd.DataFrame"], np.ndarray]  # of rows: (N, m) signed, NaN where undefined


def columns(table: "pd.DataFrame", pattern: str) -> np.ndarray:
    """Return the columns of the three thirds, (N, 3); `pattern` holds {} for the third."""
    return table[[pattern.format(third) for third in THIRDS]].to_numpy(float)


def worst_third(losses: np.ndarray) -> np.ndarray:
    """Return the largest of the thirds' losses (N, 3), (N,); NaN where one is undefined."""
    return losses.max(axis=1)


def true_overall_mm(table: "pd.DataFrame", when: str = "before") -> np.ndarray:
    """Return the true height of the whole depth, (N,) mm, `before` the fracture or `after` it."""
    return columns(table, f"true_{when}_{{}}_mm").mean(axis=1)


def is_healthy(table: "pd.DataFrame") -> np.ndarray:
    """Tell which rows are of vertebrae that lost nothing, (N,)."""
    return worst_third(columns(table, "true_loss_{}")) < ROUNDING


def error_measures(name: str, unit: str, errors: Errors) -> dict[str, Measure]:
    """Return mean absolute error, bias and limits of agreement of signed errors."""
    def terms(table: "pd.DataFrame") -> np.ndarray:
        error = errors(table)
        known = np.isfinite(error)
        error = np.where(known, error, 0.0)
        return np.stack([term.sum(axis=1) for term in (known, np.abs(error), error, error**2)], axis=1)

    def limit(sums: np.ndarray, side: float) -> np.ndarray:
        count, _, total, squares = sums.T
        variance = ratio((squares - ratio(total**2, count)).clip(0.0), count - 1)
        return ratio(total, count) + side * LIMITS_SD * np.sqrt(variance)

    finishes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        f"{name}_mae_{unit}": lambda sums: ratio(sums[:, 1], sums[:, 0]),
        f"{name}_bias_{unit}": lambda sums: ratio(sums[:, 2], sums[:, 0]),
        f"{name}_bias_{unit}_abs": lambda sums: np.abs(ratio(sums[:, 2], sums[:, 0])),
        f"{name}_limit_low_{unit}": lambda sums: limit(sums, -1.0),
        f"{name}_limit_high_{unit}": lambda sums: limit(sums, 1.0),
    }
    return {key: from_sums(terms, finish) for key, finish in finishes.items()}


def mean_of(values: Errors) -> Measure:
    """Return the mean of all defined values (N, m)."""
    def terms(table: "pd.DataFrame") -> np.ndarray:
        value = values(table)
        known = np.isfinite(value)
        return np.stack([np.where(known, value, 0.0).sum(axis=1), known.sum(axis=1)], axis=1)

    return from_sums(terms, lambda sums: ratio(sums[:, 0], sums[:, 1]))


def share(hits: Callable[["pd.DataFrame"], np.ndarray],
          among: Callable[["pd.DataFrame"], np.ndarray]) -> Measure:
    """Return the share of hits (N,) among the rows that count (N,) boolean; a hit of NaN counts nowhere."""
    return mean_of(lambda table: np.where(among(table), hits(table), np.nan)[:, None])


def detection_measures(threshold: float, suffix: str = "") -> dict[str, Measure]:
    """Return sensitivity (true loss of 25 % and more) and specificity (true loss 0) at a threshold of loss.

    An undefined loss finds nothing, and raises no alarm. Without a threshold (NaN) both are undefined.
    """
    def is_found(table: "pd.DataFrame") -> np.ndarray:
        found = worst_third(columns(table, "rhlv_{}")) >= threshold
        return np.where(np.isfinite(threshold), found, np.nan)

    return {f"sensitivity_loss25{suffix}": share(is_found, is_severe),
            f"specificity{suffix}": share(lambda table: 1.0 - is_found(table), is_healthy)}


def is_severe(table: "pd.DataFrame") -> np.ndarray:
    """Tell which rows are of vertebrae that truly lost 25 % or more in a third, (N,)."""
    return worst_third(columns(table, "true_loss_{}")) >= SEVERE_LOSS


def grades_of(losses: np.ndarray) -> np.ndarray:
    """Return the Genant grade of the worst third of losses (N, 3), (N,) float; NaN where undefined."""
    return genant_grades(worst_third(losses))


def confusion_terms(table: "pd.DataFrame") -> np.ndarray:
    """Return each row's cell of the confusion matrix, true grade in rows, (N, 16); zeros where undefined."""
    true, found = grades_of(columns(table, "true_loss_{}")), grades_of(columns(table, "rhlv_{}"))
    known = np.isfinite(true) & np.isfinite(found)
    cell = np.where(known, true * GRADES + found, -1)
    return (cell[:, None] == np.arange(GRADES * GRADES)).astype(float)


def grade_measure(metric: Callable[[np.ndarray], float]) -> Measure:
    """Return a metric of the confusion matrix of grades."""
    def finish(sums: np.ndarray) -> np.ndarray:
        return np.array([metric(one.reshape(GRADES, GRADES)) if one.any() else np.nan for one in sums])

    return from_sums(confusion_terms, finish)


def accuracy(matrix: np.ndarray) -> float:
    """Share of vertebrae graded as they truly are."""
    return float(matrix.trace() / matrix.sum())


def roc_area(table: "pd.DataFrame", sample: Sample) -> np.ndarray:
    """Return the area under the ROC curve of true losses of 25 % and more against 0, and of every draw.

    The area is the share of pairs in which the fractured vertebra has the larger measured loss, a tie
    counting half (Hanley and McNeil 1982). So pairs are counted once per pair of patients, and draws weigh
    them.
    """
    worst = worst_third(columns(table, "rhlv_{}"))
    owner = np.searchsorted(sample.patients, table["patient"].to_numpy(str))
    positive, negative = (np.flatnonzero(chosen & np.isfinite(worst))
                          for chosen in (is_severe(table), is_healthy(table)))
    above = np.sign(worst[positive][:, None] - worst[negative][None])               # (positives, negatives)
    pairs = np.zeros((len(sample.patients),) * 2)
    np.add.at(pairs, (owner[positive][:, None], owner[negative][None]), 0.5 * (above + 1.0))
    won = np.einsum("rp,pq,rq->r", sample.counts, pairs, sample.counts)
    numbers = [sample.counts @ np.bincount(owner[rows], minlength=len(sample.patients))
               for rows in (positive, negative)]
    return ratio(won, numbers[0] * numbers[1])


def covered(table: "pd.DataFrame") -> np.ndarray:
    """Tell of each third whether the interval holds the true loss, (N, 3); NaN without an interval."""
    low, high = columns(table, "low_{}"), columns(table, "high_{}")
    true = columns(table, "true_loss_{}")
    inside = (low <= true) & (true <= high)
    return np.where(np.isfinite(low) & np.isfinite(high) & np.isfinite(true), inside, np.nan)


def healthy_only(values: Errors) -> Errors:
    """Return the same values, undefined where the vertebra is not healthy."""
    return lambda table: np.where(is_healthy(table)[:, None], values(table), np.nan)


def reference_error_mm(table: "pd.DataFrame") -> np.ndarray:
    """Return the error of the restored height over the whole depth, (N, 1) mm."""
    return (table["reference_overall_mm"].to_numpy(float) - true_overall_mm(table))[:, None]


def reference_error_percent(table: "pd.DataFrame") -> np.ndarray:
    """Return the same as an absolute percentage of the true height, (N, 1)."""
    return 100.0 * np.abs(reference_error_mm(table)) / true_overall_mm(table)[:, None]


def rhlv_error_points(table: "pd.DataFrame") -> np.ndarray:
    """Return the error of the loss per third, (N, 3) percentage points."""
    return 100.0 * (columns(table, "rhlv_{}") - columns(table, "true_loss_{}"))


def mask_error_mm(table: "pd.DataFrame") -> np.ndarray:
    """Return the error of the measured height of the given mask per third, (N, 3) mm."""
    return columns(table, "measured_{}_mm") - columns(table, "true_after_{}_mm")


def _third(values: Errors, index: int) -> Errors:
    return lambda table: values(table)[:, index:index + 1]


def measures(threshold: float) -> dict[str, Measure]:
    """Return every measure of a method by name.

    Args:
        threshold: loss 0..1 from which the method's calibration calls a vertebra fractured; NaN without one.
    """
    found = error_measures("reference_height", "mm", reference_error_mm)
    found |= error_measures("reference_height_healthy", "mm", healthy_only(reference_error_mm))
    found["reference_height_rel_diff_percent"] = mean_of(healthy_only(reference_error_percent))
    found["reference_height_rel_diff_all_percent"] = mean_of(reference_error_percent)
    found |= error_measures("rhlv", "points", rhlv_error_points)
    for index, third in enumerate(THIRDS):
        found |= error_measures(f"rhlv_{third}", "points", _third(rhlv_error_points, index))
    found |= error_measures("mask_height", "mm", mask_error_mm)
    found["body_dice"] = mean_of(lambda table: table[["dice"]].to_numpy(float))
    found["body_hausdorff95_mm"] = mean_of(lambda table: table[["hausdorff95_mm"]].to_numpy(float))
    found |= detection_measures(threshold)
    for fixed in FIXED_THRESHOLDS:
        found |= detection_measures(fixed, f"_at_{round(100 * fixed)}")
    found["roc_auc"] = roc_area
    found |= {"macro_f1": grade_measure(macro_f1), "weighted_kappa": grade_measure(weighted_kappa),
              "grade_accuracy": grade_measure(accuracy), "interval90_coverage": mean_of(covered)}
    return found
