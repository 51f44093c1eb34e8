"""The benchmark's tidy table: one row per vertebra and method.

Columns: method, split, case, patient, level, kind, severity, fractured_neighbours; per third true_loss_*,
true_before_*_mm, true_after_*_mm; per third and overall measured_*_mm (the given mask), reference_*_mm (the
height before the fracture, as the method has it), rhlv_*; per third low_*, high_* (90 % interval of the
loss); p_grade1..3; dice, hausdorff95_mm; true_extent_mm, predicted_height_mm (by the height heads),
agreed_height_mm (that the body was stretched to), slice_spread_mm; reason. Losses
are 0..1, what is undefined is NaN.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.heights import relative_loss
from evaluation.rhlv.table import PARTS
from evaluation.scoreboard.course import CALIBRATION, HELD_OUT, Place
from evaluation.scoreboard.measures import GENERATOR
from evaluation.scoreboard.metrics import severity
from evaluation.scoreboard.truth import Truth, shape_record, truth_of
from util.body_heights import THIRDS
from util.errors import InputError
from util.paths import read_json
from util.vertebrae import Cohort, label_name, split_case

if TYPE_CHECKING:
    import pandas as pd

CALIBRATED, EXPECTED = "generator_calibrated", "generator_expected"
P_GRADES = ("p_grade1", "p_grade2", "p_grade3")
NO_ROW: dict[str, Any] = {}


def tidy_table(cohort: Cohort, place: Place) -> "pd.DataFrame":
    """Return the rows of every method, held-out split and calibration.

    Vertebrae without a known truth are left out.

    Raises:
        InputError: a table is missing, or no vertebra of the held-out split has a known truth.
    """
    import pandas as pd

    losses = _indexed(place.out / "RHLV" / "rhlv.csv", ["case"])
    rows = [row for split in (HELD_OUT, CALIBRATION) if cohort.splits.get(split)
            for row in _split_rows(cohort, place, split, losses)]
    if not any(row["split"] == HELD_OUT for row in rows):
        raise InputError(f"{cohort.path}: expected vertebrae with a known truth in split '{HELD_OUT}' (a "
                         f"truth/truth.json beside the scan, or grade 0), found none; add them")
    return pd.DataFrame(rows)


def _indexed(path: Path, keys: list[str]) -> dict[Any, dict[str, Any]]:
    """Return a CSV table's rows by one key or several.

    Raises:
        InputError: the file is missing or lacks a key.
    """
    import pandas as pd

    if not path.is_file():
        raise InputError(f"{path}: expected a table with columns {', '.join(keys)}, found no file; "
                         f"run the benchmark's steps first")
    table = pd.read_csv(path, dtype={"reason": str})
    if not set(keys) <= set(table.columns):
        raise InputError(f"{path}: expected columns {', '.join(keys)}, found {', '.join(table.columns)}")
    table["reason"] = table["reason"].fillna("") if "reason" in table else ""
    return {tuple(row[key] for key in keys) if len(keys) > 1 else row[keys[0]]: row
            for row in table.to_dict("records")}


def _split_rows(cohort: Cohort, place: Place, split: str,
                losses: dict[Any, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split, the generator's before the baselines'."""
    path = place.baselines(split) / "baselines.csv"
    baselines = _indexed(path, ["method", "case"]) if place.has_baselines and path.is_file() else {}
    names = list(dict.fromkeys(method for method, _ in baselines))
    is_calibrated = any(np.isfinite(_values(row, "rhlv_calibrated_{}")).any() for row in losses.values())
    for case in cohort.cases(split):
        measured = losses.get(case, NO_ROW)
        truth = truth_of(case, cohort, place.raw, _values(measured, "height_original_{}_mm")[:3])
        if truth is None:
            continue
        common = _common(case, split, truth, _values(measured, "height_original_{}_mm"))
        shapes = read_json(shape_record(place, case)) if shape_record(place, case).is_file() else {}
        generator = _generator_row(common, measured, place, shapes)
        yield generator
        if is_calibrated:
            yield _corrected_row(generator, measured, CALIBRATED, "rhlv_calibrated_{}")
            yield _expected_row(generator, measured)
        for name in names:
            yield _row(common, name, _values(baselines.get((name, case), NO_ROW), "height_reference_{}_mm"),
                       _values(baselines.get((name, case), NO_ROW), "rhlv_{}"), shapes,
                       baselines.get((name, case), {"reason": "no row"})["reason"])


def _values(row: dict[str, Any], pattern: str, parts: tuple[str, ...] = PARTS) -> np.ndarray:
    """Return a row's values of the parts of a body, NaN where it has none."""
    return np.array([row.get(pattern.format(part), np.nan) for part in parts], float)


