"""Fits the fracture classifier whose evidence the heatmaps show.

Reads the straightened cases and grades of the cohort: fits on its split `train`, monitors, chooses and
reports on `test`, never reads `val`. Writes best.safetensors, latest.safetensors, log.jsonl, options.json.
The folder of an earlier training is kept under another name.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from Attention.body_slices import CROP_COLUMNS, CROP_ROWS
from Attention.checkpoint import OWN_CHECKPOINT
from util.cli import number_from, run_script, whole_number
from util.errors import InputError


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add(
        "--dataroot",
        type=Path,
        help="folder of straightened cases; without it the cohort's `paths`, else dataset/straightened",
    )
    add("--cohort", type=Path, default=Path("vertebra_data.json"), help="cohort: splits and grades")
    add("--out", type=Path, default=OWN_CHECKPOINT.parent, help="folder for weights and log")
    add("--plane", choices=sorted(CROP_COLUMNS), default="sagittal", help="which slices to judge")
    add("--healthy_max_grade", type=int, choices=(0, 1, 2), default=0, help="highest healthy grade")
    add("--batch_size", type=whole_number(2), default=16, help="slices per step, half of them fractured")
    add(
        "--n_epochs",
        type=whole_number(1),
        default=1000,
        help="an epoch draws as many slices as `train` has cases",
    )
    add("--max_steps", type=whole_number(1), default=600, help="ends training before the last epoch")
    add("--validate_every", type=whole_number(1), default=50, help="steps between two looks at `test`")
    add("--lr", type=number_from(0.0), default=3e-3, help="highest learning rate of the one-cycle schedule")
    add("--width", type=whole_number(8), default=16, help="channels of the first layer, a multiple of 8")
    add("--seed", type=whole_number(0), default=0, help="of initialisation, draws and augmentation")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    return parser


def check_own_folder(out: Path) -> None:
    """Checks that a training may rename its folder.

    Raises:
        InputError: it is the one that the script runs in, or lies around that.
    """
    if Path.cwd().is_relative_to(out.resolve()):
        raise InputError(
            f"--out {out}: expected a folder for this training alone, found the one that the script runs in; "
            f"choose another"
        )


def begin(out: Path) -> None:
    """Makes the folder; one that holds an earlier training is kept under another name, as train.py does."""
    from util.paths import make_folder, set_aside

    if any((out / name).exists() for name in (OWN_CHECKPOINT.name, "options.json")):
        print(f"an earlier training in {out} is kept as {set_aside(out)}")
    make_folder(out)


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Reads the cohort, fits the classifier and returns its report on `test`."""
    from Attention.classifier_data import read_vertebrae
    from Attention.classifier_training import Schedule, check_classes, fit
    from util.device import choose_device
    from util.paths import write_json
    from util.vertebrae import read_cohort

    device = choose_device(args.device)
    check_own_folder(args.out)
    cohort = read_cohort(args.cohort)
    grades = {split: cohort.splits.get(split, {}) for split in ("train", "test")}
    check_classes(list(grades["train"].values()), args.healthy_max_grade, str(args.cohort))
    crop = {"plane": args.plane, "rows": CROP_ROWS, "columns": CROP_COLUMNS[args.plane]}
    dataroot = args.dataroot or Path(cohort.paths.get("straightened", "dataset/straightened"))
    vertebrae = {split: read_vertebrae(dataroot, grades[split], **crop, title=split) for split in grades}
    begin(args.out)
    write_json(args.out / "options.json", {name: str(value) for name, value in vars(args).items()})
    steps = min(args.n_epochs * math.ceil(len(vertebrae["train"]) / args.batch_size), args.max_steps)
    schedule = Schedule(args.batch_size, steps, args.lr, args.validate_every, args.seed)
    settings = crop | {"healthy_max_grade": args.healthy_max_grade}
    return fit(vertebrae["train"], vertebrae["test"], settings, schedule, args.out, device, args.width)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script; returns its exit status."""
    args = build_parser().parse_args(argv)
    result = train(args)

    from Attention.classifier_training import describe

    if result:
        print(f"test, per vertebra at probability 0.5, step {result['step']}: {describe(result)}")
    else:
        print(f"{args.cohort}: no split 'test', so the last weights are kept and nothing is reported")
    print(f"wrote {args.out / 'best.safetensors'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
