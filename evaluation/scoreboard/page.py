"""The benchmark's results as files: JSON, Markdown, plots, and the tables of the documentation's page.

Everything is rendered from the JSON report, so that a table and its numbers cannot disagree.
"""

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation.scoreboard.course import PHANTOM, Place, asked_baselines
from evaluation.scoreboard.figures import PLOTS, draw_all
from evaluation.scoreboard.measures import GENERATOR
from evaluation.scoreboard.metrics import PAIRED_MEASURES
from util.marked_page import fill_page
from util.paths import atomic_path, file_digest, make_folder, write_json
from util.steps import ROOT, Step
from util.wording import counted, vertebrae

if TYPE_CHECKING:
    import pandas as pd

Report = dict[str, Any]
CAUTION = ("Figures of a phantom, a parametric spine whose truth is known. They say how well the program "
           "measures; they are not clinical results.")
MAIN = {  # measure: heading, decimals, factor
    "reference_height_mae_mm": ("restored height, MAE mm", 2, 1),
    "reference_height_rel_diff_percent": ("healthy: height difference %", 2, 1),
    "rhlv_mae_points": ("RHLV, MAE points", 2, 1),
    "rhlv_bias_points": ("RHLV, bias points", 2, 1),
    "rhlv_limits": ("RHLV, 95 % limits", 1, 1),
    "body_dice": ("Dice", 3, 1),
    "body_hausdorff95_mm": ("95 % Hausdorff mm", 2, 1),
    "sensitivity_loss25": ("sensitivity (loss of 25 % or more) %", 1, 100),
    "specificity": ("specificity %", 1, 100),
    "sensitivity_loss25_at_20": ("sensitivity at 20 %, %", 1, 100),
    "specificity_at_20": ("specificity at 20 %, %", 1, 100),
    "roc_auc": ("ROC area", 3, 1),
    "macro_f1": ("macro F1", 3, 1),
    "weighted_kappa": ("weighted kappa", 3, 1),
    "interval90_coverage": ("90 % interval covers %", 1, 100),
}
GOALS = {  # measure: heading, lowest and highest value that is good, decimals, factor
    "mask_height_mae_mm": ("height of a given mask, MAE mm", None, 0.3, 2, 1),
    "reference_height_rel_diff_percent": ("healthy: height difference %", None, 3.0, 2, 1),
    "rhlv_mae_points": ("RHLV, MAE points", None, 2.0, 2, 1),
    "rhlv_bias_points_abs": ("RHLV, absolute bias points", None, 0.5, 2, 1),
    "rhlv_limit_low_points": ("RHLV, lower 95 % limit points", -5.0, None, 1, 1),
    "rhlv_limit_high_points": ("RHLV, upper 95 % limit points", None, 5.0, 1, 1),
    "body_dice": ("Dice", 0.93, None, 3, 1),
    "specificity": ("specificity %", 0.97, None, 1, 100),
    "sensitivity_loss25": ("sensitivity (loss of 25 % or more) %", 0.95, None, 1, 100),
    "macro_f1": ("macro F1", 0.85, None, 3, 1),
    "interval90_coverage": ("90 % interval covers %", 0.88, 0.92, 1, 100),
}
DIFFERENCES = tuple(name for name in MAIN if name in PAIRED_MEASURES)
BY_GROUP = ("reference_height_mae_mm", "rhlv_mae_points", "rhlv_bias_points", "rhlv_limits", "body_dice",
            "sensitivity_loss25", "specificity", "interval90_coverage")


def shown(metric: dict[str, float | None] | None, decimals: int, factor: float = 1, *,
          signed: bool = False) -> str:
    """Return a value and its interval as text, '-' where undefined."""
    if not metric or metric["value"] is None:
        return "-"
    form = f"{'+' if signed else ''}.{decimals}f"
    value, low, high = (None if number is None else format(factor * number, form)
                        for number in (metric["value"], metric["low"], metric["high"]))
    return f"{value}" + (f" ({low} to {high})" if low is not None else "")


