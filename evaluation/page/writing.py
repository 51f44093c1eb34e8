"""The report as HTML: one function per section, each taking plain numbers and names of pictures."""

import math
from collections.abc import Sequence
from typing import Any

from dominate import document
from dominate import tags as t
from dominate.util import raw

from evaluation.page.style import STYLE
from util.wording import counted, vertebrae

NOTICE = ("Research software, not a medical device. Nothing on this page may guide the care of a patient. "
          "Figures from phantom spines show that the program measures what it says it measures; "
          "they are not clinical results.")
METRIC_TITLES = {"macro_precision": "macro precision", "macro_recall": "macro recall", "macro_f1": "macro F1",
                 "weighted_kappa": "weighted kappa (linear)"}
MISSING = "–"


def new_page(title: str) -> document:
    """Return an empty page with its style and the notice."""
    page = document(title=title)
    page.set_attribute("lang", "en")
    with page.head:
        t.meta(charset="utf-8")
        t.meta(name="viewport", content="width=device-width, initial-scale=1")
        t.style(raw(STYLE))  # escaping would break its quotes
    return page


def main_part() -> t.main:
    """Return the element that holds the sections, for a `with` block."""
    return t.main()


def number(value: float | None, decimals: int = 1, unit: str = "") -> str:
    """Return a number as text, or a dash where it is undefined."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.{decimals}f}{unit}".replace("-", "−")


def with_interval(value: float | None, low: float | None, high: float | None, decimals: int = 3) -> str:
    """Return a value with its interval as text."""
    if value is None:
        return "undefined"
    if low is None or not math.isfinite(low):
        return number(value, decimals)
    return f"{number(value, decimals)} ({number(low, decimals)} to {number(high, decimals)})"


def add_header(title: str, description: str, tiles: Sequence[tuple[str, str]]) -> None:
    """Add the page's head: title, what was run, the most important figures, the notice."""
    with t.header():
        t.h1(title)
        t.p(description, cls="lead")
        with t.div(cls="tiles"):
            for value, name in tiles:
                with t.div(cls="tile"):
                    t.div(value, cls="value")
                    t.div(name, cls="name")
        t.p(NOTICE, cls="notice")


def add_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """Add a table; the first column is text, the others are numbers."""
    with t.div(cls="scroll"), t.table():
        if caption:
            t.caption(caption)
        with t.thead(), t.tr():
            for index, name in enumerate(head):
                t.th(name, cls="" if index == 0 else "figure")
        with t.tbody():
            for row in rows:
                with t.tr():
                    for index, cell in enumerate(row):
                        t.td(cell, cls="" if index == 0 else "figure")


def add_cohort(counts: dict[str, dict[int, int]], patients: dict[str, int]) -> None:
    """Add how many patients and vertebrae of each grade every split holds."""
    with t.section(id="cohort"):
        t.h2("Cohort")
        rows = [[split, str(patients[split]), *(str(of_grade.get(grade, 0)) for grade in range(4)),
                 str(sum(of_grade.values()))] for split, of_grade in counts.items()]
        add_table(["split", "patients", "grade 0", "grade 1", "grade 2", "grade 3", "vertebrae"], rows)
        t.p("Train fits the networks, test chooses among them, val is the hold-out.", cls="note")


def add_generation(summary: dict[str, Any], titles: dict[str, str]) -> None:
    """Add how well healthy vertebrae were restored: mean and interval of each measure."""
    with t.section(id="generation"):
        t.h2("Synthesis of healthy vertebrae")
        t.p(f"{vertebrae(summary['vertebrae'], 'healthy')} of {counted(summary['patients'], 'patient')} "
            f"(split {summary['split']}), synthesized and compared with themselves. Mean and 95 % interval "
            f"from resampling patients.")
        rows = [[titles.get(name, name), with_interval(found["mean"], found["low"], found["high"])]
                for name, found in summary["measures"].items()]
        add_table(["measure", "mean (95 % interval)"], rows)


def add_grading(report: dict[str, Any], scatter: str | None, name: str) -> None:
    """Add metrics, confusion matrices and the scatter of losses; the section's id is `name`."""
    crossed, held, rule = report["cross_validation"], report["holdout"], report["rule"]
    columns = [("cross-validation", crossed if crossed["folds"] else None), ("hold-out", held),
               ("Genant limits alone, fitting part", rule["fitting"]),
               ("Genant limits alone, hold-out", rule["holdout"])]
    columns = [(name, judged) for name, judged in columns if judged]
    with t.section(id=name):
        t.h2(f"Grading by relative height loss: {', '.join(report['classes'])}")
        t.p(f"Linear support vector machine on {len(report['features'])} features, height loss per third. "
            f"Fitted on {' and '.join(report['fit_splits'])}, hold-out {report['holdout_split']}. "
            f"95 % intervals from resampling patients.")
        rows = [[title, *(with_interval(*(judged["metrics"][name][key] for key in ("value", "low", "high")))
                          for _, judged in columns)] for name, title in METRIC_TITLES.items()]
        counted = ["vertebrae (patients)", *(f"{judged['vertebrae']} ({judged['patients']})"
                                             for _, judged in columns)]
        add_table(["", *(name for name, _ in columns)], [counted, *rows])
        for note in report["notes"]:
            t.p(f"Note: {note}.", cls="note")
        with t.div(cls="side"):
            with t.div():
                for name, judged in columns[:2]:
                    _add_confusion(name, judged["confusion"], report["classes"])
            if scatter:
                add_picture(scatter, "Losses of the fitted vertebrae, coloured by true grade")


def _add_confusion(name: str, matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> None:
    """Add a confusion matrix, each cell shaded by its share of the true class."""
    with t.figure(), t.table(cls="confusion"):
        t.caption(f"{name}: true class in rows, predicted in columns")
        with t.tr():
            t.th("")
            for title in classes:
                t.th(title)
        for title, counts in zip(classes, matrix, strict=True):
            with t.tr():
                t.th(title)
                for count in counts:
                    share = count / max(sum(counts), 1)
                    t.td(str(count), style=f"background:rgba(15,118,110,{0.75 * share:.2f});"
                                           f"color:{'#fff' if share > 0.6 else '#0f172a'}")


def add_picture(source: str, caption: str) -> None:
    """Add a picture with its caption."""
    with t.figure():
        t.img(src=source, alt=caption, loading="lazy")
        t.figcaption(caption)


def add_training(name: str, picture: str, steps: int, relation: str) -> None:
    """Add the course of a training run, and what it has to do with the results."""
    with t.section(id="training"):
        t.h2("Training")
        t.p(f"Run {name}, {counted(steps, 'step')}.")
        t.p(relation)
        add_picture(picture, "Objective and measures of validation over the steps")
