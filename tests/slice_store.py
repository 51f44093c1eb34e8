"""What tests of the store of cut slices share: its cases, its cutter, and what is cut again."""

from pathlib import Path

import numpy as np
import pytest
from box_spine import BoxCohort

from data.aligned_dataset import VertebraSlices
from data.slice_files import SliceCutter
from data.slice_reading import read_stored
from util.paths import straightened_ct
from util.vertebrae import read_cohort
from util.volume import read_volume, write_volume

CASES = ["p0_19", "p0_20", "p1_19", "p1_20", "p2_19", "p2_20"]  # of train and test


def cutter_of(boxes: BoxCohort) -> SliceCutter:
    """What training makes of its flags."""
    return SliceCutter(boxes.dataroot, boxes.heatmaps, "sagittal", 128,
                       read_cohort(boxes.path).fractured())


def assert_same(one: VertebraSlices, other: VertebraSlices) -> None:
    """Compare vertebrae to the last bit."""
    assert (one.case, one.top, one.bottom) == (other.case, other.top, other.bottom)
    for name in ("images", "distance", "measures_mm"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype and np.array_equal(first, second), name


def cut_again(boxes: BoxCohort, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Read the cohort from a store; return what was cut for it, after a look at how it came back."""
    cut: list[str] = []
    real = SliceCutter.cut
    with monkeypatch.context() as patch:
        patch.setattr(SliceCutter, "cut", lambda cutter, case: cut.append(case) or real(cutter, case))
        read = read_stored(CASES, cutter_of(boxes), folder, jobs=1)
    assert not read.problems and set(read.vertebrae) == set(CASES)
    for case in cut:
        assert_same(read.vertebrae[case], cutter_of(boxes).cut(case))
    return cut


def change_ct(boxes: BoxCohort) -> None:
    """Another grey level in one voxel of p0_20."""
    path = straightened_ct(boxes.dataroot, "p0_20")
    volume = read_volume(path)
    volume.array[128, 128, 32] ^= 1
    write_volume(path, volume)
