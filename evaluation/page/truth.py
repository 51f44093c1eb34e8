"""Measured heights and losses against the truth that phantom patients bring along.

A phantom writes `<raw>/<patient>/truth/truth.json`: of every vertebra the heights per third before and after
the fracture, and the loss. Real patients have none, and then there is nothing to compare.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.metrics import bootstrap_interval
from evaluation.page.writing import add_picture, add_table, number, with_interval
from evaluation.rhlv.figures import CLASS_COLOURS, GUIDE_COLOUR, new_figure, save_figure
from util.body_heights import THIRDS
from util.paths import read_json
from util.wording import counted, vertebrae

QUANTITIES = {  # what is compared: column of the RHLV table, key of the truth, factor to the unit shown
    "height now (mm)": ("height_original_{}_mm", "height_after_mm", 1.0),
    "height before the fracture, synthesized (mm)": ("height_synthetic_{}_mm", "height_before_mm", 1.0),
    "height loss (percentage points)": ("rhlv_{}", "loss_by_third", 100.0),
}
Comparison = dict[str, tuple[np.ndarray, np.ndarray]]  # measured and true (N, 3), anterior to posterior


def compare_with_truth(rows: Sequence[dict[str, Any]], raw: Path) -> tuple[Comparison, list[dict[str, Any]]]:
    """Return each quantity measured and true, and the rows that have a defined loss and a truth."""
    truths = [true_vertebra(row, raw) for row in rows]
    known = [(row, truth) for row, truth in zip(rows, truths, strict=True) if truth and not row["reason"]]
    compared = {}
    for title, (column, key, factor) in QUANTITIES.items():
        measured = [[row[column.format(third)] for third in THIRDS] for row, _ in known]
        compared[title] = (factor * np.array(measured, float).reshape(-1, 3),
                           factor * np.array([truth[key] for _, truth in known], float).reshape(-1, 3))
    return compared, [row for row, _ in known]


def true_vertebra(row: dict[str, Any], raw: Path) -> dict[str, Any] | None:
    """Return the truth of a row's vertebra, or None where the patient has none."""
    path = raw / row["patient"] / "truth" / "truth.json"
    if not path.is_file():
        return None
    truth: dict[str, Any] | None = read_json(path)["vertebrae"].get(str(row["label"]))
    return truth


def add_truth(compared: Comparison, rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """Draw measured against true loss, and add the section to the open page.

    Args:
        compared, rows: as `compare_with_truth` returns them; not empty.
        folder: of the report.
    """
    from dominate import tags as t

    draw_truth(folder / "truth.png", *compared["height loss (percentage points)"],
               np.array([row["grade"] for row in rows]))
    patients = [row["patient"] for row in rows]
    with t.section(id="truth"):
        t.h2("Against the known truth")
        t.p(f"{vertebrae(len(rows))} of {counted(len(set(patients)), 'phantom patient')}, whose heights "
            f"before and after the fracture are known. Mean absolute error with its 95 % interval from "
            f"resampling patients, then the mean error with its sign.")
        add_table(["", *THIRDS], [[title, *_errors(measured - true, patients)]
                                  for title, (measured, true) in compared.items()])
        add_coverage(compared["height loss (percentage points)"][1], rows)
        add_picture("truth.png", "Measured against true height loss, coloured by grade")


def add_coverage(true_percent: np.ndarray, rows: Sequence[dict[str, Any]]) -> None:
    """Add how often the interval of a loss holds the truth, where intervals are known.

    Args:
        true_percent: (N, 3) loss of the thirds in percent.
        rows: (N,) of the RHLV table; those that the intervals were made from do not count.
    """
    from dominate import tags as t

    covered, healthy = covered_losses(true_percent / 100.0, rows)
    groups = {"all": np.ones(len(covered), bool), "healthy": healthy, "fractured": ~healthy}
    counted = [(name, covered[chosen]) for name, chosen in groups.items() if chosen.any()]
    if counted:
        add_table(["share of intervals that hold the true loss (vertebrae)", *THIRDS],
                  [[f"{name} ({len(found)})", *(number(100 * share, 0, " %") for share in found.mean(axis=0))]
                   for name, found in counted])
        t.p("Only of vertebrae that the intervals were not made from.", cls="note")


def covered_losses(true: np.ndarray, rows: Sequence[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return which intervals hold the truth, (M, 3), and which vertebrae are healthy, (M,).

    Left out are vertebrae without intervals and those that the intervals were made from.

    Args:
        true: (N, 3) loss of the thirds.
        rows: (N,) of the RHLV table.
    """
    names = [[f"rhlv_{third}_{end}" for third in THIRDS] for end in ("low", "high")]
    limits = np.array([[[row.get(name, np.nan) for name in one] for one in names] for row in rows], float)
    used = np.array([bool(row.get("in_calibration", False)) for row in rows])
    kept = np.isfinite(limits).all(axis=(1, 2)) & ~used
    low, high = limits[kept].swapaxes(0, 1)                                          # (M, 3) each
    return (low <= true[kept]) & (true[kept] <= high), (true[kept] == 0.0).all(axis=1)


def _errors(errors: np.ndarray, patients: Sequence[str]) -> list[str]:
    """Return absolute and signed mean error of each third (N, 3) as text."""
    cells = []
    for third in errors.T:
        low, high = (float(limit) for limit in bootstrap_interval(np.abs(third), patients))
        absolute = with_interval(float(np.abs(third).mean()), low, high, decimals=2)
        cells.append(f"{absolute}; {number(float(third.mean()), 2)}")
    return cells


def draw_truth(path: Path, measured: np.ndarray, true: np.ndarray, grades: np.ndarray) -> None:
    """Draw measured against true height loss in percent, (N, 3) each, one panel per third."""
    figure = new_figure(10.5, 3.6)
    limits = (min(measured.min(), true.min(), -5.0) - 2, max(measured.max(), true.max(), 45.0) + 5)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for index, (axes, third) in enumerate(zip(panels, THIRDS, strict=True)):
        axes.plot(limits, limits, color=GUIDE_COLOUR, linewidth=0.8)
        for grade in range(4):
            of_grade = grades == grade
            axes.scatter(true[of_grade, index], measured[of_grade, index], s=18, color=CLASS_COLOURS[grade],
                         edgecolors="white", linewidths=0.4, label=f"grade {grade}")
        axes.set_title(third, fontsize=10)
        axes.set(xlabel="true loss (%)", xlim=limits, ylim=limits, aspect="equal")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("measured loss (%)")
    figure.axes[0].legend(frameon=False, fontsize=8, loc="upper left")
    save_figure(path, figure)
