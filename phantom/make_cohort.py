"""Make the embedded cohort: parametric spines with known truth, as a user would bring scans.

Reads nothing. Writes <out>/<patient>/<patient>.nii.gz and _msk.nii.gz, the truth in <out>/<patient>/truth/,
and the cohort file. The same seed writes the same bytes.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from phantom.cohort_plan import HOLD_OUTS, NAME_PREFIX, Plan, patient_names, plan_cohort
from phantom.scanner import SCANNERS
from util.cli import add_stage_arguments, run_script, whole_number
from util.errors import InputError
from util.paths import make_folder
from util.stage import run_stage
from util.vertebrae import SPLITS, Cohort, case_name, read_cohort, write_cohort


def build_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", default="./dataset/raw", help="folder for the patients")
    parser.add_argument("--cohort", default="vertebra_data.json", help="cohort file to write")
    parser.add_argument("--patients", type=whole_number(1), default=12, help="how many patients")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="decides everything; in the names")
    parser.add_argument("--fracture_rate", type=float, default=0.20,
                        help="share of fractured vertebrae; of these 50/35/15 %% are grade 1/2/3")
    parser.add_argument("--hold_out", choices=HOLD_OUTS, default="graded",
                        help="fractures of the split val: in the shares above; or even, losses of 0 to "
                        "60 %% and wedge, biconcave and crush alike, with up to two fractured neighbours")
    parser.add_argument("--split_shares", type=float, nargs=3, default=[0.5, 0.25, 0.25],
                        metavar=("TRAIN", "TEST", "VAL"), help="shares of the patients")
    parser.add_argument("--scanner", choices=SCANNERS, default="varied",
                        help="varied spacings, orientations and noises; isotropic voxels of 1 mm, as noisy "
                        "as VerSe's; or both in turn")
    add_stage_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Make the cohort; return the exit status."""
    arguments = build_parser().parse_args(argv)
    if not 0.0 <= arguments.fracture_rate <= 0.6:
        raise InputError(f"--fracture_rate: expected 0 to 0.6, found {arguments.fracture_rate}; "
                         f"a spine needs healthy neighbours")
    shares = arguments.split_shares
    if min(shares) < 0.0 or abs(sum(shares) - 1.0) > 1e-6:
        raise InputError(f"--split_shares: expected three shares of 0 or more that sum to 1, found {shares}")
    plan = Plan(arguments.patients, arguments.seed, arguments.fracture_rate, arguments.hold_out,
                tuple(shares), arguments.scanner)
    return make_cohort(arguments.out, arguments.cohort, plan, jobs=arguments.jobs,
                       overwrite=arguments.overwrite, scheduler=arguments.scheduler)


def make_cohort(out: str | Path, cohort_path: str | Path, plan: Plan, *, jobs: int = 1,
                overwrite: bool = False, scheduler: str | None = None) -> int:
    """Write the cohort file and every patient that is not complete; return the exit status."""
    names = patient_names(plan.seed, plan.patients)
    orders, splits = plan_cohort(plan)
    if not overwrite:
        check_no_other_patients(cohort_path)
    make_folder(out)
    make_folder(Path(cohort_path).parent)
    cohort = planned_cohort(cohort_path, out, names, orders, splits)
    planned = dict(zip(names, orders, strict=True))
    status = run_stage("phantom", partial(_make_patient, out, plan, planned), names,
                       partial(_is_written, out, planned), jobs=jobs, overwrite=overwrite,
                       scheduler=scheduler)
    write_cohort(cohort_path, cohort)
    return status


def check_no_other_patients(path: str | Path) -> None:
    """Check that no list of a user's own cases would be lost.

    Raises:
        InputError: the cohort file exists and names patients that are no phantoms, or cannot be read.
    """
    if not Path(path).exists():
        return
    others = [name for name in read_cohort(path).patients() if not name.startswith(NAME_PREFIX)]
    if others:
        raise InputError(f"--cohort {path}: expected no file, or one of phantoms, found {len(others)} other "
                         f"patients ({', '.join(others[:3])}); name another file, or lose it by --overwrite")


def planned_cohort(path: str | Path, out: str | Path, names: Sequence[str], orders: Sequence[list],
                   splits: Sequence[str]) -> Cohort:
    """Return the cohort: every labelled vertebra of every patient, cranial to caudal, with its grade."""
    from phantom.anatomy import LABELLED

    cases: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    for name, fractures, split in zip(names, orders, splits, strict=True):
        grades = {order.label: order.grade for order in fractures}
        cases[split] |= {case_name(name, label): grades.get(label, 0) for label in sorted(LABELLED)}
    return Cohort(Path(path), cases, {"raw": str(out)})


def _make_patient(out: str | Path, plan: Plan, orders: dict[str, list], name: str) -> None:
    """Draw and write one patient."""
    from phantom.write_patient import draw_patient, write_patient

    write_patient(out, draw_patient(plan.seed, list(orders).index(name), name, orders[name], plan.scanner))


def _is_written(out: str | Path, orders: dict[str, list], name: str) -> bool:
    """Tell whether a patient is complete, with this plan's fractures (they depend on --patients)."""
    from phantom.write_patient import is_written

    return is_written(out, name, orders[name])


if __name__ == "__main__":
    raise SystemExit(run_script(main))
