"""A straightened case as every later stage reads it: in the convention, and holding its vertebra."""

from pathlib import Path

from util.errors import InputError
from util.paths import straightened_ct, straightened_label
from util.vertebrae import split_case
from util.volume import (
    AXIS_CODES,
    STRAIGHTENED_SHAPE,
    Volume,
    check_same_grid,
    present_labels,
    read_mask,
    read_volume,
)

STRAIGHTEN = "python straighten/straighten_mask_3d.py"
# Made again, a vertebra may turn out to be no longer located, and its old file would stay for ever.
AGAIN = f"run: {STRAIGHTEN} --overwrite; if that leaves the file as it is, leave the case out"


def read_straightened(dataroot: str | Path, case: str) -> tuple[Volume, Volume]:
    """Read CT and label of a straightened case, both uint8 256 x 256 x 64.

    Args:
        dataroot: holds CT/ and label/.
        case: `<patient>_<label>`.

    Raises:
        InputError: a file is missing or damaged, is not in the straightened convention (`util.volume`), or
            does not hold the case's vertebra.
    """
    ct_path, label_path = straightened_ct(dataroot, case), straightened_label(dataroot, case)
    ct, label = read_volume(ct_path), read_mask(label_path)
    _check_convention(ct_path, ct)
    check_same_grid(ct, ct_path, label, label_path)
    target = split_case(case)[1]
    if not (label.array == target).any():
        found = present_labels(label.array)
        raise InputError(f"{label_path}: expected label {target} of case '{case}', found {found}; {AGAIN}")
    return ct, label


def _check_convention(path: Path, volume: Volume) -> None:
    """Check that a volume has the form that straightening writes."""
    found = (volume.array.shape, volume.array.dtype.name)
    if found != (STRAIGHTENED_SHAPE, "uint8"):
        raise InputError(f"{path}: expected {STRAIGHTENED_SHAPE} voxels of uint8, found {found[0]} of "
                         f"{found[1]}; {AGAIN}")
    if not faces_caudal(volume):
        raise InputError(f"{path}: expected axes {'-'.join(AXIS_CODES)}, found "
                         f"{'-'.join(volume.axis_codes)}; {AGAIN}")


def faces_caudal(volume: Volume) -> bool:
    """Tell whether a volume's axes run caudal, posterior and left, as they do however a body leans.

    These are minus z, y and x. A kyphotic body may lean by more than 45 degrees, so that its nearest axis
    codes are others; but it never turns round.
    """
    return bool((-volume.affine[[2, 1, 0], [0, 1, 2]] > 0).all())
