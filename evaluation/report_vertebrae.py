"""The report's section of single vertebrae: a table of all, and a card with pictures for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dominate import tags as t

from evaluation.report_page import MISSING, add_picture, add_table, number
from evaluation.report_style import loss_tint
from util.body_heights import THIRDS


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


def add_vertebrae(entries: Sequence[VertebraEntry]) -> None:
    """Add a table of all vertebrae, then a card for each with its pictures."""
    with t.section(id="vertebrae"):
        t.h2("Vertebrae")
        t.p("Relative height loss (RHLV) = (synthetic height − original height) / synthetic height, per "
            "third of the body, on its central slices. Largest loss first; negative means higher.")
        _add_overview(entries)
        with t.div(cls="cards"):
            for entry in entries:
                if entry.pictures:
                    _add_card(entry)


def _add_overview(entries: Sequence[VertebraEntry]) -> None:
    """Add one line per vertebra."""
    head = ("vertebra", "split", "grade", "predicted", "pattern", *THIRDS, "overall", "original", "synthetic")
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
            t.td(f"undefined: {row['reason']}", colspan="7")
            return
        t.td(row["kind"])
        for part in (*THIRDS, "overall"):
            loss = row[f"rhlv_{part}"]
            t.td(number(100 * loss, 0, " %"), cls="figure", style=loss_tint(loss))
        for body in ("original", "synthetic"):
            t.td(number(row[f"height_{body}_overall_mm"], 1, " mm"), cls="figure")


def _add_badge(grade: int) -> None:
    """Add a grade as a coloured mark."""
    t.span(f"grade {grade}", cls=f"badge grade{grade}")


def _add_card(entry: VertebraEntry) -> None:
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
            rows = [[name, *(number(row[f"height_{body}_{part}_mm"]) for part in (*THIRDS, "overall"))]
                    for name, body in (("original (mm)", "original"), ("synthetic (mm)", "synthetic"))]
            rows.append(["loss (%)", *(number(100 * row[f"rhlv_{part}"]) for part in (*THIRDS, "overall"))])
            add_table(["height", *THIRDS, "overall"], rows)
