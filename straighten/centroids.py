"""Centroid files: the official VerSe form, and the published one without a direction."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from util.errors import InputError
from util.paths import json_text, read_json, write_json
from util.vertebrae import ANATOMICAL_ORDER, LABELS
from util.volume import Volume, reorient

KEYS = ["label", "X", "Y", "Z"]  # of each entry that `write_centroids` writes, and no others
DECIMALS = 2


def read_centroids(path: str | Path, mask: Volume) -> dict[int, np.ndarray]:
    """Read a centroid file and return the world position (3,) in mm of each vertebra.

    A first element {"direction": [axis codes]} tells how the array is oriented whose voxels the file counts;
    without it they are the mask's own. Structures that are no vertebra (sacrum, subregions) are passed over.

    Args:
        path: the file.
        mask: whose grid the voxels are counted on.

    Raises:
        InputError: the file is missing, no JSON, or of another form; a centroid lies outside the mask.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: expected the vertebrae's centroids, found no file; "
                         f"run straighten/location_json_local.py")
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"{path}: expected a list of centroids in VerSe's form, found another; "
                         f"run straighten/location_json_local.py --overwrite")
    affine, shape = _counted_grid(path, entries, mask)
    centroids: dict[int, np.ndarray] = {}
    for entry in entries:
        if "direction" in entry or entry.get("label") not in tuple(LABELS):  # a label may be of any type
            continue
        voxel = _voxel(path, entry)
        if not ((voxel >= -1.0) & (voxel <= shape)).all():
            raise InputError(f"{path}: expected centroids inside the mask {tuple(shape.tolist())}, found "
                             f"label {entry['label']} at {voxel.round(1).tolist()}; "
                             f"does the file belong to this mask?")
        centroids[int(entry["label"])] = affine[:3, :3] @ voxel + affine[:3, 3]
    if not centroids:
        raise InputError(f"{path}: expected at least one vertebra, found none; "
                         f"run straighten/location_json_local.py --overwrite")
    return centroids


def _counted_grid(path: str | Path, entries: list[dict[str, Any]],
                  mask: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Return affine (4, 4) and shape (3,) of the array whose voxels a centroid file counts."""
    codes = next((entry["direction"] for entry in entries if "direction" in entry), None)
    if codes is None:
        return mask.affine, np.array(mask.array.shape)
    named = map(str, codes) if isinstance(codes, list) else ()
    axes = [next((pair for pair in ("LR", "PA", "IS") if code in tuple(pair)), None) for code in named]
    if set(axes) != {"LR", "PA", "IS"} or len(axes) != 3:
        raise InputError(f"{path}: expected a direction of three axis codes such as P, I, R, "
                         f"found {codes!r}; correct the file")
    empty = np.broadcast_to(np.uint8(0), mask.array.shape)  # takes no memory; only its grid is turned
    turned = reorient(Volume(empty, mask.affine), (codes[0], codes[1], codes[2]))
    return turned.affine, np.array(turned.array.shape)


def _voxel(path: str | Path, entry: dict[str, Any]) -> np.ndarray:
    """Return an entry's voxel coordinates (3,)."""
    try:
        voxel = np.array([float(entry[axis]) for axis in "XYZ"])
    except (KeyError, TypeError, ValueError):
        voxel = np.full(3, np.nan)
    if not np.isfinite(voxel).all():
        raise InputError(f"{path}: expected numbers X, Y, Z for label {entry['label']}, "
                         f"found {entry}; correct it")
    return voxel


def write_centroids(path: str | Path, centres_mm: Mapping[int, np.ndarray], mask: Volume) -> None:
    """Write centroids in VerSe's form, in voxels of the mask as it lies in its file.

    Args:
        path: the file.
        centres_mm: world position (3,) by label.
        mask: on whose grid to count voxels.
    """
    to_voxel = np.linalg.inv(mask.affine)
    entries: list[dict[str, Any]] = [{"direction": list(mask.axis_codes)}]
    for label in ANATOMICAL_ORDER:
        if label in centres_mm:
            voxel = (to_voxel[:3, :3] @ centres_mm[label] + to_voxel[:3, 3]).round(DECIMALS).tolist()
            entries.append(dict(zip(KEYS, [label, *voxel], strict=True)))
    write_json(path, entries)


def is_own_file(path: str | Path) -> bool:
    """Tell whether a centroid file has the very text that `write_centroids` would give it.

    VerSe's own files are laid out otherwise (one line, or more decimals, or further keys); so is, as a rule,
    what was edited by hand.
    """
    try:
        entries = read_json(path)
        if json_text(entries) != Path(path).read_text(encoding="utf-8"):
            return False
        axes, *centres = [list(entry) for entry in entries]
        numbers = [entry[axis] for entry in entries[1:] for axis in KEYS[1:]]
        labels = [entry["label"] for entry in entries[1:]]
    except (InputError, KeyError, TypeError, ValueError):
        return False
    return (axes == ["direction"] and all(keys == KEYS for keys in centres)
            and labels == [label for label in ANATOMICAL_ORDER if label in labels]
            and all(isinstance(number, float) and number == round(number, DECIMALS) for number in numbers))
