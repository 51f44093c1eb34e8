"""How good the synthesis is where the truth is known: healthy vertebrae against themselves.

Compares `<output>/CT_fake/` and `label_fake/` with the straightened originals on vertebrae of grade 0. Image
measures are taken inside the restored band: the rows that the original or the synthetic body occupies, within
the original body's axial outline, where every voxel is drawn and none is copied. Masks are the target's own
connected bodies. Writes `<output>/generation/generation.csv` (per case) and `generation.json` (means with
95 % intervals from resampling patients), and prints the means.
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data.straightened import read_straightened
from evaluation.metrics import (
    bootstrap_interval,
    dice,
    finite_mean,
    iou,
    psnr,
    relative_difference,
    relative_volume_difference,
    ssim,
)
from util.body_heights import UndefinedHeightError, measure_body, own_body, third_heights_mm
from util.cli import add_stage_arguments, run_script, whole_number
from util.errors import InputError
from util.paths import (
    atomic_path,
    fake_ct,
    fake_label,
    is_up_to_date,
    make_folder,
    read_json,
    straightened_ct,
    straightened_label,
    write_json,
)
from util.stage import run_stage
from util.vertebrae import GRADES, SPLITS, Cohort, label_name, read_cohort, split_case
from util.volume import Volume, check_same_grid, read_ct_and_mask
from util.wording import counted, vertebrae

MEASURES = {  # column of the table: what the summary calls its mean
    "psnr_db": "PSNR in the band (dB)",
    "ssim": "SSIM in the band",
    "dice": "Dice",
    "iou": "IoU",
    "volume_difference": "relative volume difference, signed",
    "volume_difference_absolute": "relative volume difference",
    "height_difference": "relative height difference, signed",
    "height_difference_absolute": "relative height difference",
}
COLUMNS = ("case", "patient", "level", "split", "grade", *MEASURES, "height_original_mm",
           "height_synthetic_mm", "reason")


def compare(original_ct: np.ndarray, original_body: np.ndarray, synthetic_ct: np.ndarray,
            synthetic_body: np.ndarray, row_mm: float = 1.0) -> dict[str, Any]:
    """Compare a synthesized vertebra with the healthy original.

    Args:
        original_ct, synthetic_ct: (rows, columns, slices) uint8.
        original_body, synthetic_body: the same shape, boolean; the original's is not empty.
        row_mm: size of a row in mm.

    Returns:
        The measures, both heights in mm, and why a height is undefined (else empty). Undefined is NaN.
    """
    band = restored_band(original_body, synthetic_body)
    original_mm, original_reason = body_height_mm(original_body, row_mm)
    synthetic_mm, synthetic_reason = body_height_mm(synthetic_body, row_mm)
    volume = relative_volume_difference(synthetic_body, original_body)
    height = relative_difference(synthetic_mm, original_mm)
    reasons = [f"the {name} body {reason}" for name, reason in
               (("original", original_reason), ("synthetic", synthetic_reason)) if reason]
    return {
        "psnr_db": psnr(synthetic_ct, original_ct, band), "ssim": ssim(synthetic_ct, original_ct, band),
        "dice": dice(synthetic_body, original_body), "iou": iou(synthetic_body, original_body),
        "volume_difference": volume, "volume_difference_absolute": abs(volume),
        "height_difference": height, "height_difference_absolute": abs(height),
        "height_original_mm": original_mm, "height_synthetic_mm": synthetic_mm, "reason": "; ".join(reasons),
    }


def restored_band(original_body: np.ndarray, synthetic_body: np.ndarray) -> np.ndarray:
    """Return where images are compared, see the top of the file: a boolean volume."""
    rows = (original_body | synthetic_body).any(axis=(1, 2))
    return rows[:, None, None] & original_body.any(axis=0)


def body_height_mm(body: np.ndarray, row_mm: float) -> tuple[float, str]:
    """Return a body's mean column height in mm, or NaN and the reason why it has none."""
    try:
        return float(third_heights_mm(measure_body(body, row_mm))[-1]), ""
    except UndefinedHeightError as error:
        return math.nan, str(error)


def evaluate_case(case: str, dataroot: Path, output: Path) -> str | None:
    """Compare one case and write its record; return why a height is undefined, if it is.

    Raises:
        InputError: a file is missing or damaged, grids differ, or the original lacks the vertebra.
    """
    _, label = split_case(case)
    original_path, synthetic_path = straightened_ct(dataroot, case), fake_ct(output, case)
    if not synthetic_path.is_file():
        raise InputError(f"{synthetic_path}: expected a synthesized CT, found none; "
                         f"run eval_3d_sagittal_twostage.py")
    original, original_label = read_straightened(dataroot, case)
    synthetic, synthetic_label = read_ct_and_mask(synthetic_path, fake_label(output, case))
    check_same_grid(original, original_path, synthetic, synthetic_path)
    if not (original_label.array == label).any():
        raise InputError(f"{straightened_label(dataroot, case)}: expected label {label} "
                         f"({label_name(label)}), found none; straighten it again or drop the case")
    measures = _compare_volumes(original, original_label, synthetic, synthetic_label, label)
    write_json(record_path(output, case), {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in measures.items()})
    return measures["reason"] or None


