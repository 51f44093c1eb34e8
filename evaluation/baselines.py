"""Give every vertebra healthy reference heights without a network, and the height loss against them.

Methods: `ratio` (mean of the nearest healthy neighbours, scaled from their levels to the target's), `shape`
(least squares in a basis of neighbours' shapes), `six_point` (the vertebra's own highest third) and
`posterior` (its own posterior height). The first two are fitted on the healthy vertebrae of a split and write
`<out>/<method>/label_fake/`, which evaluation/RHLV_quantification.py --output <out>/<method> measures as it
does a generator's. All go to the table `<out>/baselines.csv`.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.baseline.cases import (
    BaselineSettings,
    is_complete,
    is_measured,
    load_measured,
    measure_case,
    reference_case,
    write_table,
)
from evaluation.baseline.models import fit_baselines, load_baselines, save_baselines
from evaluation.baseline.ratio import LEAST_PAIRS
from util.cli import add_stage_arguments, run_script
from util.errors import InputError
from util.paths import make_folder
from util.stage import run_stage
from util.vertebrae import SPLITS, label_name, read_cohort
from util.wording import counted, vertebrae

if TYPE_CHECKING:
    import pandas as pd


def fit(settings: BaselineSettings, split: str, args: argparse.Namespace) -> int:
    """Fit the baselines on the healthy vertebrae of a split and save them; return the stage's status.

    Raises:
        InputError: the split has no healthy vertebra, or too few can be read.
    """
    cohort = settings.cohort
    cases = [case for case in cohort.cases(split) if cohort.grades[case] == 0]
    if not cases:
        raise InputError(f"{cohort.path}: expected vertebrae of grade 0 in split '{split}', found none; "
                         f"choose another --fit_split, or take a fitted model by --model")
    status = run_stage("measure", partial(measure_case, settings), cases, partial(is_measured, settings),
                       jobs=args.jobs, overwrite=args.overwrite, scheduler=args.scheduler)
    baselines = fit_baselines({case: load_measured(settings, case) for case in cases
                               if is_measured(settings, case)})
    save_baselines(settings.model, baselines)
    shape = baselines.shape
    print(f"model: {settings.model} ({vertebrae(baselines.vertebrae, 'healthy')}, "
          f"{counted(baselines.patients, 'patient')}; "
          f"{counted(len(shape.basis.deviation), 'mode')} of shape, ridge {shape.ridge:g})")
    adjacent = baselines.ratio.few_pairs()
    if adjacent:
        pairs = ", ".join(f"{label_name(label)} to {label_name(other)}" for label, other in adjacent)
        print(f"ratio: fewer than {LEAST_PAIRS} healthy pairs of {pairs}; their region's ratio is taken")
    return status


def summarize(table: "pd.DataFrame") -> None:
    """Print how far each method's references are from healthy vertebrae's own, and what is undefined."""
    healthy = table[(table["grade"] == 0) & table["rhlv_overall"].notna()]
    relative = (1.0 / (1.0 - healthy["rhlv_overall"]) - 1.0).abs()  # of the reference against the own height
    for method, values in relative.groupby(healthy["method"], sort=False):
        print(f"{method}: overall height of {vertebrae(len(values), 'healthy')} differs by "
              f"{100 * values.mean():.1f} % (mean absolute)")
    undefined = table[table["height_reference_overall_mm"].isna()]["method"].value_counts(sort=False)
    for method, count in undefined.items():
        print(f"{method}: {count} undefined (column 'reason' says why)")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--cohort", type=Path, default=Path("vertebra_data.json"), help="cohort file")
    parser.add_argument("--dataroot", type=Path, help="straightened volumes; if not given, the cohort's "
                        "'straightened' path, else dataset/straightened")
    parser.add_argument("--split", choices=("all", *SPLITS), default="val",
                        help="cases to give references to")
    parser.add_argument("--out", type=Path, default=Path("output/baselines"), help="folder of the results")
    parser.add_argument("--fit_split", choices=SPLITS, default="train",
                        help="split whose healthy vertebrae the baselines are fitted on")
    parser.add_argument("--model", type=Path, help="baselines fitted earlier, such as "
                        "weights/phantom_baselines.json; if not given, they are fitted now and saved as "
                        "<out>/baselines.json")
    parser.add_argument("--fit_only", action="store_true", help="fit and save the model, and stop there")
    add_stage_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Fit or read the model, give the references and write the table."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.model and args.fit_only:
        parser.error("--fit_only: expected no --model, which names a model that is fitted already")
    cohort = read_cohort(args.cohort)
    dataroot = args.dataroot or Path(cohort.paths.get("straightened", "dataset/straightened"))
    make_folder(args.out)
    settings = BaselineSettings(dataroot, args.out, cohort, args.model or args.out / "baselines.json")
    cases = [] if args.fit_only else cohort.cases(None if args.split == "all" else args.split)
    status = 0
    if args.model:
        load_baselines(args.model)
    else:
        status = fit(settings, args.fit_split, args)
    if args.fit_only:
        return status
    status |= run_stage("baselines", partial(reference_case, settings), cases, partial(is_complete, settings),
                        jobs=args.jobs, overwrite=args.overwrite, scheduler=args.scheduler)
    rows = [case for case in cohort.cases() if is_complete(settings, case)]
    if rows:
        table = write_table(settings, rows)
        summarize(table[table["case"].isin(cases)])
        print(f"table: {args.out / 'baselines.csv'} ({vertebrae(len(rows))})")
    return status


if __name__ == "__main__":
    raise SystemExit(run_script(main))
