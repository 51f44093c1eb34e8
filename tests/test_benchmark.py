"""The benchmark's measures on tables that can be counted by hand."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from evaluation.grade_metrics import Resampling
from evaluation.metrics import bootstrap_patients
from evaluation.patient_sample import Sample, with_interval
from evaluation.rhlv.uncertainty import conformal_threshold
from evaluation.scoreboard.body_overlap import overlap
from evaluation.scoreboard.measures import measures
from evaluation.scoreboard.metrics import judge, severity
from util.body_heights import THIRDS

FEW = Resampling(draws=40, seed=3)
CONTRACT = ("reference_height_rel_diff_percent", "rhlv_mae_points", "rhlv_bias_points_abs", "body_dice",
            "sensitivity_loss25", "specificity", "macro_f1", "interval90_coverage")


def row(patient: str, label: int, true: float, measured: float, *, method: str = "generator",
        split: str = "val", height_mm: float = 20.0, error_mm: float = 0.0,
        **other: object) -> dict[str, object]:
    """A vertebra whose thirds lost alike; by default of 20 mm before its fracture."""
    one: dict[str, object] = {
        "method": method, "split": split, "case": f"{patient}_{label}", "patient": patient,
        "level": f"L{label}", "kind": "none" if true == 0 else "crush", "severity": severity(true),
        "fractured_neighbours": 0, "dice": 1.0, "hausdorff95_mm": 0.0, "true_extent_mm": 25.0,
        "predicted_height_mm": 25.0, "agreed_height_mm": math.nan, "slice_spread_mm": 0.0, "reason": ""}
    for third in THIRDS:
        one |= {f"true_loss_{third}": true, f"true_before_{third}_mm": height_mm,
                f"true_after_{third}_mm": height_mm * (1 - true), f"low_{third}": measured - 0.05,
                f"high_{third}": measured + 0.05}
    for part in (*THIRDS, "overall"):
        one |= {f"measured_{part}_mm": height_mm * (1 - true), f"reference_{part}_mm": height_mm + error_mm,
                f"rhlv_{part}": measured}
    return one | other


def report(rows: list[dict[str, object]]) -> dict:
    return judge(pd.DataFrame(rows), FEW)


def value(found: dict, name: str, method: str = "generator") -> float:
    return found["methods"][method][name]["value"]


def test_known_errors_give_their_mean_bias_and_limits():
    found = report([row("a", 1, 0.0, 0.01, error_mm=1.0), row("b", 1, 0.0, -0.03, error_mm=-0.5)])
    assert value(found, "reference_height_mae_mm") == pytest.approx(0.75)
    assert value(found, "reference_height_bias_mm") == pytest.approx(0.25)
    assert value(found, "reference_height_rel_diff_percent") == pytest.approx(3.75)   # 5 % and 2.5 % of 20 mm
    assert value(found, "rhlv_mae_points") == pytest.approx(2.0)
    assert value(found, "rhlv_bias_points") == pytest.approx(-1.0)
    assert value(found, "rhlv_bias_points_abs") == pytest.approx(1.0)
    half = 1.96 * np.std([1.0, 1.0, 1.0, -3.0, -3.0, -3.0], ddof=1)
    assert value(found, "rhlv_limit_low_points") == pytest.approx(-1.0 - half, rel=1e-5)
    assert value(found, "rhlv_limit_high_points") == pytest.approx(-1.0 + half, rel=1e-5)
    assert value(found, "rhlv_middle_mae_points") == pytest.approx(2.0)


def test_the_height_of_healthy_vertebrae_alone_and_of_all():
    found = report([row("a", 1, 0.0, 0.0, error_mm=1.0), row("a", 2, 0.5, 0.5, error_mm=2.0)])
    assert value(found, "reference_height_rel_diff_percent") == pytest.approx(5.0)
    assert value(found, "reference_height_rel_diff_all_percent") == pytest.approx(7.5)
    assert value(found, "reference_height_healthy_mae_mm") == pytest.approx(1.0)


def test_a_perfect_method_scores_perfectly():
    losses = [0.0, 0.1, 0.22, 0.3, 0.5]
    calibration = [row(f"c{number}", 1, 0.0, 0.0, split="test") for number in range(40)]
    found = report([row(patient, label, loss, loss) for patient in "abc" for label, loss in enumerate(losses)]
                   + calibration)
    perfect = dict.fromkeys(("body_dice", "sensitivity_loss25", "specificity", "macro_f1", "roc_auc",
                             "weighted_kappa", "interval90_coverage", "grade_accuracy"), 1.0)
    perfect |= {name: 0.0 for name in found["methods"]["generator"] if "_mae_" in name or "_limit_" in name}
    for name, expected in perfect.items():
        assert found["methods"]["generator"][name] == pytest.approx(
            {"value": expected, "low": expected, "high": expected}), name
    assert found["methods"]["generator"]["confusion"] == np.diag([6, 3, 3, 3]).tolist()
    for name, part in found["error_budget"].items():
        assert part["mean_absolute_mm"]["value"] == pytest.approx(0.0), name


def test_sensitivity_and_specificity_by_hand():
    rows = [row("a", 1, 0.30, 0.26), row("a", 2, 0.30, 0.22), row("b", 1, 0.40, 0.10),
            row("b", 2, 0.26, math.nan), row("c", 1, 0.0, 0.21), row("c", 2, 0.0, 0.0),
            row("c", 3, 0.0, -0.1), row("d", 1, 0.15, 0.24)]
    found = report(rows)
    assert value(found, "sensitivity_loss25_at_20") == pytest.approx(2 / 4)  # undefined finds nothing
    assert value(found, "sensitivity_loss25_at_25") == pytest.approx(1 / 4)
    assert value(found, "specificity_at_20") == pytest.approx(2 / 3)  # 15 % counts in neither
    assert value(found, "specificity_at_25") == pytest.approx(1.0)
    assert found["methods"]["generator"]["undefined"] == 1
    assert value(found, "sensitivity_loss25") is None                         # nothing calibrates a threshold
    assert np.sum(found["methods"]["generator"]["confusion"]) == 7


def test_the_calibrated_threshold_is_the_conformal_quantile():
    losses = np.arange(99) / 1000                       # ceil(0.97 * 100) = 97th smallest: 0.096
    assert conformal_threshold(losses, 0.97) == pytest.approx(0.096)
    assert conformal_threshold(losses, 0.97) > 0.096         # to reach the quantile raises no alarm yet
    assert math.isnan(conformal_threshold(losses[:31], 0.97))
    calibration = [row(f"c{number}", 1, 0.0, loss, split="test") for number, loss in enumerate(losses)]
    calibration.append(row("c", 2, 0.5, 0.5, split="test"))  # a fracture does not calibrate
    found = report([row("a", 1, 0.3, 0.097), row("b", 1, 0.3, 0.05), row("b", 2, 0.0, 0.096), *calibration])
    assert found["methods"]["generator"]["calibrated_threshold"] == pytest.approx(0.096)
    assert value(found, "sensitivity_loss25") == 0.5 and value(found, "specificity") == 1.0


def random_rows(method: str = "generator", seed: int = 0) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    return [row(f"p{patient}", label, loss, loss + 0.05 * rng.standard_normal(), method=method,
                error_mm=rng.standard_normal(), fractured_neighbours=label % 3, dice=rng.uniform(0.8, 1.0))
            for patient in range(6) for label, loss in enumerate((0.0, 0.0, 0.1, 0.24, 0.3, 0.5))]


def test_a_method_differs_from_itself_by_nothing_and_from_a_worse_one_by_something():
    twin = [one | {"method": "twin"} for one in random_rows()]
    worse = [one | {"method": "worse", "dice": one["dice"] - 0.1} for one in random_rows()]
    found = report([*random_rows(), *twin, *worse])["differences"]
    for name, change in found["generator - twin"].items():
        if name == "vertebrae":
            assert change == 36
        elif change["value"] is not None:
            assert change == {"value": 0.0, "low": 0.0, "high": 0.0}, name
    assert found["generator - worse"]["body_dice"] == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})


def test_differences_are_taken_on_shared_cases():
    other = [one | {"method": "other"} for one in random_rows()]
    other[0] |= {f"rhlv_{part}": math.nan for part in (*THIRDS, "overall")}
    found = report([*random_rows(), *other])["differences"]["generator - other"]
    assert found["vertebrae"] == 35 and found["rhlv_mae_points"]["value"] == 0.0


def test_groups_add_up_to_all():
    found = report(random_rows())["methods"]["generator"]
    for title, groups in found["groups"].items():
        assert sum(one["vertebrae"] for one in groups.values()) == 36, title
        mean = sum(one["vertebrae"] * one["rhlv_mae_points"]["value"] for one in groups.values()) / 36
        assert mean == pytest.approx(found["rhlv_mae_points"]["value"], rel=1e-4), title
    assert list(found["groups"]["severity"]) == ["healthy", "below 20 %", "20-25 %", "25-40 %", "above 40 %"]
    assert list(found["groups"]["fractured_neighbours"]) == ["0", "1", "2"]


def test_the_error_budget_splits_without_rest():
    one = row("a", 1, 0.0, 0.0, error_mm=1.0, predicted_height_mm=26.0, slice_spread_mm=0.4)
    found = report([one, row("b", 1, 0.0, 0.0)])["error_budget"]
    parts = {name: part["bias_mm"]["value"] for name, part in found.items()}
    assert parts["height head"] == pytest.approx(0.5 * 1.0 * 20 / 25)  # 1 mm of extent, 0.8 of mean height
    assert parts["height aimed at"] == parts["height head"]            # nothing was agreed upon
    assert parts["height aimed at"] + parts["drawn body"] == pytest.approx(parts["restored height"])
    assert parts["restored height"] == pytest.approx(0.5)
    agreed = report([one | {"agreed_height_mm": 20.6}, row("b", 1, 0.0, 0.0)])["error_budget"]
    assert agreed["height aimed at"]["bias_mm"]["value"] == pytest.approx(0.5 * 0.6)
    assert agreed["drawn body"]["bias_mm"]["value"] == pytest.approx(0.5 * 0.4)
    assert parts["slices"] == pytest.approx(0.2) and parts["straightening"] == pytest.approx(0.0)


def test_resampling_is_that_of_bootstrap_patients_and_the_same_every_time():
    table = pd.DataFrame(random_rows())
    sample = Sample.of(table["patient"].tolist(), 200, seed=7)
    mean = with_interval(measures(math.nan)["body_dice"](table, sample))
    expected = bootstrap_patients(lambda dice: float(dice.mean()), [table["dice"].to_numpy()],
                                  table["patient"].tolist(), resamples=200, seed=7)
    assert (mean["low"], mean["high"]) == pytest.approx(expected, rel=1e-5)
    assert report(random_rows()) == report(random_rows())
    alone = report([row("a", 1, 0.0, 0.0), row("a", 2, 0.3, 0.3)])["methods"]["generator"]["rhlv_mae_points"]
    assert alone == {"value": 0.0, "low": None, "high": None}              # one patient cannot be resampled


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(-5, 60)), min_size=4,
                max_size=20))
def test_the_area_is_that_of_scikit_learn(vertebrae):
    table = pd.DataFrame([row(patient, number, 0.3 if broken else 0.0, percent / 100)
                          for number, (patient, broken, percent) in enumerate(vertebrae)])
    area = measures(math.nan)["roc_auc"](table, Sample.of(table["patient"].tolist(), 0))[0]
    broken = [one[1] for one in vertebrae]
    if len(set(broken)) == 2:
        assert area == pytest.approx(roc_auc_score(broken, [one[2] for one in vertebrae]))
    else:
        assert math.isnan(area)


def test_the_report_holds_what_others_read():
    found = report(random_rows())["methods"]["generator"]
    for name in CONTRACT:
        assert set(found[name]) == {"value", "low", "high"}, name


def test_overlap_of_boxes():
    first, second = np.zeros((2, 40, 30, 20), bool)
    first[5:15, 5:15, 5:15] = True
    second[20:30, 10:20, 6:16] = True
    assert overlap(first, second, align=True) == (1.0, 0.0)               # the same box elsewhere
    assert overlap(first, second, align=False)[0] == 0.0
    lower = second.copy()
    lower[28:30] = False  # 8 of 10 rows; centroids 1 row apart
    dice, distance_mm = overlap(first, lower, align=True)
    assert dice == pytest.approx(2 * 800 / 1800) and distance_mm == pytest.approx(1.0)
    assert all(map(math.isnan, overlap(first, np.zeros_like(first), align=True)))
    assert overlap(first, first, align=False, voxel_mm=2.0) == (1.0, 0.0)
