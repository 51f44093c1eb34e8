"""What is asked of straightening: folders, patients, vertebrae; and what of it is complete."""

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
from util.vertebrae import LABELS, case_name, read_cohort, split_case


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


def is_complete(request: Request, patient: str) -> bool:
    """Tell whether everything asked for of a patient is written, and none of it older than the scan."""
    centroids = raw_centroids(request.raw, patient)
    if not centroids.is_file():
        return False
    try:
        located = {entry.get("label") for entry in read_json(centroids)}
    except (InputError, AttributeError, TypeError):
        return False  # the work itself says what is wrong
    cases = [case_name(patient, label) for label in request.chosen(patient, located & set(LABELS))]
    made = [straightened_label(request.out, case) for case in cases]
    made += [] if request.labels_only else [straightened_ct(request.out, case) for case in cases]
    sources = [centroids, raw_mask(request.raw, patient)]
    sources += [] if request.labels_only else [raw_ct(request.raw, patient)]
    return is_up_to_date([*made, geometry_path(request.out, patient)], sources)