def cell(report: Report, name: str) -> str:
    """Return a measure of a method or group as text."""
    heading = MAIN[name]
    if name == "rhlv_limits":
        low, high = (report["rhlv_limit_low_points"]["value"], report["rhlv_limit_high_points"]["value"])
        return "-" if low is None or high is None else f"{low:+.1f} to {high:+.1f}"
    return shown(report.get(name), heading[1], heading[2], signed=name == "rhlv_bias_points")


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main_table(report: Report) -> str:
    """Return the one table of all methods: measures in rows, methods in columns."""
    methods = report["methods"]
    rows = [[MAIN[name][0], *(cell(one, name) for one in methods.values())] for name in MAIN]
    counts = [f"{one['vertebrae']} ({one['undefined']})" for one in methods.values()]
    limits = [one["calibrated_threshold"] for one in methods.values()]
    shown_limits = ["-" if limit is None else f"{100 * limit:.1f}" for limit in limits]
    return markdown_table(["", *methods], [["vertebrae (undefined)", *counts], *rows,
                                           ["calibrated threshold %", *shown_limits]])


def goals_table(report: Report) -> str:
    """Return what is aimed at and what each method reaches; * where it is reached."""
    methods = report["methods"]

    def judged(metric: dict[str, float | None] | None, name: str) -> str:
        _, low, high, decimals, factor = GOALS[name]
        value = metric["value"] if metric else None
        is_reached = value is not None and (low is None or value >= low) and (high is None or value <= high)
        return shown(metric, decimals, factor) + (" *" if is_reached else "")

    def aim(name: str) -> str:
        _, low, high, _, factor = GOALS[name]
        ends = [f"{factor * end:g}" for end in (low, high) if end is not None]
        return " to ".join(ends) if len(ends) > 1 else f"at {'least' if high is None else 'most'} {ends[0]}"

    rows = [[GOALS[name][0], aim(name), *(judged(one.get(name), name) for one in methods.values())]
            for name in GOALS]
    return markdown_table(["", "goal", *methods], rows)


def differences_table(report: Report) -> str:
    """Return the paired differences; * where the 95 % interval excludes zero."""
    compared = {name: one for name, one in report["differences"].items() if one["vertebrae"]}
    if not compared:
        return "No other method was judged.\n"

    def starred(metric: dict[str, float | None], name: str) -> str:
        low, high = metric["low"], metric["high"]
        is_clear = low is not None and high is not None and (low > 0) == (high > 0) and low * high != 0
        return shown(metric, MAIN[name][1], MAIN[name][2], signed=True) + (" *" if is_clear else "")

    rows = [[MAIN[name][0], *(starred(one[name], name) for one in compared.values())] for name in DIFFERENCES]
    counts = ["vertebrae", *(str(one["vertebrae"]) for one in compared.values())]
    return markdown_table(["", *compared], [counts, *rows])


def groups_table(report: Report) -> str:
    """Return the generator's measures by severity, kind, level and fractured neighbours."""
    rows = [[title.replace("_", " "), name, str(one["vertebrae"]), *(cell(one, key) for key in BY_GROUP)]
            for title, groups in report["methods"][GENERATOR]["groups"].items()
            for name, one in groups.items()]
    return markdown_table(["by", "", "vertebrae", *(MAIN[key][0] for key in BY_GROUP)], rows)


def confusion_table(report: Report) -> str:
    """Return the generator's confusion matrix."""
    rows = [[f"truly {grade}", *map(str, counts)]
            for grade, counts in enumerate(report["methods"][GENERATOR]["confusion"])]
    return markdown_table(["Genant grade", *(f"measured {grade}" for grade in range(4))], rows)


