"""Tables in and out of grading: RHLV of one plane or several, predicted grades of each vertebra."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from util.body_heights import THIRDS
from util.errors import InputError
from util.paths import atomic_path

if TYPE_CHECKING:
    import pandas as pd

FEATURES = tuple(f"rhlv_{third}" for third in THIRDS)
SCHEME_NAMES = ("genant", "merged", "fracture")  # keys of grading.SCHEMES, whose import would slow --help
KEPT_COLUMNS = ("case", "patient", "level", "split", "grade", "rule_grade", "seen_in_training")


def grading_folder(output: Path, scheme: str) -> Path:
    """Return where the results of grading into a scheme's classes lie: the first one's in grading/ itself."""
    folder = output / "grading"
    return folder if scheme == SCHEME_NAMES[0] else folder / scheme


def read_tables(paths: Sequence[Path]) -> tuple["pd.DataFrame", list[str]]:
    """Read one RHLV table, or several of the same cases (one per plane) side by side.

    Returns:
        The first table, with the features of the others added, and the names of all features; those of the
        second table end in `_2`. A feature that a further table lacks for a case is NaN.

    Raises:
        InputError: a file or a column is missing, or a case is there twice.
    """
    table, names = read_table(paths[0]), list(FEATURES)
    for number, path in enumerate(paths[1:], 2):
        renamed = {feature: f"{feature}_{number}" for feature in FEATURES}
        other = read_table(path)[["case", *FEATURES]].rename(columns=renamed)
        table = table.merge(other, on="case", how="left")
        names += renamed.values()
    return table.astype({"rule_grade": "Int64"}) if "rule_grade" in table else table, names


def read_table(path: Path, text_columns: Sequence[str] = ("case", "patient")) -> "pd.DataFrame":
    """Read and check one RHLV table.

    Args:
        path: of the CSV file.
        text_columns: read as text, whatever they hold.

    Raises:
        InputError: the file or a column is missing, or a case is there twice.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(text_columns, str))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a table of RHLV_quantification.py, found '{error}'; "
                         f"run RHLV_quantification.py first") from error
    missing = [column for column in ("case", "patient", *FEATURES) if column not in table.columns]
    if missing:
        raise InputError(f"{path}: expected the columns of RHLV_quantification.py, found none named "
                         f"{', '.join(missing)}; make the table again")
    for feature in FEATURES:
        numbers = pd.to_numeric(table[feature], errors="coerce")
        wrong = table.loc[(numbers.isna() & table[feature].notna()) | np.isinf(numbers), "case"]
        if len(wrong):
            raise InputError(f"{path}: expected numbers or empty cells in column {feature}, found others for "
                             f"{', '.join(wrong[:5])}; correct them")
    twice = table["case"][table["case"].duplicated()].unique()
    if len(twice):
        raise InputError(f"{path}: expected each case once, found {', '.join(twice[:5])} twice; remove one")
    return table


def check_gradable(table: "pd.DataFrame", path: Path) -> None:
    """Check that a table says what to fit on.

    Raises:
        InputError: it has no splits or no grades, a grade outside 0-3, or a patient in two splits.
    """
    missing = [column for column in ("split", "grade") if column not in table.columns]
    if missing:
        raise InputError(f"{path}: expected the columns split and grade to fit on, found no "
                         f"{' and no '.join(missing)}; use --apply for vertebrae without grades")
    foreign = table.loc[~table["grade"].isin(range(4)), "case"]
    if len(foreign):
        raise InputError(f"{path}: expected grades 0-3, found others for {', '.join(foreign[:5])}; "
                         f"correct them")
    splits = table.groupby("patient")["split"].nunique()
    divided = splits.index[splits > 1]
    if len(divided):
        raise InputError(f"{path}: expected each patient in one split, found {', '.join(divided[:5])} in "
                         f"several, which would judge a grader by whom it has seen; correct the splits")


def count_seen(rows: "pd.DataFrame") -> int | None:
    """Return how many of the rows the generator was trained on; None where the table does not say."""
    return int(rows["seen_in_training"].astype(bool).sum()) if "seen_in_training" in rows else None


def predictions_of(rows: "pd.DataFrame", features: Sequence[str], predicted: np.ndarray, names: Sequence[str],
                   judged_in: Sequence[str] | str) -> "pd.DataFrame":
    """Return rows with their predicted class by number and name (empty for -1) and where they were judged.

    Args:
        predicted: (N,) classes, -1 for none.
        names: of the classes.
        judged_in: (N,) 'fold 1', ..., or one for all.
    """
    import pandas as pd

    kept = rows[[column for column in KEPT_COLUMNS if column in rows]].copy()
    classes = [int(value) if value >= 0 else None for value in predicted]
    kept["predicted_class"] = pd.array(classes, dtype="Int64")
    kept["predicted"] = [names[value] if value >= 0 else "" for value in predicted]
    kept["judged_in"] = judged_in
    return kept.join(rows[list(features)])


def write_predictions(path: Path, parts: Sequence["pd.DataFrame"]) -> None:
    """Write predicted classes as CSV, atomically."""
    import pandas as pd

    filled = [part for part in parts if len(part)]
    with atomic_path(path) as temporary:
        pd.concat(filled or parts[:1]).to_csv(temporary, index=False, float_format="%.4f")
