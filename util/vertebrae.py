"""Vertebrae: labels, neighbours, cases, and the cohort file."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from util.errors import InputError
from util.paths import json_text, read_json, set_aside, write_json

# VerSe's numbering. L6 and T13 come last there, so anatomy, not arithmetic, says who is whose neighbour.
LABELS: dict[int, str] = (
    {i: f"C{i}" for i in range(1, 8)}
    | {i + 7: f"T{i}" for i in range(1, 13)}
    | {i + 19: f"L{i}" for i in range(1, 7)}
    | {28: "T13"}
)
ANATOMICAL_ORDER: tuple[int, ...] = (*range(1, 20), 28, *range(20, 26))
OPTIONAL_LABELS = (28, 25)  # T13 and L6 exist in a few people only
SPLITS = ("train", "test", "val")
PATH_KEYS = ("raw", "straightened", "heatmap")
GRADES = (0, 1, 2, 3)


def label_name(label: int) -> str:
    """Return the anatomical name, e.g. 20 -> 'L1'."""
    return LABELS[label]


def named_label(label: int) -> str:
    """Return name and label as messages say them, e.g. 20 -> 'L1 (label 20)'."""
    return f"{label_name(label)} (label {label})"


def neighbours(label: int, present: Collection[int]) -> tuple[int | None, int | None]:
    """Return the upper and lower neighbour of a vertebra among those present.

    T13 and L6 are stepped over where they do not exist; any other missing vertebra leaves no neighbour.
    """
    return _step(label, present, -1), _step(label, present, +1)


def _step(label: int, present: Collection[int], direction: int) -> int | None:
    """Return the adjacent vertebra in one direction, if it is present."""
    position = ANATOMICAL_ORDER.index(label) + direction
    while 0 <= position < len(ANATOMICAL_ORDER):
        candidate = ANATOMICAL_ORDER[position]
        if candidate in present:
            return candidate
        if candidate not in OPTIONAL_LABELS:
            return None
        position += direction
    return None


def case_name(patient: str, label: int) -> str:
    """Return the name of a case, '<patient>_<label>'."""
    return f"{patient}_{label}"


def split_case(case: str) -> tuple[str, int]:
    """Split a case at its last underscore into patient and label.

    Raises:
        InputError: the name has another form or another label than VerSe's, or names another folder.
    """
    problem = case_problem(case)
    if problem:
        raise InputError(f"{problem}; correct the name")
    patient, _, label = case.rpartition("_")
    return patient, int(label)


def case_problem(case: str) -> str | None:
    """Return what is wrong with the name of a case, if anything."""
    patient, _, label = case.rpartition("_")
    if not patient or "/" in patient or not label.isdecimal() or int(label) not in LABELS:
        return f"case '{case}': expected <patient>_<VerSe label 1-25 or 28>"
    return None


@dataclass(frozen=True)
class Cohort:
    """The one list of cases: Genant grade of each, by split; and where the files lie."""

    path: Path
    splits: dict[str, dict[str, int]]
    paths: dict[str, str] = field(default_factory=dict)

    @cached_property
    def grades(self) -> dict[str, int]:
        """Grade of every case of every split."""
        return {case: grade for cases in self.splits.values() for case, grade in cases.items()}

    @cached_property
    def grades_of_patients(self) -> dict[str, dict[int, int]]:
        """Grade of every vertebra by patient, then by label."""
        patients: dict[str, dict[int, int]] = {}
        for case, grade in self.grades.items():
            patient, label = split_case(case)
            patients.setdefault(patient, {})[label] = grade
        return patients

    def fractured(self, healthy_max_grade: int = 0) -> dict[str, set[int]]:
        """Return the labels graded above what counts as healthy, of each patient who has any."""
        found = {patient: {label for label, grade in grades.items() if grade > healthy_max_grade}
                 for patient, grades in self.grades_of_patients.items()}
        return {patient: labels for patient, labels in found.items() if labels}

    def split_of(self, case: str) -> str:
        """Return the split that holds a case."""
        return next(split for split, cases in self.splits.items() if case in cases)

    def cases(self, split: str | None = None) -> list[str]:
        """Return the cases of a split, or of all.

        Raises:
            InputError: the split is not in the file or holds no case, or no split does.
        """
        if split is None:
            if not self.grades:
                raise InputError(f"{self.path}: expected cases, found none in any split; add them")
            return list(self.grades)
        if not self.splits.get(split):
            raise InputError(f"{self.path}: expected cases in split '{split}', found none "
                             f"(splits: {', '.join(self.splits) or 'none'}); add them or choose another")
        return list(self.splits[split])

    def patients(self, split: str | None = None) -> list[str]:
        """Return the patients of a split, or of all, in order of appearance."""
        return list(dict.fromkeys(split_case(case)[0] for case in self.cases(split)))


def read_cohort(path: str | Path) -> Cohort:
    """Read and check a cohort file.

    Raises:
        InputError: one line that lists every problem: an unknown key, a case name of another form, a
            grade outside 0-3, a patient in two splits.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object with the keys train, test, val, found "
                         f"{type(content).__name__}; see vertebra_data.json")
    problems = _cohort_problems(content)
    if problems:
        raise InputError(f"{path}: {'; '.join(problems)}; correct the file")
    splits = {split: {case: int(grade) for case, grade in content[split].items()}
              for split in SPLITS if split in content}
    return Cohort(Path(path), splits, dict(content.get("paths", {})))