def budget_table(report: Report) -> str:
    """Return what the generator's error of the restored height consists of."""
    rows = [[name, shown(one["mean_absolute_mm"], 2), shown(one["bias_mm"], 2, signed=True)]
            for name, one in report["error_budget"].items()]
    return markdown_table(["", "mean absolute, mm", "bias, mm"], rows)


def ablation_table(report: Report) -> str:
    """Return what each part of the method is worth."""
    parts = report.get("ablation", {})
    if not parts:
        return "Not run; `--ablate` adds it.\n"
    names = next(iter(parts.values()))["measures"]
    headings = [MAIN[name][0] for name in names]
    rows = [[title, str(one["vertebrae"]), *(
        shown(one["measures"][name], *MAIN[name][1:], signed=one["is_difference"]) for name in names)]
        for title, one in parts.items()]
    return markdown_table(["", "vertebrae", *headings], rows)


def provenance_line(report: Report) -> str:
    """Return what was judged, on what, by which weights."""
    of = report["provenance"]
    weights = ", ".join(f"{use} `{one['file']}` ({one['sha256'][:12]})" for use, one in of["weights"].items())
    return (f"Cohort {of['cohort']}, seed {of['seed']}: {vertebrae(report['vertebrae'], 'held-out')} of "
            f"{counted(report['patients'], 'patient')}. Weights: {weights}. 95 % intervals from "
            f"{report['resamples']} draws of patients.\n")


TABLES: dict[str, Callable[[Report], str]] = {
    "provenance": provenance_line, "main": main_table, "goals": goals_table, "differences": differences_table,
    "groups": groups_table, "confusion": confusion_table, "budget": budget_table, "ablation": ablation_table}


def provenance(args: argparse.Namespace, commands: Sequence[Step]) -> dict[str, Any]:
    """Return what the report was made from: digests of weights, cohort, seed, commands; no place, no time."""
    return {"cohort": str(args.cohort), "seed": args.seed,
            "patients": [args.patients, args.calibration_patients] if args.cohort == PHANTOM else None,
            "weights": weights_used(args, commands),
            "commands": [command.replace(f"{ROOT}/", "") for _, command in commands]}


def weights_used(args: argparse.Namespace, commands: Sequence[Step]) -> dict[str, dict[str, str]]:
    """Return name and digest of each file of weights by its use: plane, classifier, baselines."""
    from models.checkpoint import read_settings

    generators = [path for path in (args.checkpoint, args.checkpoint_coronal) if path]
    files = {read_settings(path)[1]["plane"]: path for path in generators}
    files |= {"classifier": args.classifier, "baselines": asked_baselines(commands)}
    return {use: {"file": path.name, "sha256": file_digest(path)}
            for use, path in files.items() if path}


def write_results(args: argparse.Namespace, place: Place, report: Report, table: "pd.DataFrame",
                  commands: Sequence[Step]) -> str:
    """Write benchmark.json, benchmark.md and plots, with --docs the documentation's; return benchmark.md."""
    caution = CAUTION if args.cohort == PHANTOM else ""
    report = {"caution": caution, "provenance": provenance(args, commands)} | report
    write_json(place.out / "benchmark.json", report)
    draw_all(place.out, table, report)
    text = "\n\n".join(filter(None, (caution, provenance_line(report).strip(), main_table(report))))
    write_text(place.out / "benchmark.md", text)
    if args.docs:
        publish(args.docs, place.out, report)
    return text


def publish(docs: Path, out: Path, report: Report) -> None:
    """Write the report, the page's tables and the plots into the documentation."""
    write_json(docs / "benchmark.json", report)
    make_folder(docs / "images")
    for plot in PLOTS:
        with atomic_path(docs / "images" / f"benchmark_{plot}.png") as temporary:
            shutil.copyfile(out / f"{plot}.png", temporary)
    fill_page(docs / "benchmark.md", {name: table(report) for name, table in TABLES.items()})


def write_text(path: Path, text: str) -> None:
    """Write a text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