def _common(case: str, split: str, truth: Truth, measured_mm: np.ndarray) -> dict[str, Any]:
    """Return what all methods' rows of a case share."""
    patient, label = split_case(case)
    row: dict[str, Any] = {
        "split": split, "case": case, "patient": patient, "level": label_name(label), "kind": truth.kind,
        "severity": severity(float(truth.loss.max())), "fractured_neighbours": truth.fractured_neighbours}
    for pattern, values in (("true_loss_{}", truth.loss), ("true_before_{}_mm", truth.before_mm),
                            ("true_after_{}_mm", truth.after_mm), ("measured_{}_mm", measured_mm)):
        row |= {pattern.format(part): float(value) for part, value in zip(PARTS, values, strict=False)}
    return row


def _row(common: dict[str, Any], method: str, reference_mm: np.ndarray, rhlv: np.ndarray,
         shapes: dict[str, Any], reason: str) -> dict[str, Any]:
    """Return a method's row without intervals."""
    dice, hausdorff_mm = shapes.get("methods", {}).get(method, (None, None))
    row = {"method": method} | common
    row |= {f"reference_{part}_mm": float(value) for part, value in zip(PARTS, reference_mm, strict=True)}
    row |= {f"rhlv_{part}": float(value) for part, value in zip(PARTS, rhlv, strict=True)}
    row |= {f"{side}_{third}": np.nan for side in ("low", "high") for third in THIRDS}
    return row | dict.fromkeys(P_GRADES, np.nan) | {
        "dice": _number(dice), "hausdorff95_mm": _number(hausdorff_mm),
        "true_extent_mm": _number(shapes.get("true_extent_mm")), "predicted_height_mm": np.nan,
        "agreed_height_mm": np.nan, "slice_spread_mm": np.nan, "reason": reason}


def _number(value: float | None) -> float:
    """Return a JSON number, NaN for null."""
    return np.nan if value is None else float(value)


def _generator_row(common: dict[str, Any], measured: dict[str, Any], place: Place,
                   shapes: dict[str, Any]) -> dict[str, Any]:
    """Return the generator's row, with what the calibration and the synthesis say of it."""
    row = _row(common, GENERATOR, _values(measured, "height_synthetic_{}_mm"), _values(measured, "rhlv_{}"),
               shapes, measured.get("reason", "not synthesized"))
    for side in ("low", "high"):
        limits = _values(measured, f"rhlv_{{}}_{side}", THIRDS)
        row |= {f"{side}_{third}": float(limit) for third, limit in zip(THIRDS, limits, strict=True)}
    record = place.out / "synthesis" / f"{common['case']}.json"
    passes = read_json(record) if record.is_file() else {}
    return row | {name: measured.get(name, np.nan) for name in P_GRADES} | {
        "predicted_height_mm": _number(passes.get("height_mm")),
        "agreed_height_mm": float(_values(passes, "agreed_{}_mm", THIRDS).mean()),
        "slice_spread_mm": _number(passes.get("spread_mm"))}


def _corrected_row(generator: dict[str, Any], measured: dict[str, Any], method: str,
                   pattern: str) -> dict[str, Any]:
    """Return the generator's row with losses of other columns, and the heights that follow from them."""
    rhlv, now_mm = _values(measured, pattern, THIRDS), _values(measured, "height_original_{}_mm")
    before_mm = now_mm[:-1] / np.where(rhlv < 1.0, 1.0 - rhlv, np.nan)
    before_mm = np.append(before_mm, before_mm.mean())
    rhlv = np.append(rhlv, relative_loss(before_mm, now_mm)[-1])
    return generator | {"method": method} | {
        f"rhlv_{part}": float(loss) for part, loss in zip(PARTS, rhlv, strict=True)} | {
        f"reference_{part}_mm": float(height) for part, height in zip(PARTS, before_mm, strict=True)}


def _expected_row(generator: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """Return the generator's row with the expected losses and their probabilities of grades."""
    no_interval = dict.fromkeys((f"{side}_{third}" for side in ("low", "high") for third in THIRDS), np.nan)
    return _corrected_row(generator, measured, EXPECTED, "loss_expected_{}") | no_interval | {
        name: measured.get(f"{name}_expected", np.nan) for name in P_GRADES}


def add_reference(table: "pd.DataFrame", method: str, reference_mm: dict[str, np.ndarray]) -> "pd.DataFrame":
    """Return the table with the rows of one more method, given its reference heights alone.

    Args:
        table: tidy rows with the generator's.
        method: name of the new one.
        reference_mm: (3,) heights before the fracture by case; other cases get no row.
    """
    import pandas as pd

    rows = []
    for row in table[table["method"] == GENERATOR].to_dict("records"):
        if row["case"] in reference_mm:
            heights = np.append(reference_mm[row["case"]], reference_mm[row["case"]].mean())
            measured_mm = np.array([row[f"measured_{part}_mm"] for part in PARTS])
            common = {key: row[key] for key in row if key != "method"}
            rows.append(common | _row({}, method, heights, relative_loss(heights, measured_mm), {}, ""))
    return pd.concat([table, pd.DataFrame(rows, columns=table.columns)], ignore_index=True) if rows else table
