"""Carry straightened volumes back to the scanner's grid: writes <out>/<case>.nii.gz beside the patient's CT.

Takes any folder of straightened volumes named <case>.nii.gz: CT_fake, label_fake, heatmaps.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from util.cli import add_stage_arguments, run_script
from util.errors import InputError
from util.paths import geometry_path, is_up_to_date, make_folder, visible
from util.stage import run_stage
from util.vertebrae import split_case

if TYPE_CHECKING:
    import numpy as np

KINDS = ("ct", "label", "map")
AIR_HU = -1000


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of this script."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--volumes", default="./output/CT_fake", help="folder with <case>.nii.gz")
    parser.add_argument("--kind", choices=KINDS, default="ct",
                        help="ct: grey values to HU; label: nearest neighbour; map: any numbers, linear")
    parser.add_argument("--dataroot", default=None, help="folder with geometry/<p>.npz; if not given, the "
                        "cohort's 'straightened' path, else dataset/straightened")
    parser.add_argument("--cohort", default=None, help="cohort JSON, for its paths (without it those of "
                        "vertebra_data.json)")
    parser.add_argument("--out", default=None, help="folder for the results, of one kind; if not given, "
                        "./output/scanner_<kind>")
    add_stage_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script and return its exit status."""
    options = build_parser().parse_args(argv)
    from straighten.request import folder_of

    dataroot, suffix = folder_of(options.dataroot, options.cohort, "straightened"), ".nii.gz"
    cases = [path.name.removesuffix(suffix) for path in visible(options.volumes, f"*{suffix}")]
    if not cases:
        raise InputError(f"--volumes {options.volumes}: expected <case>.nii.gz, found none; check the path")
    if options.out and Path(options.out).resolve() == Path(options.volumes).resolve():
        raise InputError(f"--out {options.out}: expected another folder than --volumes, whose files would be "
                         f"replaced; choose another")
    out = make_folder(options.out or f"./output/scanner_{options.kind}")
    work = partial(unstraighten_case, options.volumes, dataroot, out, options.kind)
    return run_stage("to scanner", work, cases, partial(is_complete, options.volumes, dataroot, out),
                     jobs=options.jobs, overwrite=options.overwrite, scheduler=options.scheduler)


def is_complete(volumes: str | Path, dataroot: str | Path, out: str | Path, case: str) -> bool:
    """Tell whether a case's volume is there, no older than the straightened one and the geometry."""
    try:
        patient, _ = split_case(case)
    except InputError:
        return False  # the work itself says what is wrong
    name = f"{case}.nii.gz"
    return is_up_to_date([Path(out) / name], [Path(volumes) / name, geometry_path(dataroot, patient)])


def unstraighten_case(volumes: str | Path, dataroot: str | Path, out: str | Path, kind: str,
                      case: str) -> None:
    """Write one case's volume on the grid of its scanner.

    Raises:
        InputError: the volume is of another kind, or it or the patient's geometry cannot be used.
    """
    import numpy as np

    from straighten.curve import load_geometry
    from straighten.scanner_space import grey_to_hu, to_scanner
    from util.volume import STRAIGHTENED_SHAPE, Volume, read_volume, write_volume

    patient, label = split_case(case)
    path = Path(volumes) / f"{case}.nii.gz"
    array = read_volume(path).array
    geometry = load_geometry(geometry_path(dataroot, patient))
    if array.shape != STRAIGHTENED_SHAPE:
        raise InputError(f"{path}: expected a straightened volume of {STRAIGHTENED_SHAPE}, found "
                         f"{array.shape}; give --volumes a folder of straightened volumes")
    if label not in geometry.curve.centres:
        raise InputError(f"{path}: expected a vertebra of {sorted(geometry.curve.centres)}, found "
                         f"{label}; take the file away: the scan has been straightened without it")
    check_kind(path, array, kind)
    array = grey_to_hu(array) if kind == "ct" else array
    fill = AIR_HU if kind == "ct" else 0
    carried = to_scanner(array, geometry, label, nearest=kind == "label", fill=fill)
    content = np.rint(carried.array).astype(np.int16) if kind == "ct" else carried.array
    write_volume(Path(out) / f"{case}.nii.gz", Volume(content, carried.affine))


def check_kind(path: Path, array: "np.ndarray", kind: str) -> None:
    """Check that a volume's values are those of its kind: no label is above 28, and no CT stays below.

    Raises:
        InputError: they are another kind's.
    """
    from util.vertebrae import LABELS
    from util.volume import present_labels

    low, high = float(array.min()), float(array.max())
    found = f"found values from {low:g} to {high:g}"
    if kind == "label":
        fractions = array.dtype.kind == "f" and bool((array % 1 != 0).any())
        if fractions or not set(present_labels(array)) <= set(LABELS):
            raise InputError(f"{path}: expected labels for --kind label, {found}; give a folder of "
                             f"labels, or --kind ct or map")
    elif kind == "ct" and not (low >= 0 and max(LABELS) < high <= 255):  # written so that NaN fails too
        raise InputError(f"{path}: expected grey values up to 255 for --kind ct, {found}; give a folder of "
                         f"CTs, or --kind label or map")


if __name__ == "__main__":
    raise SystemExit(run_script(main))