def _compare_volumes(original: Volume, original_label: Volume, synthetic: Volume, synthetic_label: Volume,
                     label: int) -> dict[str, Any]:
    """Compare the target's own bodies in two pairs of volumes."""
    return compare(original.array, own_body(original_label.array, label), synthetic.array,
                   own_body(synthetic_label.array, label), float(original.spacing_mm[0]))


def record_path(output: Path, case: str) -> Path:
    """Measures of a case, from which the table is made."""
    return output / "generation" / "cases" / f"{case}.json"


def is_complete(case: str, dataroot: Path, output: Path) -> bool:
    """Tell whether a case's record is there and younger than what it was made from."""
    sources = (straightened_ct(dataroot, case), straightened_label(dataroot, case), fake_ct(output, case),
               fake_label(output, case))
    record = record_path(output, case)
    return all(source.is_file() for source in sources) and is_up_to_date([record], sources)


def healthy_cases(cohort: Cohort, split: str, max_grade: int) -> list[str]:
    """Return the cases of a split ('all' for every) up to a grade.

    Raises:
        InputError: there is none.
    """
    cases = cohort.cases(None if split == "all" else split)
    healthy = [case for case in cases if cohort.grades[case] <= max_grade]
    if not healthy:
        raise InputError(f"{cohort.path}: expected a vertebra of grade {max_grade} or less in split "
                         f"'{split}', found none of {len(cases)}; choose another --split")
    return healthy


def table_row(case: str, cohort: Cohort, output: Path) -> dict[str, Any]:
    """Return the table's row of an evaluated case."""
    patient, label = split_case(case)
    described = {"case": case, "patient": patient, "level": label_name(label), "split": cohort.split_of(case),
                 "grade": cohort.grades[case]}
    return described | read_json(record_path(output, case))


def summarize(rows: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Return the mean of each measure with its 95 % interval; undefined values are left out and counted."""
    patients = [row["patient"] for row in rows]
    summary: dict[str, Any] = {"vertebrae": len(rows), "patients": len(set(patients)), "measures": {}}
    for name in MEASURES:
        values = np.array([math.nan if row[name] is None else row[name] for row in rows], float)
        low, high = bootstrap_interval(values, patients, seed)
        numbers = {"mean": finite_mean(values), "low": low, "high": high}
        summary["measures"][name] = {key: value if math.isfinite(value) else None
                                     for key, value in numbers.items()} | {
            "undefined": int((~np.isfinite(values)).sum())}
    return summary


def print_summary(summary: dict[str, Any]) -> None:
    """Print the means with their intervals as a table."""
    def shown(value: float | None) -> str:
        return "     -" if value is None else f"{value:6.3f}"

    print(f"{vertebrae(summary['vertebrae'], 'healthy')} of {counted(summary['patients'], 'patient')}: "
          f"mean and 95 % interval (patients resampled)")
    for name, title in MEASURES.items():
        found = summary["measures"][name]
        undefined = f"  ({found['undefined']} undefined)" if found["undefined"] else ""
        interval = f"{shown(found['low'])} to {shown(found['high'])}"
        print(f"  {title:36s} {shown(found['mean'])}  {interval}{undefined}")


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write one row per case as CSV; an undefined value is an empty cell."""
    import csv

    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: round(value, 5) if isinstance(value, float) else value
                          for name, value in row.items()} for row in rows)


def build_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--dataroot", type=Path, help="straightened volumes; if not given, the cohort's 'straightened' path, "
        "else dataset/straightened")
    add("--output", type=Path, default=Path("output"), help="holds CT_fake/, label_fake/; gets generation/")
    add("--cohort", type=Path, default=Path("vertebra_data.json"), help="cohort file")
    add("--split", choices=("all", *SPLITS), default="val", help="whose vertebrae; val is the hold-out")
    add("--healthy_max_grade", type=int, choices=GRADES, default=0, help="grades up to this count as healthy")
    add("--seed", type=whole_number(0), default=0, help="of the resampled patients")
    add_stage_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate the cases, write the table and the summary."""
    args = build_parser().parse_args(argv)
    cohort = read_cohort(args.cohort)
    dataroot = args.dataroot or Path(cohort.paths.get("straightened", "dataset/straightened"))
    cases = healthy_cases(cohort, args.split, args.healthy_max_grade)
    folder = make_folder(args.output / "generation")
    complete = partial(is_complete, dataroot=dataroot, output=args.output)
    status = run_stage("generation", partial(evaluate_case, dataroot=dataroot, output=args.output), cases,
                       complete, jobs=args.jobs, overwrite=args.overwrite, scheduler=args.scheduler)
    rows = [table_row(case, cohort, args.output) for case in cases if complete(case)]
    if rows:
        summary = {"split": args.split, "healthy_max_grade": args.healthy_max_grade}
        summary |= summarize(rows, args.seed)
        write_table(rows, folder / "generation.csv")
        write_json(folder / "generation.json", summary)
        print_summary(summary)
        print(f"table: {folder / 'generation.csv'}")
    return status


if __name__ == "__main__":
    raise SystemExit(run_script(main))
