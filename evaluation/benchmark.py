"""How wrong is the restored height? The generator and simple methods on the same vertebrae of known truth.

    python evaluation/benchmark.py --cohort phantom --checkpoint weights/phantom_sagittal.safetensors \
        --checkpoint_coronal weights/phantom_coronal.safetensors

Makes what is missing (phantom cohort, straightening, heatmaps, synthesis, height loss, baselines), then
writes benchmark.csv (a row per vertebra and method), benchmark.json, benchmark.md and plots into --out. With
--ablate it also tells what each part of the method is worth. Figures of phantoms are not clinical ones.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from util.cli import add_stage_arguments, run_script, whole_number
from util.errors import InputError
from util.steps import ROOT, Step, run_steps

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.scoreboard.course import Place
    from util.vertebrae import Cohort

WEIGHTS = ROOT / "weights"


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    _add_methods(parser)
    _add_cohort(parser)
    _add_ablation(parser)
    add_stage_arguments(parser)
    return parser


def _add_methods(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("methods").add_argument
    add("--checkpoint", type=Path, required=True, help="generator to judge")
    add("--checkpoint_coronal", type=Path, help="generator of the other plane, to fuse with the first")
    add("--synthesis_flags", default="", help="further flags of eval_3d_sagittal_twostage.py, in one string")
    add("--classifier", type=Path, default=WEIGHTS / "phantom_classifier.safetensors",
        help="classifier whose evidence the heatmaps show")
    add("--baselines", type=Path, help="fitted baselines; without it the shipped ones, else they are "
        "fitted on the cohort's split train")
    add("--no_baselines", action="store_true", help="judge the generator alone")


def _add_cohort(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("cohort and results").add_argument
    add("--cohort", default="phantom", help="'phantom' for the embedded benchmark cohort, or a cohort file: "
        "its split val is judged, the healthy vertebrae of its split test calibrate")
    add("--root", type=Path, default=Path("dataset/benchmark"), help="folder of the phantom cohort")
    add("--patients", type=whole_number(2), default=80, help="held-out phantom patients")
    add("--calibration_patients", type=whole_number(1), default=24, help="phantom patients that calibrate")
    add("--seed", type=whole_number(0), default=6000, help="of the phantom cohort, resampling and ablation")
    add("--resamples", type=whole_number(1), default=1000, help="draws of patients for each 95 %% interval")
    add("--floor_draws", type=whole_number(0), default=3000, help="anatomies that the floor is fitted on "
        "(phantom); 0 leaves it out")
    add("--out", type=Path, default=Path("output/benchmark"), help="folder for the results")
    add("--docs", type=Path, help="also write benchmark.json, the tables of benchmark.md and images/ to "
        "this folder")


def _add_ablation(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("ablation").add_argument
    add("--ablate", action="store_true", help="switch off one part of the method at a time")
    add("--ablate_patients", type=whole_number(2), default=8, help="held-out patients to compare on")
    add("--ablate_steps", type=whole_number(0), default=0, help="training steps of the full and each reduced "
        "sagittal generator; 0 leaves out the parts that need training")
    add("--ablate_cohort", type=Path, default=Path("vertebra_data.json"), help="cohort to train them on")
    add("--ablate_dataroot", type=Path, default=Path("dataset/straightened"), help="its straightened cases")
    add("--ablate_heatmaps", type=Path, default=Path("Attention/heatmap"), help="its heatmaps")
    add("--ablate_flags", default="--batch_size 8 --ngf 12 --ndf 8",
        help="further flags of train.py, in one string")


def prepare(args: argparse.Namespace, place: "Place") -> tuple["Cohort", list[Step], int]:
    """Run every step that is not complete; return the cohort, the commands, and 1 if some cases failed."""
    from evaluation.scoreboard import course
    from util.vertebrae import read_cohort

    course.baseline_model(args)  # a wrong name is told before an hour is spent
    steps = course.data_steps(args, place)
    status = run_steps(steps, Path.cwd(), past_bad_cases=True)
    cohort = read_cohort(place.cohort)
    more = course.method_steps(args, place, cohort)
    more += course.healthy_steps(args, place, cohort.patients(course.HELD_OUT))
    return cohort, [*steps, *more], max(status, run_steps(more, Path.cwd(), past_bad_cases=True))


def score(args: argparse.Namespace, place: "Place",
          cohort: "Cohort") -> tuple["pd.DataFrame", dict[str, Any], int]:
    """Compare shapes, write the tidy table, and return it, the report, and 1 if some cases failed."""
    from functools import partial

    from evaluation.grade_metrics import Resampling
    from evaluation.scoreboard import truth
    from evaluation.scoreboard.course import HELD_OUT, PHANTOM
    from evaluation.scoreboard.floor import FLOOR, floor_heights
    from evaluation.scoreboard.metrics import judge
    from evaluation.scoreboard.table import add_reference, tidy_table
    from util.paths import atomic_path
    from util.stage import run_stage

    status = run_stage("shapes", partial(truth.compare_shapes, place), cohort.cases(HELD_OUT),
                       partial(truth.is_compared, place), jobs=args.jobs, overwrite=args.overwrite,
                       scheduler=args.scheduler)
    table = tidy_table(cohort, place)
    if args.cohort == PHANTOM and args.floor_draws:
        cache = place.out / f"floor_{args.seed}_{args.floor_draws}.npy"
        table = add_reference(table, FLOOR, floor_heights(
            place.raw, cohort.patients(), cache, args.floor_draws, args.seed))
    with atomic_path(place.out / "benchmark.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.5f")
    return table, judge(table, Resampling(args.resamples, args.seed)), status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0, or 1 if some cases failed."""
    args = build_parser().parse_args(argv)
    begun = time.monotonic()
    for flag in ("checkpoint", "checkpoint_coronal", "classifier"):
        path = getattr(args, flag)
        if path is not None and not path.is_file():
            raise InputError(f"--{flag} {path}: expected weights, found no file; check the path")
    from evaluation.scoreboard.course import place_of
    from evaluation.scoreboard.page import write_results

    place = place_of(args)
    cohort, commands, status = prepare(args, place)
    table, report, failed = score(args, place, cohort)
    text = write_results(args, place, report, table, commands)
    if args.ablate:
        from evaluation.scoreboard.ablation import ablate

        report["ablation"] = ablate(args, place, cohort)
        text = write_results(args, place, report, table, commands)
    print(f"\n{text}")
    print(f"\nThe benchmark took {(time.monotonic() - begun) / 60:.1f} minutes; results: {place.out}")
    return max(status, failed)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
