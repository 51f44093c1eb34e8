"""What is asked of straightening: folders, patients, vertebrae; and what of it is complete."""

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from util.errors import InputError
from util.paths import (
    geometry_path,
    is_up_to_date,
    raw_centroids,
    raw_ct,
    raw_mask,
    read_json,
    straightened_ct,
    straightened_label,
    visible,
)
from util.vertebrae import LABELS, case_name, named_label, read_cohort, split_case

COHORT = Path("vertebra_data.json")


def folder_of(flag: str | None, cohort: str | None, key: str) -> str:
    """Return a folder: the flag's; where it is not given the cohort's path of that key, else dataset/<key>.

    Args:
        flag: what was given, if anything.
        cohort: its file; without one vertebra_data.json, where there is such a file.
        key: `raw` or `straightened`.

    Raises:
        InputError: the cohort file is missing or faulty.
    """
    if flag is not None:
        return flag
    paths = read_cohort(cohort or COHORT).paths if cohort or COHORT.is_file() else {}
    return paths.get(key, f"dataset/{key}")


def raw_patients(raw: str | Path, cohort: str | Path | None) -> list[str]:
    """Return the patients of a cohort, or those of the raw folder that have a mask.

    Raises:
        InputError: the folder holds none.
    """
    if cohort is not None:
        return read_cohort(cohort).patients()
    folders = [folder.name for folder in visible(raw, "*") if folder.is_dir()]
    patients = [name for name in folders if raw_mask(raw, name).is_file()]
    if not patients:
        raise InputError(f"--raw {raw}: expected folders <p>/ with <p>_msk.nii.gz, found none; "
                         f"check the path or make a cohort with phantom/make_cohort.py")
    return patients


@dataclass(frozen=True)
class Request:
    """What to straighten.

    Attributes:
        raw, out: folders.
        cohort_labels: labels that a cohort names, by patient; None without a cohort.
        labels: only these; None for all.
        labels_only: there is no CT.
    """

    raw: str
    out: str
    cohort_labels: dict[str, set[int]] | None
    labels: Collection[int] | None
    labels_only: bool

    @property
    def patients(self) -> list[str]:
        """Return the patients asked for.

        Raises:
            InputError: there is none.
        """
        if self.cohort_labels is None:
            return raw_patients(self.raw, None)
        demanding = [patient for patient in self.cohort_labels if self.demanded(patient)]
        if not demanding:
            raise InputError(f"--labels {' '.join(map(str, self.labels or ()))}: expected labels of cases in "
                             f"--cohort, found none of them there; choose others")
        return demanding

    def lacking(self, patient: str) -> set[int]:
        """Return which of `labels` a patient lacks, in the cohort or else in the file of centroids."""
        there = (located_labels(self.raw, patient) if self.cohort_labels is None
                 else self.cohort_labels[patient])
        return set() if there is None else set(self.labels or ()) - there

    def demanded(self, patient: str) -> set[int]:
        """Return the labels that must be there: those that the cohort names."""
        named = (self.cohort_labels or {}).get(patient, set())
        return named if self.labels is None else named & set(self.labels)

    def chosen(self, patient: str, located: Collection[int]) -> set[int]:
        """Return the labels to straighten, given those with a centroid."""
        if self.cohort_labels is not None:
            return self.demanded(patient)
        return set(located) if self.labels is None else set(located) & set(self.labels)


def cohort_labels(cohort: str | Path | None) -> dict[str, set[int]] | None:
    """Return the labels that a cohort file names, by patient; None without a file."""
    if cohort is None:
        return None
    labels: dict[str, set[int]] = {}
    for case in read_cohort(cohort).cases():
        patient, label = split_case(case)
        labels.setdefault(patient, set()).add(label)
    return labels


def located_labels(raw: str | Path, patient: str) -> set[int] | None:
    """Return the labels of a patient's centroid file; None where there is none that can be read."""
    try:
        return set(LABELS) & {entry.get("label") for entry in read_json(raw_centroids(raw, patient))}
    except (InputError, AttributeError, TypeError):
        return None  # the work itself says what is wrong


def having_labels(request: Request) -> list[str]:
    """Return the patients that have any of the labels asked for, and say what each lacks of them.

    Raises:
        InputError: there is none.
    """
    patients = request.patients
    if request.labels is None:
        return patients
    wanted = set(request.labels)
    lacking = {patient: request.lacking(patient) for patient in request.cohort_labels or patients}
    if all(labels == wanted for labels in lacking.values()):
        raise InputError(f"--labels {' '.join(map(str, sorted(wanted)))}: expected vertebrae located in "
                         f"{request.raw}, found none of them in any centroid file; choose others")
    for patient, labels in lacking.items():
        if labels:
            place = raw_centroids(request.raw, patient) if request.cohort_labels is None else "--cohort"
            names = ", ".join(map(named_label, sorted(labels)))
            print(f"{patient}: expected {names} of --labels, found none in {place}", file=sys.stderr)
    return [patient for patient in patients if lacking[patient] != wanted]


def is_complete(request: Request, patient: str) -> bool:
    """Tell whether everything asked for of a patient is written, and none of it older than the scan."""
    centroids, located = raw_centroids(request.raw, patient), located_labels(request.raw, patient)
    if located is None:
        return False
    cases = [case_name(patient, label) for label in request.chosen(patient, located)]
    made = [straightened_label(request.out, case) for case in cases]
    made += [] if request.labels_only else [straightened_ct(request.out, case) for case in cases]
    sources = [centroids, raw_mask(request.raw, patient)]
    sources += [] if request.labels_only else [raw_ct(request.raw, patient)]
    return is_up_to_date([*made, geometry_path(request.out, patient)], sources)
