"""Import an official VerSe tree: writes <out>/<p>/<p>.nii.gz, <p>_msk.nii.gz, <p>.json and the cohort file.

Files are copied (or linked) as they are. The cohort lists only vertebrae that have a grade, a CT, a mask and,
where the tree has centroids, a centroid; what is left out is said.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from util.cli import add_stage_arguments, run_script, whole_number
from util.paths import make_folder
from util.stage import run_stage
from util.wording import vertebrae


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--verse_root", required=True, help="folder that holds rawdata and derivatives")
    parser.add_argument("--grades", required=True,
                        help="JSON ({split: {case: grade}} or {case: grade}) or CSV "
                             "(patient,label,grade[,split], or a column per vertebra)")
    parser.add_argument("--out", default="./dataset/raw", help="raw folder to write")
    parser.add_argument("--cohort", default="vertebra_data.json", help="cohort file to write")
    parser.add_argument("--seed", type=whole_number(0), default=0,
                        help="of the split, where the grades have none")
    parser.add_argument("--link", action="store_true", help="link files instead of copying them")
    parser.add_argument("--masks_without_ct", action="store_true",
                        help="import masks whose CT is missing too, for straightening with --labels_only")
    add_stage_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    options = build_parser().parse_args(argv)
    from data.grade_tables import read_grades
    from data.verse_import import build_cohort, import_scan, is_imported
    from data.verse_tree import find_scans
    from util.vertebrae import write_cohort

    make_folder(options.out)
    make_folder(Path(options.cohort).parent)
    table = read_grades(options.grades)
    scans = {scan.name: scan for scan in find_scans(options.verse_root, table.patients)}
    wanted = {name: scan for name, scan in scans.items() if scan.ct is not None or options.masks_without_ct}
    status = run_stage("import", partial(import_scan, options.out, wanted, options.link), list(wanted),
                       partial(is_imported, options.out, wanted),
                       jobs=options.jobs, overwrite=options.overwrite, scheduler=options.scheduler)
    cohort, missing = build_cohort(options.cohort, options.out, table, scans, options.seed)
    write_cohort(options.cohort, cohort)
    for line in missing:
        print(f"import: left out {line}", file=sys.stderr)
    print(f"import: {options.cohort} has {len(cohort.grades)} of {vertebrae(len(table.grades), 'graded')} ("
          + ", ".join(f"{split} {len(cases)}" for split, cases in cohort.splits.items()) + ")")
    return status


if __name__ == "__main__":
    raise SystemExit(run_script(main))
