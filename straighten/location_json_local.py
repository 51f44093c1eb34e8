"""Find the centre of each vertebral body in the raw masks: writes <raw>/<p>/<p>.json in VerSe's form.

Reads <raw>/<p>/<p>_msk.nii.gz. A vertebra that the scan cuts off is left out, and said so.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from util.cli import add_stage_arguments, run_script
from util.paths import raw_centroids
from util.stage import run_stage


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--raw", default="./dataset/raw", help="folder with <p>/<p>_msk.nii.gz")
    parser.add_argument("--cohort", default=None, help="cohort JSON; only its patients (without: all)")
    add_stage_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    options = build_parser().parse_args(argv)
    from straighten.locate import locate_patient
    from straighten.patient import raw_patients

    patients = raw_patients(options.raw, options.cohort)
    return run_stage("centroids", partial(locate_patient, options.raw), patients,
                     lambda patient: raw_centroids(options.raw, patient).is_file(),
                     jobs=options.jobs, overwrite=options.overwrite, scheduler=options.scheduler)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
