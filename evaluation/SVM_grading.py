"""Grade vertebrae by their relative height loss with a linear SVM, or apply a saved one to new tables.

Fitting reads the table that RHLV_quantification.py wrote, cross-validates by patient on the fitting splits,
fits on all of them, and reads the hold-out once. It writes metrics.json, predictions.csv, model.json and
scatter.png into grading/ in the output folder, for other --classes than the default's into a folder of their
name therein. With --apply, a saved model.json grades the tables into grades.csv in the folder of its classes.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.grading_table import (
    SCHEME_NAMES,
    check_gradable,
    count_seen,
    grading_folder,
    predictions_of,
    read_tables,
    write_predictions,
)
from util.cli import number_from, run_script, whole_number
from util.errors import InputError
from util.paths import make_folder, read_json, write_json
from util.vertebrae import SPLITS
from util.wording import counted, vertebrae

if TYPE_CHECKING:
    import pandas as pd

    from evaluation.grade_metrics import Resampling
    from evaluation.grading import ClassScheme, LinearGrader, Vertebrae

UNDEFINED = "excluded: RHLV undefined"


@dataclass(frozen=True)
class Parts:
    """A table's rows by their use; what has no defined RHLV is excluded."""

    fitting: "pd.DataFrame"
    holdout: "pd.DataFrame"
    excluded: "pd.DataFrame"


def divide(table: "pd.DataFrame", features: list[str], args: argparse.Namespace) -> Parts:
    """Divide a table into fitting rows, hold-out and excluded rows.

    Raises:
        InputError: the fitting rows hold fewer than two classes.
    """
    defined = table[features].notna().all(axis=1)
    used = table["split"].isin([*args.fit_splits, args.holdout])
    parts = Parts(table[defined & table["split"].isin(args.fit_splits)],
                  table[defined & (table["split"] == args.holdout)], table[used & ~defined])
    if parts.fitting["class"].nunique() < 2:
        raise InputError(f"--fit_splits {' '.join(args.fit_splits)}: expected vertebrae of two classes with "
                         f"a defined RHLV, found {len(parts.fitting)} of {parts.fitting['class'].nunique()}; "
                         f"add cases or choose other splits")
    return parts


def vertebrae_of(rows: "pd.DataFrame", features: list[str]) -> "Vertebrae":
    """Return rows as arrays."""
    from evaluation.grading import Vertebrae

    return Vertebrae(rows[features].to_numpy(float), rows["class"].to_numpy(int),
                     rows["patient"].to_numpy(str))


def judge_rule(rows: "pd.DataFrame", scheme: "ClassScheme",
               resampling: "Resampling") -> dict[str, Any] | None:
    """Return what the Genant limits alone reach (column rule_grade), for comparison; None without rows."""
    if rows.empty or "rule_grade" not in rows or rows["rule_grade"].isna().any():
        return None
    predicted = np.asarray(scheme.class_of_grade)[rows["rule_grade"].to_numpy(int)]
    return vertebrae_of(rows, []).judge(predicted, scheme.names, resampling)


def fit(args: argparse.Namespace) -> Path:
    """Cross-validate, fit, judge the hold-out, write everything, and return the folder."""
    from evaluation.grade_metrics import Resampling
    from evaluation.grading import SCHEMES, cross_validate, fit_grader
    from evaluation.rhlv.figures import draw_scatter

    table, features = read_tables(args.table)
    check_gradable(table, args.table[0])
    scheme, resampling = SCHEMES[args.classes], Resampling(args.resamples, args.seed)
    table["class"] = np.asarray(scheme.class_of_grade)[table["grade"].to_numpy(int)]
    parts = divide(table, features, args)
    fitting = vertebrae_of(parts.fitting, features)
    crossed = cross_validate(fitting, features, args.classes, folds=args.folds, penalty=args.penalty,
                             resampling=resampling)
    grader = fit_grader(fitting.values, fitting.classes, features, args.classes, args.penalty)
    held, held_classes = judge_holdout(parts.holdout, grader, scheme, resampling)
    report = describe(parts, args, {
        "classes": list(scheme.names), "features": features,
        "cross_validation": crossed.report, "holdout": held,
        "rule": {"fitting": judge_rule(parts.fitting, scheme, resampling),
                 "holdout": judge_rule(parts.holdout, scheme, resampling)}})
    folder = make_folder(grading_folder(args.output, args.classes))
    write_json(folder / "model.json", grader.to_json())
    write_json(folder / "metrics.json", report)
    write_predictions(folder / "predictions.csv", [
        predictions_of(parts.fitting, features, crossed.predicted, scheme.names, crossed.fold_names()),
        predictions_of(parts.holdout, features, held_classes, scheme.names, "hold-out"),
        predictions_of(parts.excluded, features, np.full(len(parts.excluded), -1), scheme.names, UNDEFINED)])
    draw_scatter(folder / "scatter.png", fitting.values[:, :3], fitting.classes, scheme.names)
    print_report(report)
    return folder


def describe(parts: Parts, args: argparse.Namespace, results: dict[str, Any]) -> dict[str, Any]:
    """Return results with what they were made from, and the notes."""
    report = results | {
        "fit_splits": args.fit_splits, "holdout_split": args.holdout,
        "excluded": list(parts.excluded["case"]),
        "seen_in_training": {"fitting": count_seen(parts.fitting), "hold-out": count_seen(parts.holdout)}}
    return report | {"notes": notes_on(report)}


