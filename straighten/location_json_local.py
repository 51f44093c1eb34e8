"""Find the centre of each vertebral body in the raw masks: writes <raw>/<p>/<p>.json in VerSe's form.

Reads <raw>/<p>/<p>_msk.nii.gz. A vertebra that the scan cuts off is left out, and said so. Centres that this
script wrote are found anew where the mask is newer; a file that the user brought is kept, and said so.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from util.cli import add_stage_arguments, run_script
from util.paths import is_up_to_date, raw_centroids, raw_mask
from util.stage import run_stage


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--raw", default=None, help="folder with <p>/<p>_msk.nii.gz; if not given, the "
                        "cohort's 'raw' path, else dataset/raw")
    parser.add_argument("--cohort", default=None, help="cohort JSON; only its patients (without it all of "
                        "--raw, and the paths of vertebra_data.json)")
    add_stage_arguments(parser)
    return parser


def is_kept(raw: str | Path, patient: str) -> bool:
    """Tell whether a patient's centres are older than the mask and yet kept: the user brought them."""
    from straighten.centroids import is_own_file

    path = raw_centroids(raw, patient)
    return path.is_file() and not is_up_to_date([path], [raw_mask(raw, patient)]) and not is_own_file(path)


def is_complete(raw: str | Path, patient: str) -> bool:
    """Tell whether a patient's centres are there: no older than the mask, or the user's own."""
    return is_up_to_date([raw_centroids(raw, patient)], [raw_mask(raw, patient)]) or is_kept(raw, patient)


def tell_kept(raw: str | Path, patients: Sequence[str]) -> None:
    """Name the files that are kept."""
    for patient in patients:
        if is_kept(raw, patient):
            print(f"{patient}: kept {raw_centroids(raw, patient)}, which this script did not write, though "
                  f"the mask is newer; if the mask has other labels now, --overwrite finds the centres anew",
                  file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    options = build_parser().parse_args(argv)
    from straighten.locate import locate_patient
    from straighten.request import folder_of, raw_patients

    raw = folder_of(options.raw, options.cohort, "raw")
    patients = raw_patients(raw, options.cohort)
    if not options.overwrite:
        tell_kept(raw, patients)
    return run_stage("centroids", partial(locate_patient, raw), patients, partial(is_complete, raw),
                     jobs=options.jobs, overwrite=options.overwrite, scheduler=options.scheduler)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
