"""Grading by relative height loss: metrics against scikit-learn, folds, the saved model, the script."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference
from sklearn.svm import SVC

from evaluation.grade_metrics import METRICS, Resampling, confusion, evaluate
from evaluation.grading import (
    SCHEMES,
    LinearGrader,
    Vertebrae,
    assign_folds,
    cross_validate,
    fit_grader,
    possible_folds,
)
from evaluation.grading_table import SCHEME_NAMES, grading_folder
from evaluation.SVM_grading import main
from util.cli import run_script
from util.errors import InputError

FEATURES = ["rhlv_anterior", "rhlv_middle", "rhlv_posterior"]
LOSS = np.array([0.05, 0.22, 0.32, 0.55])  # typical of each grade


def losses(grades: np.ndarray, seed: int = 0) -> np.ndarray:
    """Wedge-like losses of given grades with a little noise: (N, 3)."""
    noise = np.random.default_rng(seed).normal(0, 0.01, (len(grades), 3))
    return LOSS[grades][:, None] * np.array([1.0, 0.6, 0.1]) + noise


def rhlv_table(path: Path, splits: dict[str, int], grades=(0, 0, 1, 2, 3), seed: int = 0) -> Path:
    """An RHLV table with so many patients per split, each with vertebrae of the given grades."""
    rows: list[dict] = []
    for split, patients in splits.items():
        for patient in range(patients):
            values = losses(np.array(grades), seed=seed + len(rows))
            rows += [{"case": f"{split}{patient}_{20 + index}", "patient": f"{split}{patient}", "level": "L1",
                      "split": split, "grade": grade, **dict(zip(FEATURES, values[index], strict=True)),
                      "rule_grade": grade, "seen_in_training": split == "train"}
                     for index, grade in enumerate(grades)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def run(folder: Path, *extra: str) -> dict:
    assert main(["--output", str(folder), "--resamples", "20", *extra]) == 0
    scheme = extra[1] if "--classes" in extra else "genant"
    return json.loads((grading_folder(folder, scheme) / "metrics.json").read_text())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=30))
@settings(max_examples=60, deadline=None)
def test_metrics_are_scikit_learns(pairs):
    truth, predicted = np.array(pairs).T
    matrix = confusion(truth, predicted, 4)
    macro = {"average": "macro", "zero_division": 0}
    for name, score in (("macro_precision", reference.precision_score),
                        ("macro_recall", reference.recall_score), ("macro_f1", reference.f1_score)):
        assert METRICS[name](matrix) == pytest.approx(score(truth, predicted, **macro))
    if len(set(truth) | set(predicted)) > 1:
        expected = reference.cohen_kappa_score(truth, predicted, labels=[0, 1, 2, 3], weights="linear")
        assert METRICS["weighted_kappa"](matrix) == pytest.approx(expected)


def test_kappa_of_one_class_and_intervals_of_one_patient_are_none():
    judged = evaluate(np.zeros(4, int), np.zeros(4, int), ["a"] * 4, 4)
    assert judged["metrics"]["weighted_kappa"]["value"] is None
    assert judged["metrics"]["macro_f1"] == {"value": 1.0, "low": None, "high": None}


@pytest.mark.parametrize("grades", [[0, 1, 2, 3], [0, 2, 3], [1, 3]])
def test_the_plain_numbers_predict_as_scikit_learn(grades):
    truth = np.repeat(grades, 12)
    values = losses(truth) + np.random.default_rng(1).normal(0, 0.08, (len(truth), 3))
    grader = fit_grader(values, truth, FEATURES, "genant")
    svm = SVC(kernel="linear", class_weight="balanced").fit((values - grader.mean) / grader.scale, truth)
    fresh = np.random.default_rng(2).uniform(-0.2, 0.8, (500, 3))
    assert np.array_equal(grader.predict(fresh), svm.predict((fresh - grader.mean) / grader.scale))


def test_a_saved_grader_predicts_the_same():
    truth = np.repeat([0, 1, 2, 3], 8)
    grader = fit_grader(losses(truth), truth, FEATURES, "genant")
    again = LinearGrader.from_json(json.loads(json.dumps(grader.to_json())), "model.json")
    assert np.array_equal(again.predict(losses(truth, seed=9)), grader.predict(losses(truth, seed=9)))


@pytest.mark.parametrize("content", [[], {}, {"features": FEATURES}, "text"])
def test_what_is_no_grader_is_refused(content):
    with pytest.raises(InputError, match=r"model.json: expected a grader"):
        LinearGrader.from_json(content, "model.json")


def test_folds_keep_patients_whole():
    patients = np.repeat([f"p{number}" for number in range(12)], 5)
    classes = np.tile([0, 0, 1, 2, 3], 12)
    folds = assign_folds(losses(classes), classes, patients, 4, seed=0)
    assert set(folds) == {0, 1, 2, 3}
    assert all(len(set(folds[patients == patient])) == 1 for patient in set(patients))
    assert np.array_equal(folds, assign_folds(losses(classes), classes, patients, 4, seed=0))


def test_fewer_patients_of_a_class_than_folds():
    patients = np.array(["a", "b", "c", "d", "e", "f"])
    names = SCHEMES["genant"].names
    assert possible_folds(np.array([0, 0, 0, 3, 3, 3]), patients, 5, names)[0] == 3
    folds, note = possible_folds(np.array([0, 0, 0, 0, 0, 3]), patients, 5, names)
    assert folds == 2 and "single patient has class 'severe'" in note
    assert possible_folds(np.array([0, 3]), np.array(["a", "a"]), 5, names)[0] == 0
    assert possible_folds(np.tile([0, 3], 6), np.repeat(patients, 2), 5, names) == (5, "")


def test_a_fold_fitted_on_one_class_predicts_it():
    classes = np.array([0, 0, 0, 3])
    vertebrae = Vertebrae(losses(classes), classes, np.array(["a", "b", "c", "d"]))
    crossed = cross_validate(vertebrae, FEATURES, "genant", folds=5, penalty=1.0,
                             resampling=Resampling(20))
    assert crossed.report["folds"] == 2
    assert crossed.predicted[3] == 0


def test_the_script_fits_judges_and_saves(tmp_path, capsys):
    rhlv_table(tmp_path / "RHLV" / "rhlv.csv", {"train": 8, "test": 3, "val": 4})
    report = run(tmp_path)
    assert report["classes"] == ["healthy", "mild", "moderate", "severe"]
    assert report["cross_validation"]["vertebrae"] == 55 and len(report["cross_validation"]["per_fold"]) == 5
    assert report["holdout"]["vertebrae"] == 20
    assert report["holdout"]["metrics"]["macro_f1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert report["holdout"]["confusion"] == [[8, 0, 0, 0], [0, 4, 0, 0], [0, 0, 4, 0], [0, 0, 0, 4]]
    assert report["rule"]["holdout"]["metrics"]["macro_f1"]["value"] == 1.0
    assert report["seen_in_training"] == {"fitting": 40, "hold-out": 0}
    table = pd.read_csv(tmp_path / "grading" / "predictions.csv")
    assert len(table) == 75 and (table["predicted_class"] == table["grade"]).all()
    assert set(table["judged_in"]) == {*(f"fold {fold}" for fold in range(1, 6)), "hold-out"}
    assert (tmp_path / "grading" / "scatter.png").stat().st_size > 5000
    assert "the generator was trained on 40 vertebrae" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_result(tmp_path):
    rhlv_table(tmp_path / "RHLV" / "rhlv.csv", {"train": 6, "val": 3})
    assert run(tmp_path) == run(tmp_path)


def test_the_saved_model_grades_a_table_without_grades(tmp_path):
    rhlv_table(tmp_path / "RHLV" / "rhlv.csv", {"train": 6})
    run(tmp_path)
    new = pd.read_csv(rhlv_table(tmp_path / "new.csv", {"val": 2}, seed=50)).drop(columns=["grade", "split"])
    truth = [0, 0, 1, 2, 3] * 2
    new.loc[0, "rhlv_middle"] = np.nan
    new.to_csv(tmp_path / "new.csv", index=False)
    main(["--output", str(tmp_path), "--table", str(tmp_path / "new.csv"),
          "--apply", str(tmp_path / "grading" / "model.json")])
    graded = pd.read_csv(tmp_path / "grading" / "grades.csv")
    assert np.isnan(graded["predicted_class"][0]) and graded["judged_in"][0] == "excluded: RHLV undefined"
    assert graded["predicted_class"][1:].tolist() == truth[1:]


def test_two_planes_give_six_features(tmp_path):
    tables = [rhlv_table(tmp_path / f"{plane}.csv", {"train": 6, "val": 2}, seed=seed)
              for seed, plane in enumerate(("sagittal", "coronal"))]
    report = run(tmp_path, "--table", *map(str, tables))
    assert report["features"] == [*FEATURES, *(f"{feature}_2" for feature in FEATURES)]
    assert report["holdout"]["vertebrae"] == 10


@pytest.mark.parametrize(("scheme", "classes"), [("merged", 3), ("fracture", 2)])
def test_other_classes(tmp_path, scheme, classes):
    rhlv_table(tmp_path / "RHLV" / "rhlv.csv", {"train": 6, "val": 2})
    report = run(tmp_path, "--classes", scheme)
    assert len(report["classes"]) == classes
    assert report["holdout"]["metrics"]["macro_f1"]["value"] == 1.0
    assert set(SCHEME_NAMES) == set(SCHEMES)


def test_other_classes_leave_the_results_of_the_default_alone(tmp_path):
    rhlv_table(tmp_path / "RHLV" / "rhlv.csv", {"train": 6, "val": 2})
    names = ("metrics.json", "predictions.csv", "model.json", "scatter.png")
    run(tmp_path)
    before = [(tmp_path / "grading" / name).read_bytes() for name in names]
    run(tmp_path, "--classes", "merged")
    assert [(tmp_path / "grading" / name).read_bytes() for name in names] == before
    assert all((tmp_path / "grading" / "merged" / name).is_file() for name in names)
    table = ["--output", str(tmp_path), "--table", str(tmp_path / "RHLV" / "rhlv.csv")]
    assert main([*table, "--apply", str(tmp_path / "grading" / "merged" / "model.json")]) == 0
    assert (tmp_path / "grading" / "merged" / "grades.csv").is_file()
    assert not (tmp_path / "grading" / "grades.csv").exists()


def test_an_empty_holdout_and_undefined_rows_are_said(tmp_path, capsys):
    path = rhlv_table(tmp_path / "RHLV" / "rhlv.csv", {"train": 6})
    table = pd.read_csv(path)
    table.loc[3, "rhlv_anterior"] = np.nan
    table.to_csv(path, index=False)
    report = run(tmp_path)
    assert report["holdout"] is None and report["excluded"] == [table["case"][3]]
    said = capsys.readouterr().out
    assert "split 'val' holds no vertebra" in said
    assert f"1 left out, RHLV undefined: {table['case'][3]}" in said


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda table: table.drop(columns="rhlv_middle"), [], "found none named rhlv_middle"),
        (lambda table: pd.concat([table, table[:1]]), [], "train0_20 twice"),
        (lambda table: table.assign(grade=7), [], "expected grades 0-3"),
        (lambda table: table.assign(grade=0), [], "expected vertebrae of two classes"),
        (lambda table: table.drop(columns="grade"), [], "found no grade"),
        (lambda table: table, ["--holdout", "train"], "expected a split that is not fitted on"),
        (lambda table: table, ["--table", "nowhere.csv"], "run RHLV_quantification.py first"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, capsys, change, arguments, message):
    path = rhlv_table(tmp_path / "RHLV" / "rhlv.csv", {"train": 3})
    change(pd.read_csv(path)).to_csv(path, index=False)
    assert run_script(lambda argv=None: main(["--output", str(tmp_path), *arguments])) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize(("column", "value", "message"), [
    ("rhlv_middle", "abc", "cells in column rhlv_middle, found others for train0_20"),
    ("rhlv_anterior", "inf", "expected numbers or empty cells in column rhlv_anterior"),
    ("split", "val", "expected each patient in one split, found train0 in several"),
])
def test_a_table_that_says_nonsense_is_refused(tmp_path, column, value, message):
    path = rhlv_table(tmp_path / "rhlv.csv", {"train": 3, "val": 1})
    table = pd.read_csv(path, dtype=str)
    table.loc[0, column] = value
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match=message):
        main([f"--table={path}", f"--output={tmp_path}"])


def test_two_vertebrae_of_two_grades_leave_nothing_to_cross_validate(tmp_path):
    path = rhlv_table(tmp_path / "rhlv.csv", {"train": 2}, grades=(0, 3))
    table = pd.read_csv(path)
    table.iloc[[0, 3]].to_csv(path, index=False)
    report = run(tmp_path, f"--table={path}")
    assert report["cross_validation"]["folds"] == 0
    assert "no cross-validation: no class has two vertebrae" in report["notes"]
