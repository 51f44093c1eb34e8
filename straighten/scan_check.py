"""What a scan must be before it is straightened: CT in HU, and vertebrae numbered downwards by the affine.

A scan that is otherwise gives volumes that look sound, and numbers that are wrong. The checks look at every
third millimetre, and let pass what real scans have: padding, metal, a border that cuts vertebrae, gaps in the
numbers, T13 and L6.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from util.errors import InputError
from util.mask_box import bounding_box
from util.vertebrae import ANATOMICAL_ORDER, named_label
from util.volume import Volume

SAMPLE_MM = 3.0           # between the voxels looked at
AROUND_MM = 12.0          # of the vertebrae, where muscle and fat lie
LEAST_NEGATIVE = 0.002    # share of voxels there below 0 HU: fat and noise make it 0.3, in bone alone 0.05
LEAST_RANGE_HU = 400.0    # from fat to bone; 8-bit and normalised images have less
MOST_MEDIAN_HU = 500.0    # of the tissue beside the bone; stored values without their intercept have 1000
LEAST_BONE_HU = -200.0    # median of the vertebrae
LEAST_DROP = 0.25         # of the way from the first vertebra to the last that must lead downwards
TOLERANCE_MM = 5.0        # by which a vertebra may lie above the one before; exchanged labels lie 15 apart
WHOLE_SHARE = 0.5         # of its neighbours' volume: less is a fragment, whose middle says nothing


def check_hu(ct: Volume, ct_path: str | Path, mask: Volume) -> None:
    """Check that a CT is in HU, by what lies in and around the vertebrae.

    Args:
        ct: as read.
        ct_path: of its file, for the message.
        mask: vertebrae on the CT's grid; an empty one is passed over.

    Raises:
        InputError: its values are no HU, or the vertebrae are not where the mask has them.
    """
    sample = _around_vertebrae(ct, mask)
    if sample is None:
        return
    hu, bone = sample
    low, high, beside = float(hu.min()), float(hu.max()), _median(hu[~bone])
    negative = _share(hu[hu != 0] < 0)  # 0 may be padding
    if negative < LEAST_NEGATIVE or high - low < LEAST_RANGE_HU or beside > MOST_MEDIAN_HU:
        raise InputError(f"{ct_path}: expected a CT in HU (air -1000, fat -100, muscle 50), found values "
                         f"from {low:g} to {high:g} around the vertebrae, with a median of {beside:g}; "
                         f"export it again with its rescale slope and intercept, and without a window")
    if _median(hu[bone]) < LEAST_BONE_HU:
        raise InputError(f"{ct_path}: expected bone where the mask has vertebrae, found a median of "
                         f"{_median(hu[bone]):g} HU; check that the CT is in HU and that the mask is its own")


def _around_vertebrae(ct: Volume, mask: Volume) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a CT's values in the box of the vertebrae and AROUND_MM about it, and which of them are bone."""
    bone = _sampled(mask) > 0
    box = bounding_box(bone)
    if box is None:
        return None
    margins = np.ceil(AROUND_MM / (mask.spacing_mm * _steps(mask))).astype(int)
    around = tuple(slice(max(side.start - margin, 0), side.stop + margin)
                   for side, margin in zip(box, margins, strict=True))
    return _sampled(ct)[around], bone[around]


def _share(flags: np.ndarray) -> float:
    """Return the share of flags that are set; 0 of nothing."""
    return float(flags.mean()) if flags.size else 0.0


def _median(values: np.ndarray) -> float:
    """Return the median; 0 of nothing."""
    return float(np.median(values)) if values.size else 0.0


def check_mask_order(mask: Volume, path: str | Path) -> None:
    """Check that the vertebrae of a mask are numbered from cranial to caudal by its affine.

    Raises:
        InputError: the scan is upside down, or a label lies where another belongs.
    """
    check_order(label_places(mask), path, "correct the affine of CT and mask, or the labels")


def check_order(places_mm: Mapping[int, np.ndarray], path: str | Path, remedy: str) -> None:
    """Check that vertebrae are numbered from cranial to caudal.

    Args:
        places_mm: world position (3,) by label.
        path: of the file that has them, for the message.
        remedy: what to do, for the message.

    Raises:
        InputError: they are not.
    """
    order = [label for label in ANATOMICAL_ORDER if label in places_mm]
    if not order:
        return
    way = places_mm[order[0]] - places_mm[order[-1]]
    if way[2] < LEAST_DROP * np.linalg.norm(way):
        raise InputError(f"{path}: expected vertebrae numbered from cranial to caudal by the affine, found "
                         f"{_lies(order[0], order[-1], way)}: the scan is upside down, or on its side, or "
                         f"numbered the wrong way; {remedy}")
    for upper, lower in pairwise(order):
        way = places_mm[upper] - places_mm[lower]
        if way[2] < -TOLERANCE_MM:
            raise InputError(f"{path}: expected {named_label(upper)} above {named_label(lower)}, found "
                             f"{_lies(upper, lower, way)}; {remedy}")


def _lies(upper: int, lower: int, way: np.ndarray) -> str:
    """Say where one vertebra lies beside another, given the way (3,) in mm from there."""
    side = "above" if way[2] >= 0 else "below"
    return (f"{named_label(upper)} {abs(way[2]):.0f} mm {side} and {np.hypot(*way[:2]):.0f} mm beside "
            f"{named_label(lower)}")


def label_places(mask: Volume) -> dict[int, np.ndarray]:
    """Return the world position (3,) in mm of the middle of each label, fragments left out.

    Of a vertebra that the scan cuts off there may be the tip of a process alone, far below its body.
    """
    labels = _sampled(mask)
    voxels = np.argwhere(labels)
    found = labels[tuple(voxels.T)]
    world = (voxels * _steps(mask)) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    order = [label for label in ANATOMICAL_ORDER if (found == label).any()]
    sizes = np.array([np.count_nonzero(found == label) for label in order])
    padded = np.pad(sizes, 1)
    neighbours = np.maximum(padded[:-2], padded[2:])
    return {label: np.median(world[found == label], axis=0)
            for label, size, beside in zip(order, sizes, neighbours, strict=True)
            if size >= WHOLE_SHARE * beside}


def _steps(volume: Volume) -> np.ndarray:
    """Return how many voxels lie from one that is looked at to the next, (3,)."""
    return np.maximum(np.rint(SAMPLE_MM / volume.spacing_mm), 1).astype(int)


def _sampled(volume: Volume) -> np.ndarray:
    """Return the voxels that are looked at (a view)."""
    return volume.array[tuple(slice(None, None, step) for step in _steps(volume))]
