"""What the stages left in the output folder, as the report needs it; nothing of a stage that was not run."""

import math
from pathlib import Path
from typing import Any

from evaluation.grading_table import SCHEME_NAMES, grading_folder
from util.body_heights import THIRDS
from util.errors import InputError
from util.paths import read_json

TEXT_COLUMNS = ("case", "patient", "kind", "reason")


def read_if_there(path: Path) -> Any:
    """Return a JSON file's content, or None where there is no file."""
    return read_json(path) if path.is_file() else None


def read_rows(output: Path) -> list[dict[str, Any]]:
    """Return the rows of the RHLV table, largest loss first, undefined last; none without a table."""
    from evaluation.grading_table import read_table

    path = output / "RHLV" / "rhlv.csv"
    if not path.is_file():
        return []
    table = read_table(path, TEXT_COLUMNS).fillna({"reason": "", "kind": ""})
    rows: list[dict[str, Any]] = table.to_dict("records")  # type: ignore[assignment]  # its keys are text
    return sorted(rows, key=_largest_loss, reverse=True)


def _largest_loss(row: dict[str, Any]) -> float:
    """Return the largest loss of a row's thirds; below every number where one is undefined."""
    losses = [row[f"rhlv_{third}"] for third in THIRDS]
    return max(losses) if all(math.isfinite(loss) for loss in losses) else -math.inf


def read_gradings(output: Path) -> list[tuple[Any, Path]]:
    """Return metrics and folder of every grading that was done, in the order of `SCHEME_NAMES`."""
    folders = [grading_folder(output, scheme) for scheme in SCHEME_NAMES]
    found = ((read_if_there(folder / "metrics.json"), folder) for folder in folders)
    return [(metrics, folder) for metrics, folder in found if metrics]


def read_predictions(output: Path) -> dict[str, tuple[str, str]]:
    """Return predicted class and where it was judged, of each graded case; empty without grading.

    Of several gradings, the first that `SCHEME_NAMES` names counts.
    """
    import pandas as pd

    paths = [grading_folder(output, scheme) / "predictions.csv" for scheme in SCHEME_NAMES]
    path = next(filter(Path.is_file, paths), None)
    if path is None:
        return {}
    try:
        table = pd.read_csv(path, dtype=str).dropna(subset=["predicted"])
        return {case: (predicted, judged_in) for case, predicted, judged_in
                in zip(table["case"], table["predicted"], table["judged_in"].fillna(""), strict=True)}
    except (ValueError, KeyError) as error:
        raise InputError(f"{path}: expected the grades of SVM_grading.py, found another table ({error}); "
                         f"run SVM_grading.py again") from error
