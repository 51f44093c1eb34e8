"""From the benchmark's tidy table to its report: each method's measures, groups, differences, error budget.

A pure function of the table: nothing is read or written. The table is that of
`evaluation.scoreboard.table`; rows of the split `val` are judged, the healthy ones of `test` calibrate.
"""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.grade_metrics import Resampling
from evaluation.heights import genant_grades
from evaluation.patient_sample import Measure, Sample, with_interval
from evaluation.rhlv.uncertainty import SPECIFICITY_AIM, conformal_threshold
from evaluation.scoreboard import measures as of_rows
from evaluation.scoreboard.measures import GENERATOR

if TYPE_CHECKING:
    import pandas as pd

SEVERITIES = ("healthy", "below 20 %", "20-25 %", "25-40 %", "above 40 %")
GROUPS = {"severity": "severity", "kind": "kind", "level": "level",
          "fractured_neighbours": "fractured_neighbours"}
GROUP_MEASURES = (
    "reference_height_mae_mm", "reference_height_bias_mm", "reference_height_rel_diff_all_percent",
    "rhlv_mae_points", "rhlv_bias_points", "rhlv_limit_low_points", "rhlv_limit_high_points", "body_dice",
    "body_hausdorff95_mm", "mask_height_mae_mm", "sensitivity_loss25", "specificity", "interval90_coverage")
PAIRED_MEASURES = (
    "reference_height_mae_mm", "reference_height_rel_diff_percent", "reference_height_rel_diff_all_percent",
    "rhlv_mae_points", "rhlv_bias_points_abs", "body_dice", "body_hausdorff95_mm", "sensitivity_loss25",
    "specificity", "roc_auc", "macro_f1", "weighted_kappa", "interval90_coverage")
DEFAULT_RESAMPLING = Resampling()


def severity(loss: float) -> str:
    """Return the bin of the true loss of the worst third: healthy, or Genant's limits."""
    if loss < of_rows.ROUNDING:
        return SEVERITIES[0]
    return SEVERITIES[1 + int(genant_grades(np.array(loss)))]


def judge(table: "pd.DataFrame", resampling: Resampling = DEFAULT_RESAMPLING) -> dict[str, Any]:
    """Return the report of every method, ready for JSON.

    Args:
        table: tidy rows; those of the split `val` are judged, the healthy ones of `test` give each method its
            threshold (`evaluation.rhlv.uncertainty.conformal_threshold`).
        resampling: of patients, for the 95 % intervals.
    """
    judged = table[table["split"] == "val"].reset_index(drop=True)
    sample = Sample.of(judged["patient"].tolist(), resampling.draws, resampling.seed)
    methods = {str(name): rows.reset_index(drop=True) for name, rows in judged.groupby("method", sort=False)}
    limits = {name: _threshold(table, name) for name in methods}
    return {
        "vertebrae": int(judged["case"].nunique()), "patients": len(sample.patients),
        "resamples": resampling.draws, "seed": resampling.seed,
        "methods": {name: method_report(rows, limits[name], sample) for name, rows in methods.items()},
        "differences": {f"{GENERATOR} - {name}": differences(methods[GENERATOR], rows, limits, sample)
                        for name, rows in methods.items() if name != GENERATOR and GENERATOR in methods},
        "error_budget": error_budget(methods[GENERATOR], sample) if GENERATOR in methods else {},
    }


def _threshold(table: "pd.DataFrame", method: str) -> float:
    """Return a method's threshold from the healthy calibration rows; NaN where there are too few."""
    rows = table[(table["split"] == "test") & (table["method"] == method)]
    worst = of_rows.worst_third(of_rows.columns(rows, "rhlv_{}"))[of_rows.is_healthy(rows)]
    return conformal_threshold(worst[np.isfinite(worst)], SPECIFICITY_AIM)


def method_report(rows: "pd.DataFrame", threshold: float, sample: Sample) -> dict[str, Any]:
    """Return a method's measures with their intervals, its confusion matrix, ROC curve and groups."""
    found = of_rows.measures(threshold)
    confusion = of_rows.confusion_terms(rows).sum(axis=0).reshape(of_rows.GRADES, of_rows.GRADES)
    report: dict[str, Any] = {
        "vertebrae": len(rows), "undefined": int((~np.isfinite(rows["rhlv_overall"])).sum()),
        "calibrated_threshold": threshold if math.isfinite(threshold) else None}
    report |= {name: with_interval(measure(rows, sample)) for name, measure in found.items()}
    return report | {"confusion": confusion.astype(int).tolist(), "roc": roc_curve(rows),
                     "groups": {title: _by(rows, column, found, sample) for title, column in GROUPS.items()}}


