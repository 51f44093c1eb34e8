"""Patients written over earlier ones of the same name: a run that dies leaves none that looks complete."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from phantom import fractured_patient, write_patient
from phantom.patient import Order
from phantom.virtual_fracture import Fractured
from util.paths import raw_ct, raw_mask
from util.volume import Volume, write_volume

NAME, ORDERS = "p", [Order(20, 3, 0.5)]
SMALL = Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4))


class DiskFullError(Exception):
    """What ends the run."""


def write_phantom(root: Path) -> None:
    """Write a phantom patient, whose voxels do not matter here."""
    write_patient.write_patient(root, write_patient.draw_patient(5, 0, NAME, ORDERS))


def write_virtual(root: Path) -> None:
    """Write a virtually fractured patient."""
    made = Fractured(SMALL, SMALL, {"vertebrae": {}}, SMALL)
    fractured_patient.write_fractured(root, NAME, SMALL, made)


@pytest.mark.parametrize("module, write", [
    (write_patient, write_phantom), (fractured_patient, write_virtual)], ids=["phantom", "virtual"])
def test_a_run_that_dies_leaves_no_truth_of_an_earlier_patient(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object,
        write: Callable[[Path], None]) -> None:
    def fail_at_the_mask(path: Path, volume: Volume) -> None:
        if path == raw_mask(tmp_path, NAME):
            raise DiskFullError
        write_volume(path, volume)

    monkeypatch.setattr(write_patient, "scan_spine", lambda *_: [SMALL.array] * 3)
    write(tmp_path)
    record = write_patient.truth_folder(tmp_path, NAME) / "truth.json"
    assert record.is_file() and raw_ct(tmp_path, NAME).is_file()
    monkeypatch.setattr(module, "write_volume", fail_at_the_mask)
    with pytest.raises(DiskFullError):
        write(tmp_path)
    assert raw_mask(tmp_path, NAME).is_file() and not record.exists()
    assert not write_patient.is_written(tmp_path, NAME, ORDERS)
