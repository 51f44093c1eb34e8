"""The report's section of single vertebrae: a table of all, and a card with pictures for each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dominate import tags as t

from evaluation.page.style import loss_tint
from evaluation.page.writing import MISSING, add_picture, add_table, number
from evaluation.rhlv.table import GRADE_COLUMNS, PARTS
from util.body_heights import THIRDS
from util.wording import counted, vertebrae


@dataclass(frozen=True)
class VertebraEntry:
    """One vertebra of the report.

    Attributes:
        row: its row of the RHLV table.
        predicted: name of the predicted class, empty without one.
        judged_in: the fold, or the hold-out, in which it was predicted.
        pictures: caption and file of each picture, relative to the page.
    """

    row: dict[str, Any]
    predicted: str
    judged_in: str
    pictures: list[tuple[str, str]]


def add_vertebrae(entries: Sequence[VertebraEntry], calibration: dict[str, Any] | None = None) -> None:
    """Add a table of all vertebrae, then a card for each with its pictures.

    Args:
        entries: one per vertebra.
        calibration: content of RHLV/calibration.json; None where losses have no interval.
    """
    with t.section(id="vertebrae"):
        t.h2("Vertebrae")
        t.p("Relative height loss (RHLV) = (synthetic height − original height) / synthetic height, per "
            "third of the body, on its central slices. Largest loss first; negative means higher.")
        if calibration:
            t.p(_explanation(calibration), cls="note")
        _add_overview(entries)
        with t.div(cls="cards"):
            for entry in entries:
                if entry.pictures:
                    _add_card(entry, calibration)


def _explanation(calibration: dict[str, Any]) -> str:
    """Return where the intervals come from."""
    return (f"Under each loss its {_percent(calibration)} interval, from "
            f"{vertebrae(calibration['vertebrae'], 'healthy')} of "
            f"{counted(calibration['patients'], 'patient')} ({calibration['cohort']}), taken to have lost "
            f"nothing. It lies about the calibrated loss, which is freed from their median error; P is the "
            f"probability that the Genant grade is at least 1, 2, 3.")


def _percent(calibration: dict[str, Any]) -> str:
    """Return the intervals' level as text."""
    return f"{100 * calibration['level']:g} %"


def _add_overview(entries: Sequence[VertebraEntry]) -> None:
    """Add one line per vertebra."""
    head = ("vertebra", "split", "grade", "predicted", "pattern", *THIRDS, "overall", "P ≥ 1, 2, 3",
            "original", "synthetic")
    with t.div(cls="scroll tall"), t.table():
        with t.thead(), t.tr():
            for index, name in enumerate(head):
                t.th(name, cls="figure" if index >= 5 else "")
        with t.tbody():
            for entry in entries:
                _add_overview_row(entry)


def _add_overview_row(entry: VertebraEntry) -> None:
    """Add the line of one vertebra; a reason in place of numbers where its loss is undefined."""
    row = entry.row
    with t.tr():
        with t.td():
            anchor = row["case"] if entry.pictures else "vertebrae"
            t.a(f"{row['patient']} {row['level']}", href=f"#{anchor}")
        t.td(row["split"] + (", seen in training" if row["seen_in_training"] else ""))
        with t.td():
            _add_badge(row["grade"])
        t.td(entry.predicted or MISSING)
        if row["reason"]:
            t.td(f"undefined: {row['reason']}", colspan="8")
            return
        t.td(row["kind"])
        for part in PARTS:
            loss = row[f"rhlv_{part}"]
            with t.td(number(100 * loss, 0, " %"), cls="figure", style=loss_tint(loss)):
                if interval := _interval(row, part):
                    t.div(interval, cls="interval")
        t.td(_grade_probabilities(row), cls="figure")
        for body in ("original", "synthetic"):
            t.td(number(row[f"height_{body}_overall_mm"], 1, " mm"), cls="figure")


def _interval(row: dict[str, Any], part: str) -> str:
    """Return the interval of a part's loss in percent as text; empty where the table has none."""
    low, high = (row.get(f"rhlv_{part}_{end}", math.nan) for end in ("low", "high"))
    return f"{number(100 * low, 0)} to {number(100 * high, 0)}" if math.isfinite(low) else ""


def _grade_probabilities(row: dict[str, Any]) -> str:
    """Return the probabilities of grades 1, 2, 3 or higher as text."""
    values = [row.get(column, math.nan) for column in GRADE_COLUMNS]
    return ", ".join(number(value, 2) for value in values) if math.isfinite(values[0]) else MISSING


def _add_badge(grade: int) -> None:
    """Add a grade as a coloured mark."""
    t.span(f"grade {grade}", cls=f"badge grade{grade}")


def _add_card(entry: VertebraEntry, calibration: dict[str, Any] | None) -> None:
    """Add the card of a vertebra: grades, pictures, heights."""
    row = entry.row
    with t.article(id=row["case"], cls="card"):
        with t.h3():
            t.span(f"{row['patient']}  {row['level']}")
            _add_badge(row["grade"])
            if entry.predicted:
                t.small(f"predicted {entry.predicted} ({entry.judged_in})")
        with t.div(cls="pictures"):
            for caption, source in entry.pictures:
                add_picture(source, caption)
        if not row["reason"]:
            add_table(["height", *THIRDS, "overall"], _card_rows(row, calibration))
            if calibration:
                t.p(f"P(grade ≥ 1, 2, 3) = {_grade_probabilities(row)}", cls="note")


def _card_rows(row: dict[str, Any], calibration: dict[str, Any] | None) -> list[list[str]]:
    """Return heights and loss of each part, and the loss's interval where there is one."""
    rows = [[name, *(number(row[f"height_{body}_{part}_mm"]) for part in PARTS)]
            for name, body in (("original (mm)", "original"), ("synthetic (mm)", "synthetic"))]
    rows.append(["loss (%)", *(number(100 * row[f"rhlv_{part}"]) for part in PARTS)])
    if calibration:
        rows.append(["calibrated loss (%)",
                     *(number(100 * row[f"rhlv_calibrated_{part}"]) for part in PARTS)])
        rows.append([f"{_percent(calibration)} interval (%)", *(_interval(row, part) for part in PARTS)])
    return rows
