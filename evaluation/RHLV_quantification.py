"""Measure the relative height loss of every vertebra: synthetic body against original body.

Reads straightened labels and `label_fake/`; writes a table (CSV, Excel), axial maps of height loss (NIfTI in
percent, PNG) and curves from anterior to posterior (PNG) into `<output>/RHLV/`. Each loss has an interval and
each vertebra a probability of each grade, from the grade 0 cases of split test (calibration.json).
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from evaluation.heights import HeightLoss, central_profiles_mm, height_loss, height_loss_map
from evaluation.rhlv.calibration import choose_calibration, given_calibration, judge, weigh
from evaluation.rhlv.expected_loss import loss_prior, prevalence
from evaluation.rhlv.records import Folders, MeasuredCase, read_measured, write_record
from evaluation.rhlv.table import PARTS, summarize, table_row, write_table
from evaluation.rhlv.uncertainty import Calibration
from util.body_heights import BodyHeights, UndefinedHeightError, measure_body, own_body, third_heights_mm
from util.cli import add_stage_arguments, number_from, run_script
from util.errors import InputError
from util.paths import fake_label, is_up_to_date, make_folder, read_json, straightened_label
from util.stage import run_stage
from util.vertebrae import SPLITS, Cohort, label_name, neighbours, read_cohort, split_case
from util.volume import Volume, check_same_grid, present_labels, read_mask, write_volume
from util.wording import counted, named, vertebrae

UNDEFINED = np.full(len(PARTS), np.nan)


def quantify_case(case: str, folders: Folders) -> str | None:
    """Measure one vertebra and write its record and map; take away what was drawn of an earlier measurement.

    Returns:
        Why its loss is undefined, if it is.

    Raises:
        InputError: a file is missing or damaged, grids differ, or the original label is not in its file.
    """
    original, synthetic, missing_neighbours = _read_bodies(case, folders)
    after, after_reason = _measure(original, "original")
    before, before_reason = _measure(synthetic, "synthetic")
    for drawn in (folders.map_picture(case), folders.curve_picture(case)):
        drawn.unlink(missing_ok=True)
    if before and after:
        loss, loss_map = height_loss(after, before), height_loss_map(after, before)
        write_volume(folders.loss_map(case), _map_volume(loss_map, before, synthetic.affine))
    else:
        folders.loss_map(case).unlink(missing_ok=True)
        loss = HeightLoss(_heights_mm(after), _heights_mm(before), UNDEFINED,
                          "; ".join(filter(None, (after_reason, before_reason))))
    write_record(folders.record(case), loss, missing_neighbours)
    return loss.reason or None


def _read_bodies(case: str, folders: Folders) -> tuple[Volume, Volume, int]:
    """Return the target's own body, original and synthetic, as boolean volumes on one grid.

    And how many of its two neighbours are not in the original.
    """
    _, label = split_case(case)
    paths = straightened_label(folders.dataroot, case), fake_label(folders.output, case)
    original, synthetic = (read_mask(path) for path in paths)
    check_same_grid(original, paths[0], synthetic, paths[1])
    found = present_labels(original.array)
    if label not in found:
        raise InputError(f"{paths[0]}: expected label {label} ({label_name(label)}), found labels {found}; "
                         f"straighten the case again or take it out of the cohort")
    return (Volume(own_body(original.array, label), original.affine),
            Volume(own_body(synthetic.array, label), synthetic.affine),
            neighbours(label, found).count(None))


def _measure(body: Volume, name: str) -> tuple[BodyHeights | None, str]:
    """Return a body's heights; or None, and the reason, which says which body it is."""
    try:
        return measure_body(body.array, float(body.spacing_mm[0])), ""
    except UndefinedHeightError as error:
        return None, f"the {name} body {error}"


def _heights_mm(body: BodyHeights | None) -> np.ndarray:
    """Return the heights of the thirds and overall, NaN without a body: (4,)."""
    return UNDEFINED if body is None else third_heights_mm(body)


def _map_volume(loss: np.ndarray, synthetic: BodyHeights, affine: np.ndarray) -> Volume:
    """Return the map in percent as one slab (1, columns, slices) that spans the synthetic body's rows."""
    top, bottom = synthetic.rows
    slab = np.eye(4)
    slab[0, 0], slab[0, 3] = bottom - top, (top + bottom - 1) / 2
    return Volume((100.0 * loss[None]).astype(np.float32), affine @ slab)


def is_complete(case: str, folders: Folders) -> bool:
    """Tell whether a case's record is no older than what it was made from, and so the map of a defined loss.

    An undefined loss has none; one that is there is that of an earlier measurement.
    """
    sources = straightened_label(folders.dataroot, case), fake_label(folders.output, case)
    if not all(source.is_file() for source in sources):
        return False
    try:
        record = read_json(folders.record(case))
        is_ours = {"reason", "rhlv", "missing_neighbours"} <= set(record)
        is_defined = not record["reason"]
    except (InputError, TypeError, KeyError):
        return False  # no record of ours: measured anew
    loss_map = folders.loss_map(case)
    made = [folders.record(case), *([loss_map] if is_defined else [])]
    return is_ours and is_up_to_date(made, sources) and (is_defined or not loss_map.is_file())


