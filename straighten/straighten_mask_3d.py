"""Straighten the spine: writes <out>/{CT,label}/<case>.nii.gz per vertebra and <out>/geometry/<p>.npz.

Reads CT, mask and centroids (straighten/location_json_local.py) of each patient once, samples both straight
from the scanner's voxels along the curve through the vertebral bodies, and keeps only bodies in the label.
"""

import argparse
from collections.abc import Sequence
from functools import partial

from util.cli import add_stage_arguments, run_script
from util.paths import make_folder
from util.stage import run_stage
from util.vertebrae import LABELS


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--raw", default=None, help="folder with CT, mask, centroids per patient; if not "
                        "given, the cohort's 'raw' path, else dataset/raw")
    parser.add_argument("--out", default=None, help="folder for straightened volumes; if not given, the "
                        "cohort's 'straightened' path, else dataset/straightened")
    parser.add_argument("--cohort", default=None,
                        help="cohort JSON; only its cases (without it every located vertebra of --raw, and "
                        "the paths of vertebra_data.json)")
    parser.add_argument("--labels", type=int, nargs="+", default=None, choices=sorted(LABELS),
                        metavar="LABEL", help="only these vertebrae, by VerSe's labels")
    parser.add_argument("--labels_only", action="store_true", help="straighten masks alone, without CT")
    add_stage_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    options = build_parser().parse_args(argv)
    from straighten.patient import straighten_patient
    from straighten.request import Request, cohort_labels, folder_of, having_labels, is_complete

    raw = folder_of(options.raw, options.cohort, "raw")
    out = folder_of(options.out, options.cohort, "straightened")
    request = Request(raw, out, cohort_labels(options.cohort), options.labels, options.labels_only)
    patients = having_labels(request)
    make_folder(out)
    return run_stage("straightening", partial(straighten_patient, request), patients,
                     partial(is_complete, request), jobs=options.jobs, overwrite=options.overwrite,
                     scheduler=options.scheduler)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