def judge_holdout(holdout: "pd.DataFrame", grader: "LinearGrader", scheme: "ClassScheme",
                  resampling: "Resampling") -> tuple[dict[str, Any] | None, np.ndarray]:
    """Return the hold-out's report, None where it is empty, and its predicted classes."""
    if holdout.empty:
        return None, np.zeros(0, int)
    vertebrae = vertebrae_of(holdout, list(grader.features))
    predicted = grader.predict(vertebrae.values)
    return vertebrae.judge(predicted, scheme.names, resampling), predicted


def notes_on(report: dict[str, Any]) -> list[str]:
    """Return everything that limits what the metrics mean."""
    notes = [report["cross_validation"]["note"]]
    if report["holdout"] is None:
        notes.append(f"split '{report['holdout_split']}' holds no vertebra with a defined RHLV, so there is "
                     f"no hold-out result")
    if report["excluded"]:
        notes.append(f"{len(report['excluded'])} left out, RHLV undefined: {', '.join(report['excluded'])}")
    notes += [f"the generator was trained on {vertebrae(count)} of the {part} part; their synthetic heights "
              f"may be better than a new patient's"
              for part, count in report["seen_in_training"].items() if count]
    return [note for note in notes if note]


def print_report(report: dict[str, Any]) -> None:
    """Print the metrics and the notes."""
    crossed, held = report["cross_validation"], report["holdout"]
    if crossed["folds"]:
        print(f"cross-validation, {crossed['folds']} folds by patient: {_metrics_line(crossed)}")
    if held:
        print(f"hold-out '{report['holdout_split']}': {_metrics_line(held)}")
    for note in report["notes"]:
        print(f"note: {note}")


def _metrics_line(judged: dict[str, Any]) -> str:
    """Return metrics with their intervals in one line."""
    def shown(metric: dict[str, float | None]) -> str:
        value, low, high = (metric[key] for key in ("value", "low", "high"))
        if value is None:
            return "undefined"
        return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None else "")

    metrics = (f"{name.replace('_', ' ')} {shown(metric)}" for name, metric in judged["metrics"].items())
    return (f"{vertebrae(judged['vertebrae'])} of {counted(judged['patients'], 'patient')}: "
            f"{', '.join(metrics)}")


def apply(args: argparse.Namespace) -> Path:
    """Grade tables with a saved model, and return the folder.

    Raises:
        InputError: the model is no model, or wants other features than the tables hold.
    """
    from evaluation.grading import SCHEMES, LinearGrader

    grader = LinearGrader.from_json(read_json(args.apply), args.apply)
    table, features = read_tables(args.table)
    if list(grader.features) != features:
        raise InputError(f"--table: expected {len(grader.features) // 3} of them, as {args.apply} was fitted "
                         f"on, found {len(args.table)}; give as many")
    names = SCHEMES[grader.scheme].names
    defined = table[features].notna().all(axis=1).to_numpy()
    predicted = np.full(len(table), -1)
    predicted[defined] = grader.predict(table.loc[defined, features].to_numpy(float))
    judged_in = [f"model {args.apply}" if known else UNDEFINED for known in defined]
    folder = make_folder(grading_folder(args.output, grader.scheme))
    write_predictions(folder / "grades.csv", [predictions_of(table, features, predicted, names, judged_in)])
    counts = ", ".join(f"{int((predicted == value).sum())} {name}" for value, name in enumerate(names))
    print(f"graded {int(defined.sum())} of {vertebrae(len(table))}: {counts}")
    return folder


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--table", type=Path, nargs="+", help="RHLV table; a second one, of the other plane, adds its three "
        "features; if not given, RHLV/rhlv.csv in the output folder")
    add("--output", type=Path, default=Path("output"), help="results go to grading/ in it, those of "
        "other --classes than the default to grading/<classes>/")
    add("--classes", choices=SCHEME_NAMES, default=SCHEME_NAMES[0],
        help="genant: grades 0, 1, 2, 3; merged: 0-1, 2, 3; fracture: 0, 1-3")
    add("--fit_splits", nargs="+", choices=SPLITS, default=["train", "test"], help="splits to fit on")
    add("--holdout", choices=SPLITS, default="val", help="split that only the final result reads")
    add("--folds", type=whole_number(2), default=5, help="folds of the cross-validation, by patient")
    add("--penalty", type=number_from(1e-6), default=1.0, help="C of the SVM: weight of violated margins")
    add("--resamples", type=whole_number(1), default=1000, help="draws of patients for each 95 %% interval")
    add("--seed", type=whole_number(0), default=0, help="of folds and resampling")
    add("--apply", type=Path, help="grade with this saved model.json instead of fitting")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Fit or apply."""
    args = build_parser().parse_args(argv)
    args.table = args.table or [args.output / "RHLV" / "rhlv.csv"]
    if args.holdout in args.fit_splits:
        raise InputError(f"--holdout {args.holdout}: expected a split that is not fitted on, found it in "
                         f"--fit_splits; choose another")
    print(f"written: {(apply if args.apply else fit)(args)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