def _by(rows: "pd.DataFrame", column: str, found: dict[str, Measure], sample: Sample) -> dict[str, Any]:
    """Return the measures of each group of rows, in a natural order."""
    order: Iterable[Any] = rows[column].unique()
    order = SEVERITIES if column == "severity" else sorted(order) if column != "level" else order
    groups = {str(value): rows[rows[column] == value] for value in order}
    return {name: {"vertebrae": len(one)} | {key: with_interval(found[key](one, sample))
                                             for key in GROUP_MEASURES}
            for name, one in groups.items() if len(one)}


def roc_curve(rows: "pd.DataFrame") -> dict[str, list[float]]:
    """Return the ROC curve of true losses of 25 % and more against 0; empty where one class is missing."""
    from sklearn.metrics import roc_curve as curve_of

    worst = of_rows.worst_third(of_rows.columns(rows, "rhlv_{}"))
    severe, healthy = of_rows.is_severe(rows), of_rows.is_healthy(rows)
    chosen = (severe | healthy) & np.isfinite(worst)
    if len(set(severe[chosen])) < 2:
        return {}
    false_alarms, found, thresholds = curve_of(severe[chosen], worst[chosen])
    thresholds[np.isinf(thresholds)] = worst[chosen].max() + 1.0  # JSON has no infinity
    values = {"false_positive_rate": false_alarms, "sensitivity": found, "threshold": thresholds}
    return {name: [round(float(number), 5) for number in numbers] for name, numbers in values.items()}


def differences(first: "pd.DataFrame", second: "pd.DataFrame", limits: dict[str, float],
                sample: Sample) -> dict[str, Any]:
    """Return first minus second in each measure, both on the cases and the drawn patients that they share.

    Args:
        first, second: rows of two methods; cases where either loss is undefined are left out.
        limits: thresholds by method.
        sample: the draws.
    """
    defined = [rows[np.isfinite(rows["rhlv_overall"])].set_index("case", drop=False).rename_axis(None)
               for rows in (first, second)]
    shared = [case for case in defined[0].index if case in set(defined[1].index)]
    if not shared:
        return {"vertebrae": 0}
    pair = [rows.loc[shared] for rows in defined]
    found = [of_rows.measures(limits.get(str(rows["method"].iloc[0]), math.nan)) for rows in pair]
    compared: dict[str, Any] = {"vertebrae": len(shared)}
    for name in PAIRED_MEASURES:
        values = [of_one[name](rows, sample) for of_one, rows in zip(found, pair, strict=True)]
        compared[name] = with_interval(values[0] - values[1])
    return compared


def error_budget(rows: "pd.DataFrame", sample: Sample) -> dict[str, Any]:
    """Return what the generator's error of the restored height consists of: mean absolute and bias, mm.

    The error of the restored mean height S against the true one M splits without rest, by the mean height A
    that was aimed at: S - M = (A - M) [height aimed at] + (S - A) [drawn body]. Where heights were agreed on,
    A is their mean; else the height heads' extent H decides, and A = H M / E with the true body's extent E in
    rows. Beside them what the height heads alone would have cost, the spread of the slices' predictions, and
    the error of the given mask's height (straightening).
    """
    def part(value: Callable[["pd.DataFrame"], np.ndarray]) -> dict[str, Measure]:
        return of_rows.error_measures("part", "mm", lambda table: value(table)[:, None])

    def head(table: "pd.DataFrame") -> np.ndarray:
        excess = table["predicted_height_mm"] / table["true_extent_mm"] - 1.0
        return excess.to_numpy(float) * of_rows.true_overall_mm(table)

    def aimed(table: "pd.DataFrame") -> np.ndarray:
        agreed_mm = table["agreed_height_mm"].to_numpy(float)
        return np.where(np.isfinite(agreed_mm), agreed_mm - of_rows.true_overall_mm(table), head(table))

    parts = {
        "restored height": part(lambda table: of_rows.reference_error_mm(table)[:, 0]),
        "height aimed at": part(aimed),
        "drawn body": part(lambda table: of_rows.reference_error_mm(table)[:, 0] - aimed(table)),
        "height head": part(head),
        "slices": part(lambda table: table["slice_spread_mm"].to_numpy(float)),
        "straightening": part(lambda table: table["measured_overall_mm"].to_numpy(float)
                              - of_rows.true_overall_mm(table, "after")),
    }
    return {name: {"mean_absolute_mm": with_interval(found["part_mae_mm"](rows, sample)),
                   "bias_mm": with_interval(found["part_bias_mm"](rows, sample))}
            for name, found in parts.items()}