def _cohort_problems(content: dict[str, Any]) -> list[str]:
    """Return every fault of a cohort file's content."""
    problems = [f"expected splits {', '.join(SPLITS)} and 'paths', found '{key}'"
                for key in content if key not in (*SPLITS, "paths")]
    if not any(split in content for split in SPLITS):
        problems.append(f"expected at least one split of {', '.join(SPLITS)}, found none")
    paths = content.get("paths", {})
    if not isinstance(paths, dict) or not all(key in PATH_KEYS and isinstance(value, str)
                                              for key, value in paths.items()):
        problems.append(f"'paths': expected folders for {', '.join(PATH_KEYS)}, found {paths!r}")
    homes: dict[str, set[str]] = {}
    for split in SPLITS:
        cases = content.get(split, {})
        if not isinstance(cases, dict):
            problems.append(f"split '{split}': expected {{case: grade}}, found {type(cases).__name__}")
            continue
        for case, grade in cases.items():
            problems += _case_problems(split, case, grade)
            homes.setdefault(case.rpartition("_")[0], set()).add(split)
    problems += [f"patient '{patient}': expected in one split, found in {', '.join(sorted(found))}"
                 for patient, found in homes.items() if len(found) > 1]
    return problems


def _case_problems(split: str, case: str, grade: Any) -> list[str]:
    """Return the faults of one entry of a split."""
    problem = case_problem(case)
    problems = [f"split '{split}', {problem}"] if problem else []
    if isinstance(grade, bool) or grade not in GRADES:
        problems.append(f"split '{split}', case '{case}': expected a Genant grade 0-3, found {grade!r}")
    return problems


def write_cohort(path: str | Path, cohort: Cohort) -> None:
    """Write a cohort file. Another one of that name, which may be edited by hand, is kept beside it."""
    content = ({"paths": cohort.paths} if cohort.paths else {}) | cohort.splits
    target = Path(path)
    if target.is_file() and target.read_bytes() != json_text(content).encode():
        print(f"an earlier cohort of this name is kept as {set_aside(target)}")
    write_json(target, content)


def healthy_labels(cohort: Cohort, patient: str, present: Collection[int], max_grade: int = 0) -> set[int]:
    """Return the labels of a patient's vertebrae that are not graded above `max_grade`."""
    grades = cohort.grades_of_patients.get(patient, {})
    return {label for label in present if grades.get(label, 0) <= max_grade}


def grade_counts(cohort: Cohort, split: str) -> Counter[int]:
    """Return how many cases of each grade a split holds."""
    return Counter(cohort.splits.get(split, {}).values())
