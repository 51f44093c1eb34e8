"""Genant grades from JSON or CSV tables, in the forms that such tables come in."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from util.errors import InputError
from util.paths import read_json
from util.vertebrae import GRADES, LABELS, SPLITS, case_name, case_problem, split_case

PATIENT_COLUMNS = ("patient", "subject", "case", "scan", "id")
LABEL_COLUMNS = ("label", "vertebra", "level")
NAMES = {name: label for label, name in LABELS.items()}
# of a wide table: L1, L1_g, L1_grade, L1_fx-g, L1_fracture_grade; L1_fx-m (the kind of fracture) is none
WIDE_COLUMN = re.compile(r"([CTL]\d{1,2})([\s_-]*(fx|frac|fracture|genant)?[\s_-]*(g|grade|grading))?", re.I)


@dataclass(frozen=True)
class GradeTable:
    """Grades by case, and the split of each where the table has splits."""

    grades: dict[str, int]
    splits: dict[str, str]

    @property
    def patients(self) -> set[str]:
        """Return the patients that the table knows."""
        return {split_case(case)[0] for case in self.grades}


def read_grades(path: str | Path) -> GradeTable:
    """Read grades from a JSON or CSV file.

    JSON: {"train": {case: grade}, ...}, whose splits are kept, or {case: grade}. CSV: columns patient, label,
    grade and perhaps split; or one row per patient and a column per vertebra (C1..L6).

    Raises:
        InputError: one line with every row that is wrong.
    """
    table, problems = _from_json(path) if str(path).endswith(".json") else _from_csv(path)
    problems += _torn_patients(table)
    if not table.grades and not problems:
        problems = ["expected grades, found none"]
    if problems:
        shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise InputError(f"--grades {path}: {shown}; correct the file")
    return table


def _torn_patients(table: GradeTable) -> list[str]:
    """Return a line for every patient with vertebrae in several splits: the networks would have seen him."""
    homes: dict[str, set[str]] = {}
    for case, split in table.splits.items():
        homes.setdefault(split_case(case)[0], set()).add(split)
    return [f"patient '{patient}': expected in one split, found in {', '.join(sorted(splits))}"
            for patient, splits in homes.items() if len(splits) > 1]


def _from_json(path: str | Path) -> tuple[GradeTable, list[str]]:
    """Return grades of a JSON file and what is wrong with it."""
    content = read_json(path)
    table, problems = GradeTable({}, {}), list[str]()
    if not isinstance(content, dict):
        return table, [f"expected an object, found {type(content).__name__}"]
    if any(isinstance(value, dict) for value in content.values()):
        for split, cases in content.items():
            if split in SPLITS and isinstance(cases, dict):
                for case, grade in cases.items():
                    _add(table, problems, case, grade, split)
            elif split != "paths":
                problems.append(f"expected splits {', '.join(SPLITS)}, found '{split}'")
    else:
        for case, grade in content.items():
            _add(table, problems, case, grade, None)
    return table, problems


def _from_csv(path: str | Path) -> tuple[GradeTable, list[str]]:
    """Return grades of a CSV file and what is wrong with it."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--grades {path}: expected a CSV or JSON file, found one that cannot be read "
                         f"({error}); check the path") from error
    separator = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    rows: list[dict[str, str]] = list(csv.DictReader(text.splitlines(), delimiter=separator,
                                                     restkey="(beyond)", restval=""))
    columns = {name.strip().lower(): name for name in (rows[0] if rows else {})}
    patient = next((columns[name] for name in columns if any(key in name for key in PATIENT_COLUMNS)), None)
    if patient is None:
        return GradeTable({}, {}), [f"expected a column 'patient', found {sorted(columns) or 'none'}"]
    label = next((columns[name] for name in LABEL_COLUMNS if name in columns), None)
    if label is not None and "grade" in columns:
        return _from_long(rows, patient, label, columns["grade"], columns.get("split"))
    return _from_wide(rows, patient)


def _from_long(rows: list[dict[str, str]], patient: str, label: str, grade: str,
               split: str | None) -> tuple[GradeTable, list[str]]:
    """Return grades of a table with one row per vertebra."""
    table, problems = GradeTable({}, {}), list[str]()
    for row in rows:
        name = (row[label] or "").strip()
        number = NAMES.get(name.upper(), name)
        _add(table, problems, f"{patient_name(row[patient])}_{number}", row[grade],
             (row[split] or "").strip() if split else None)
    return table, problems


def _from_wide(rows: list[dict[str, str]], patient: str) -> tuple[GradeTable, list[str]]:
    """Return grades of a table with one row per patient and one column per vertebra."""
    found = {column: WIDE_COLUMN.fullmatch(column.strip()) for column in rows[0]}
    labels = {column: NAMES[match.group(1).upper()] for column, match in found.items()
              if match and match.group(1).upper() in NAMES}
    table, problems = GradeTable({}, {}), list[str]()
    if not labels:
        problems.append(f"expected columns label and grade, or one per vertebra (T1..L5), "
                        f"found {list(rows[0])}")
    split = next((column for column in rows[0] if column.strip().lower() in ("split", "subset")), None)
    for row in rows:
        for column, label in labels.items():
            value = (row[column] or "").strip()
            if value and value.lower() not in ("nan", "na", "-"):
                _add(table, problems, case_name(patient_name(row[patient]), label), value,
                     (row[split] or "").strip() if split else None)
    return table, problems


def patient_name(value: str | None) -> str:
    """Return a patient's name from a table's cell; VerSe's tables give bare numbers."""
    text = (value or "").strip()
    return f"sub-verse{int(text):03d}" if text.isdecimal() else text


def _add(table: GradeTable, problems: list[str], case: str, grade: Any, split: str | None) -> None:
    """Add one grade to a table, or what is wrong with it to the problems."""
    split = {"training": "train", "validation": "val"}.get(split, split) if split else split
    try:
        number = float(grade)
    except (TypeError, ValueError):
        problems.append(f"{case}: expected a Genant grade 0-3, found {grade!r}")
        return
    problem = case_problem(case)
    if problem:
        problems.append(problem)
    elif number not in GRADES or isinstance(grade, bool):
        problems.append(f"{case}: expected a Genant grade 0-3, found {grade!r}")
    elif split is not None and split not in SPLITS:
        problems.append(f"{case}: expected a split of {', '.join(SPLITS)}, found '{split}'")
    elif table.grades.get(case, int(number)) != int(number):
        problems.append(f"{case}: expected one grade, found {table.grades[case]} and {int(number)}")
    else:
        table.grades[case] = int(number)
        if split is not None:
            table.splits[case] = split