def draw_case(case: str, folders: Folders, calibration: Calibration | None) -> None:
    """Draw the map and the curve of a case whose loss is defined."""
    from evaluation.rhlv.figures import draw_curve, draw_map

    patient, label = split_case(case)
    title = f"{patient}  {label_name(label)}"
    original, synthetic, _ = _read_bodies(case, folders)
    bodies = tuple(measure_body(body.array, float(body.spacing_mm[0])) for body in (original, synthetic))
    measured = read_measured(case, folders)
    uncertainty = judge(measured, calibration)
    draw_map(folders.map_picture(case), height_loss_map(*bodies), title, uncertainty)
    draw_curve(folders.curve_picture(case), *central_profiles_mm(*bodies), measured.rhlv, title, uncertainty)


def is_drawn(case: str, folders: Folders, calibration: Calibration | None) -> bool:
    """Tell whether a case's pictures are younger than its record and show what the calibration says."""
    from evaluation.rhlv.figures import caption, caption_of

    expected = caption(judge(read_measured(case, folders), calibration))
    since = folders.record(case).stat().st_mtime
    return all(path.is_file() and path.stat().st_mtime >= since and caption_of(path) == expected
               for path in (folders.map_picture(case), folders.curve_picture(case)))


def chosen_cases(cohort: Cohort, split: str, output: Path) -> list[str]:
    """Return the cases to measure: those of a split, or for 'all' those that were synthesized.

    Raises:
        InputError: there is none.
    """
    if split != "all":
        return cohort.cases(split)
    cases = [case for case in cohort.cases() if fake_label(output, case).is_file()]
    total = len(cohort.cases())
    if not cases:
        raise InputError(f"{output / 'label_fake'}: expected synthetic labels of the "
                         f"{counted(total, 'case')} in {cohort.path}, found none; run "
                         f"eval_3d_sagittal_twostage.py first")
    print(f"RHLV: {len(cases)} of the cohort's {counted(total, 'case')} "
          f"{named(len(cases), 'was', 'were')} synthesized")
    return cases


def keep_calibration(calibration: Calibration | None, folders: Folders) -> None:
    """Write the calibration beside the table, or take away that of an earlier run."""
    if calibration:
        calibration.save(folders.calibration)
    else:
        folders.calibration.unlink(missing_ok=True)


def tabulate(measured: Sequence[MeasuredCase], cohort: Cohort, trained_on: str,
             calibration: Calibration | None, folders: Folders) -> None:
    """Write the table and print what is in it."""
    calibrated_on = set(calibration.origin.cases) if calibration else set()
    prior = loss_prior(prevalence(cohort)) if calibration else None
    rows = [table_row(case, cohort, trained_on, judge(case, calibration), weigh(case, calibration, prior),
                      case.case in calibrated_on) for case in measured]
    summarize(write_table(rows, folders.output / "RHLV"))
    print(f"table: {folders.output / 'RHLV' / 'rhlv.csv'} ({vertebrae(len(rows))})")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--dataroot", type=Path, help="straightened volumes; if not given, the cohort's "
                        "'straightened' path, else dataset/straightened")
    parser.add_argument("--output", type=Path, default=Path("output"),
                        help="folder that holds label_fake/; results go to RHLV/ in it")
    parser.add_argument("--cohort", type=Path, default=Path("vertebra_data.json"), help="cohort file")
    parser.add_argument("--split", choices=("all", *SPLITS), default="all",
                        help="cases to measure; 'all' takes those that were synthesized")
    parser.add_argument("--trained_on", choices=("train", "none"), default="train",
                        help="what of this cohort the generator was trained on, for the column "
                        "seen_in_training; 'none' for weights from another cohort")
    parser.add_argument("--calibration", default="auto", metavar="auto|none|FILE",
                        help="intervals and probabilities of grades: from the grade 0 cases of split test, "
                        "none, or from the calibration.json of another run with the same weights")
    parser.add_argument("--level", type=number_from(0.5, 1.0), default=0.9,
                        help="share of vertebrae whose loss an interval is to cover")
    parser.add_argument("--no_figures", action="store_true", help="write no PNG")
    add_stage_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure the cases and write the table."""
    args = build_parser().parse_args(argv)
    cohort = read_cohort(args.cohort)
    dataroot = args.dataroot or Path(cohort.paths.get("straightened", "dataset/straightened"))
    folders = Folders(dataroot, args.output)
    given = given_calibration(args.calibration, args.level)  # a wrong file is told before cases are measured
    cases = chosen_cases(cohort, args.split, args.output)
    make_folder(folders.output / "RHLV")
    status = run_stage("RHLV", partial(quantify_case, folders=folders), cases,
                       partial(is_complete, folders=folders), jobs=args.jobs, overwrite=args.overwrite,
                       scheduler=args.scheduler)
    measured = [read_measured(case, folders) for case in cohort.cases() if is_complete(case, folders)]
    calibration = choose_calibration(args.calibration, given, args.level, cohort, measured)
    keep_calibration(calibration, folders)
    if measured:
        tabulate(measured, cohort, args.trained_on, calibration, folders)
    if args.no_figures:
        return status
    drawn = [case.case for case in measured if case.case in set(cases) and not case.measured["reason"]]
    status |= run_stage("RHLV pictures", partial(draw_case, folders=folders, calibration=calibration), drawn,
                        partial(is_drawn, folders=folders, calibration=calibration),
                        jobs=args.jobs, overwrite=args.overwrite, scheduler=args.scheduler)
    return status


if __name__ == "__main__":
    raise SystemExit(run_script(main))
