"""Fracture vertebrae of any CT by a known loss: writes CT, mask and truth as raw data are laid out.

Reads a CT and its vertebra mask. Writes <out>/<patient>/<patient>.nii.gz and _msk.nii.gz, and in truth/ the
record truth.json, the CT before (healthy.nii.gz) and the vertebral bodies before (healthy_body.nii.gz).
Several vertebrae at once: --label 20 21 --kind wedge crush --loss 0.35 0.2.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from phantom.anatomy import MOST_LOSS
from util.cli import number_from, number_within, run_script, whole_number
from util.errors import InputError
from util.paths import make_folder
from util.vertebrae import LABELS

KINDS = ("wedge", "biconcave", "crush", "mixed")


def build_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--ct", type=Path, required=True, help="CT in HU, any axis order and spacing")
    add("--mask", type=Path, required=True, help="vertebra mask on the same grid, VerSe's labels")
    add("--label", type=int, nargs="+", required=True, choices=sorted(LABELS), metavar="LABEL",
        help="vertebrae to fracture, by VerSe's labels (20 is L1)")
    add("--kind", nargs="+", required=True, choices=KINDS, help="pattern of each, or one for all")
    add("--loss", type=number_within(0.0, MOST_LOSS), nargs="+", required=True, metavar="LOSS",
        help=f"share of its height, 0 to {MOST_LOSS}, that the third which loses most loses; of each, or one "
        "for all")
    add("--out", type=Path, default=Path("./dataset/raw"), help="folder of patients (default: %(default)s)")
    add("--patient", default=None, help="name of the new patient (default: the CT's, -fractured added)")
    add("--seed", type=whole_number(0), default=0, help="decides what chance decides (default: 0)")
    kyphosis = parser.add_mutually_exclusive_group()
    kyphosis.add_argument("--kyphosis", type=number_within(0.0, 1.0), default=None, metavar="SHARE",
                          help="share 0 to 1 of the endplates' tilt that the spine follows; the discs take "
                          "the rest (default: drawn, about a half)")
    kyphosis.add_argument("--no_kyphosis", dest="kyphosis", action="store_const", const=0.0,
                          help="the spine keeps its curvature, as with --kyphosis 0")
    add("--bulge", type=number_from(0.0, 6.0), default=0.0, metavar="MM",
        help="how far the body's wall comes outwards at half height (default: 0)")
    add("--compaction", type=number_within(0.0, 1.0), default=1.0, metavar="SHARE",
        help="share of the pressed bone that stays and makes the rest denser (default: 1)")
    add("--healthy", type=int, nargs="+", default=None, choices=sorted(LABELS), metavar="LABEL",
        help="vertebrae known to be whole, for the truth (default: those that truth/truth.json beside the CT "
        "calls so)")
    add("--overwrite", action="store_true", help="replace the patient if it is there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Make the fractures; return the exit status."""
    options = build_parser().parse_args(argv)
    from phantom.fractured_patient import known_healthy, patient_name, write_fractured
    from phantom.virtual_fracture import Manner, Wanted, check_wanted, fracture
    from util.volume import read_ct_and_mask

    patient = options.patient or patient_name(options.ct)
    count = len(options.label)
    kinds, losses = (_one_each(flag, getattr(options, flag), count) for flag in ("kind", "loss"))
    wanted = [Wanted(*one) for one in zip(options.label, kinds, losses, strict=True)]
    check_wanted(wanted, options.healthy or ())
    check_free(options.out, patient, options.overwrite)
    healthy = known_healthy(options.ct, options.label) if options.healthy is None else options.healthy
    make_folder(options.out)
    ct, mask = read_ct_and_mask(options.ct, options.mask)
    made = fracture(ct, mask, wanted, seed=options.seed, healthy=healthy, patient=patient,
                    manner=Manner(options.kyphosis, options.bulge, options.compaction))
    write_fractured(options.out, patient, ct, made)
    for label, one in made.truth["vertebrae"].items():
        thirds = " / ".join(f"{100 * loss:.1f}" for loss in one["loss_by_third"])
        print(f"{one['name']} (label {label}): {one['kind']}, {thirds} % lost in front, middle and behind")
    for remark in made.remarks:
        print(f"warning: {remark}", file=sys.stderr)
    return 0


def _one_each(flag: str, values: list, count: int) -> list:
    """Return one value for each vertebra.

    Raises:
        InputError: there are neither as many values as vertebrae nor one for all.
    """
    if len(values) not in (1, count):
        raise InputError(f"--{flag}: expected one value, or one for each of {count} labels, found "
                         f"{len(values)}")
    return values * count if len(values) == 1 else values


def check_free(out: Path, patient: str, overwrite: bool) -> None:
    """Check a patient's name, and that nothing would be lost.

    Raises:
        InputError: the name is no folder's name, or the folder is there and may not be replaced.
    """
    if not patient or Path(patient).name != patient or patient.startswith("."):
        raise InputError(f"--patient {patient}: expected the name of a folder, found a path; "
                         f"choose a plain name")
    if (out / patient).exists() and not overwrite:
        raise InputError(f"{out / patient}: expected no patient of that name, found one; choose another "
                         f"--patient or replace it by --overwrite")


if __name__ == "__main__":
    raise SystemExit(run_script(main))
