"""The table of relative height loss, made from the records of the cases."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.heights import GENANT_LIMITS, fracture_kind, genant_grade
from util.body_heights import THIRDS
from util.paths import atomic_path
from util.vertebrae import Cohort, label_name, split_case

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.rhlv.expected_loss import LossBelief
    from evaluation.rhlv.records import MeasuredCase
    from evaluation.rhlv.uncertainty import LossUncertainty

PARTS = (*THIRDS, "overall")
GRADE_COLUMNS = tuple(f"p_grade{grade}" for grade in range(1, len(GENANT_LIMITS) + 1))


def table_row(measured: "MeasuredCase", cohort: Cohort, trained_on: str,
              uncertainty: "LossUncertainty | None" = None, belief: "LossBelief | None" = None,
              in_calibration: bool = False) -> dict[str, Any]:
    """Return the table's row of a case.

    Args:
        measured: the case and its records.
        cohort: of the case.
        trained_on: the split that the generator has seen.
        uncertainty: what a calibration says of it; without one these columns stay empty.
        belief: the loss that explains it best, likewise.
        in_calibration: whether the calibration was made on this case among others.
    """
    patient, label = split_case(measured.case)
    record, rhlv, split = measured.measured, measured.rhlv, cohort.split_of(measured.case)
    row: dict[str, Any] = {"case": measured.case, "patient": patient, "label": label,
                           "level": label_name(label), "split": split, "grade": cohort.grades[measured.case]}
    row |= dict(zip((f"height_original_{part}_mm" for part in PARTS), record["original_mm"], strict=True))
    row |= dict(zip((f"height_synthetic_{part}_mm" for part in PARTS), record["synthetic_mm"], strict=True))
    row |= dict(zip((f"rhlv_{part}" for part in PARTS), rhlv, strict=True))
    return row | uncertainty_columns(uncertainty) | belief_columns(belief) | {
        "kind": fracture_kind(rhlv), "rule_grade": genant_grade(rhlv), "in_calibration": in_calibration,
        "seen_in_training": split == trained_on, "reason": record["reason"]}


def uncertainty_columns(uncertainty: "LossUncertainty | None") -> dict[str, float]:
    """Return calibrated loss and interval of each part, and the probability of each grade or a higher one."""
    nothing = np.full(len(PARTS), math.nan)
    found = uncertainty
    columns: dict[str, float] = {}
    for name, values in (("rhlv_calibrated_{}", found.calibrated if found else nothing),
                         ("rhlv_{}_low", found.low if found else nothing),
                         ("rhlv_{}_high", found.high if found else nothing)):
        columns |= {name.format(part): float(value) for part, value in zip(PARTS, values, strict=True)}
    grades = found.grade_probabilities if found else nothing[:len(GRADE_COLUMNS)]
    return columns | {name: float(value) for name, value in zip(GRADE_COLUMNS, grades, strict=True)}


def belief_columns(belief: "LossBelief | None") -> dict[str, float]:
    """Return the expected loss of each third, and the probability of each grade or a higher one by it."""
    expected = belief.expected if belief else np.full(len(THIRDS), math.nan)
    grades = belief.grade_probabilities if belief else np.full(len(GRADE_COLUMNS), math.nan)
    names = *(f"loss_expected_{third}" for third in THIRDS), *(f"{name}_expected" for name in GRADE_COLUMNS)
    return {name: float(value) for name, value in zip(names, (*expected, *grades), strict=True)}


def write_table(rows: list[dict[str, Any]], folder: Path) -> "pd.DataFrame":
    """Write `rhlv.csv` and `rhlv.xlsx`, and return the table."""
    import pandas as pd

    table = pd.DataFrame(rows).astype({"rule_grade": "Int64"})
    with atomic_path(folder / "rhlv.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    with atomic_path(folder / "rhlv.xlsx") as temporary:
        table.round(4).to_excel(temporary, index=False, sheet_name="RHLV", freeze_panes=(1, 1))
    return table


def summarize(table: "pd.DataFrame") -> None:
    """Print what was found: cases per kind, and those whose loss is undefined."""
    undefined = table[table["reason"] != ""]
    kinds = table.loc[table["kind"] != "", "kind"].value_counts()
    if len(kinds):
        print("kinds: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    if len(undefined):
        print(f"undefined: {len(undefined)} (column 'reason' says why)")
