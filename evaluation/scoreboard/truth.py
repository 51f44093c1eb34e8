"""What is true of the benchmark's vertebrae, and how the restored bodies compare with the healthy ones.

A patient's truth is `<raw>/<patient>/truth/truth.json`, as phantoms and virtual fractures bring it. Without
it, vertebrae of grade 0 are taken as they are: they lost nothing, and their measured heights are the truth.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.scoreboard.body_overlap import overlap
from evaluation.scoreboard.course import HELD_OUT, Place
from evaluation.scoreboard.measures import GENERATOR, ROUNDING
from util.body_heights import THIRDS, own_body
from util.errors import InputError
from util.geometry import row_extent
from util.paths import (
    FileVersion,
    fake_label,
    file_version,
    is_up_to_date,
    read_json,
    straightened_label,
    visible,
    write_json,
)
from util.vertebrae import Cohort, neighbours, split_case
from util.volume import read_mask

VALUES = ("loss_by_third", "height_before_mm", "height_after_mm")  # of a vertebra's truth, three thirds each


@dataclass(frozen=True)
class Truth:
    """The truth of one vertebra; heights and losses (3,) from anterior to posterior, mm and 0..1."""

    kind: str
    loss: np.ndarray
    before_mm: np.ndarray
    after_mm: np.ndarray
    fractured_neighbours: int

    @property
    def is_healthy(self) -> bool:
        """Tell whether it lost nothing."""
        return bool(self.loss.max() < ROUNDING)


def read_truth(raw: Path, patient: str) -> dict[int, dict[str, Any]] | None:
    """Return the truth of a patient's vertebrae by label; None where there is none.

    Raises:
        InputError: the file is no record of truth.
    """
    version = file_version(raw / patient / "truth" / "truth.json")
    return _read_truth(version) if version.size >= 0 else None


@lru_cache(maxsize=8)  # patients; the cases of one come one after the other
def _read_truth(version: FileVersion) -> dict[int, dict[str, Any]]:
    """Read a record of truth."""
    path = version.path
    try:
        return {int(label): _record(one) for label, one in read_json(path)["vertebrae"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: expected 'vertebrae' with heights by label, found another form; "
                         f"write it as phantom/make_cohort.py does") from error


def _record(one: dict[str, Any]) -> dict[str, Any]:
    """Return what is needed of a vertebra's truth.

    Raises:
        KeyError, TypeError, ValueError: it is not there, or of another form.
    """
    values = {key: np.array(one[key], float) for key in VALUES}
    if any(value.shape != (len(THIRDS),) for value in values.values()):
        raise ValueError("not three values per vertebra")
    return {"kind": str(one["kind"])} | values


def truth_of(case: str, cohort: Cohort, raw: Path, measured_mm: np.ndarray) -> Truth | None:
    """Return what is true of a case; None where nobody knows: a fracture without a record.

    Args:
        case: of the cohort.
        cohort: its grades tell healthy vertebrae where there is no record.
        raw: folder of the patients.
        measured_mm: (3,) heights of the given mask, the truth of a healthy vertebra without a record.
    """
    patient, label = split_case(case)
    record = read_truth(raw, patient)
    if record is None:
        if cohort.grades[case] > 0:
            return None
        broken = {split_case(other)[1] for other, grade in cohort.grades.items()
                  if grade > 0 and split_case(other)[0] == patient}
        present = {split_case(other)[1] for other in cohort.grades if split_case(other)[0] == patient}
        return Truth("none", np.zeros(3), measured_mm, measured_mm, _beside(label, present, broken))
    if label not in record:
        return None
    one = record[label]
    broken = {other for other, values in record.items() if max(values["loss_by_third"]) > ROUNDING}
    return Truth(one["kind"], one["loss_by_third"], one["height_before_mm"], one["height_after_mm"],
                 _beside(label, set(record), broken))


def _beside(label: int, present: set[int], broken: set[int]) -> int:
    """Count the fractured neighbours."""
    return sum(other in broken for other in neighbours(label, present) if other is not None)


def shape_record(place: Place, case: str) -> Path:
    """Return the path of a case's comparison of shapes."""
    return place.out / "shapes" / f"{case}.json"


def mask_folders(place: Place) -> dict[str, Path]:
    """Return the folders that hold label_fake/ with bodies on the held-out split, by method."""
    found = visible(place.baselines(HELD_OUT), "*/label_fake") if place.has_baselines else []
    return {GENERATOR: place.out} | {path.parent.name: path.parent for path in found}


def compare_shapes(place: Place, case: str) -> str | None:
    """Compare every method's restored body with the healthy one, and write the record; return remarks.

    A vertebra that lost nothing is its own healthy body, voxel on voxel. Of another the body before the
    fracture is straightened along its own spine's curve, so centroids are brought together first.
    """
    patient, label = split_case(case)
    known = read_truth(place.raw, patient)
    lost = 0.0 if known is None else max(known.get(label, {}).get("loss_by_third", [np.nan]))
    is_healthy = lost < ROUNDING
    path = straightened_label(place.dataroot if is_healthy else place.healthy, case)
    if np.isnan(lost) or not path.is_file():
        write_json(shape_record(place, case), {"true_extent_mm": None, "methods": {}})
        return f"no body before the fracture to compare with, {path}"
    healthy = own_body(read_mask(path).array, label)
    top, bottom = row_extent(healthy)
    compared = {}
    for method, folder in mask_folders(place).items():
        if fake_label(folder, case).is_file():
            restored = own_body(read_mask(fake_label(folder, case)).array, label)
            values = overlap(restored, healthy, align=not is_healthy)
            compared[method] = [value if np.isfinite(value) else None for value in values]
    write_json(shape_record(place, case), {"true_extent_mm": bottom - top, "methods": compared})
    return None


def is_compared(place: Place, case: str) -> bool:
    """Tell whether a case's comparison holds every method, and is no older than any mask that it needs."""
    masks = {method: fake_label(folder, case) for method, folder in mask_folders(place).items()}
    sources = [*masks.values(), straightened_label(place.healthy, case),
               straightened_label(place.dataroot, case)]
    if not is_up_to_date([shape_record(place, case)], sources):
        return False
    try:
        record = read_json(shape_record(place, case))
        compared, is_comparable = set(record["methods"]), record["true_extent_mm"] is not None
    except (InputError, KeyError, TypeError):
        return False  # no record of ours: compared anew
    return not is_comparable or {method for method, mask in masks.items() if mask.is_file()} <= compared
