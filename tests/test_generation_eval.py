"""Metrics of the synthesis, and the script that takes them over a cohort."""

import csv
import json
import math

import numpy as np
import pytest
from box_spine import write_box_cohort

from evaluation.generation_eval_sagittal import compare, main, restored_band
from evaluation.metrics import (
    bootstrap_interval,
    bootstrap_patients,
    dice,
    finite_mean,
    iou,
    psnr,
    relative_height_difference,
    relative_volume_difference,
    ssim,
)
from util.errors import InputError
from util.paths import fake_ct, fake_label, straightened_ct, straightened_label
from util.volume import Volume, read_volume, write_volume

SHAPE = (60, 40, 20)


def box(top: int, bottom: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[top:bottom, 10:30, 5:15] = True
    return mask


def textured() -> np.ndarray:
    return np.random.default_rng(0).integers(60, 200, SHAPE, dtype=np.uint8)


def test_overlap_of_boxes_counted_by_hand():
    first, second = box(10, 30), box(15, 35)                       # 15 of 20 rows in common, 25 in all
    assert dice(first, second) == pytest.approx(0.75)
    assert iou(first, second) == pytest.approx(0.6)
    assert relative_volume_difference(box(10, 26), box(10, 30)) == pytest.approx(-0.2)
    assert relative_height_difference(26.0, 25.0) == pytest.approx(0.04)


def test_undefined_is_nan():
    empty = np.zeros(SHAPE, bool)
    assert math.isnan(dice(empty, empty)) and math.isnan(iou(empty, empty))
    assert math.isnan(relative_volume_difference(box(1, 2), empty))
    assert math.isnan(psnr(textured(), textured(), empty)) and math.isnan(ssim(textured(), textured(), empty))
    assert dice(empty, box(10, 20)) == 0.0


def test_psnr_of_a_constant_difference():
    original, band = textured(), box(10, 30)
    synthetic = original.copy()
    synthetic[band] += 5
    assert psnr(synthetic, original, band) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(original, original, band) == math.inf


def test_what_lies_outside_the_band_does_not_count():
    original, band = textured(), box(10, 30)
    synthetic = original.copy()
    synthetic[45:] = 0                                             # beyond the 11-pixel window too
    assert psnr(synthetic, original, band) == math.inf
    assert ssim(synthetic, original, band) == pytest.approx(1.0)
    synthetic[band] = 0
    assert ssim(synthetic, original, band) < 0.2


def test_ssim_needs_no_second_slice():
    original = textured()
    noisy = original.copy()
    noisy[:, :, 10] = 255 - noisy[:, :, 10]
    band = box(10, 30)
    assert 0.8 < ssim(noisy, original, band) < 0.95                # nine of ten slices agree fully


def test_intervals_resample_patients_not_rows():
    values = np.repeat([0.0, 1.0], 50)
    two_patients = ["a"] * 50 + ["b"] * 50
    assert bootstrap_interval(values, two_patients) == (0.0, 1.0)
    low, high = bootstrap_interval(values, [str(number) for number in range(100)])
    assert 0.35 < low < 0.45 and 0.55 < high < 0.65                # 0.5 +- 1.96 * 0.05
    again = [bootstrap_interval(np.arange(100.0), np.arange(100) // 4, seed=3) for _ in range(2)]
    assert again[0] == again[1]


def test_intervals_that_cannot_be_had_are_nan():
    assert np.isnan(bootstrap_interval([1.0, 2.0], ["a", "a"])).all()
    assert np.isnan(bootstrap_interval([np.nan, np.nan], ["a", "b"])).all()


def test_statistic_gets_the_rows_of_every_array():
    truth, guess = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    low, high = bootstrap_patients(lambda a, b: float((a == b).mean()), [truth, guess], ["p", "p", "q", "q"])
    assert (low, high) == (0.5, 1.0)
    assert finite_mean(np.array([1.0, np.nan, 3.0])) == 2.0


def test_band_is_rows_of_both_bodies_within_the_outline_of_the_original():
    band = restored_band(box(10, 30), np.roll(box(8, 28), 4, axis=1))
    assert band.sum() == 22 * 20 * 10
    assert band[8:30, 10:30, 5:15].all()


def test_comparing_a_box_that_came_out_lower():
    original, synthetic = box(20, 40), box(22, 38)
    measures = compare(textured(), original, textured(), synthetic)
    assert measures["height_original_mm"] == 20 and measures["height_synthetic_mm"] == 16
    assert measures["height_difference"] == pytest.approx(-0.2)
    assert measures["height_difference_absolute"] == pytest.approx(0.2)
    assert measures["reason"] == ""
    nothing = compare(textured(), original, textured(), np.zeros(SHAPE, bool))
    assert nothing["dice"] == 0 and math.isnan(nothing["height_difference"])
    assert nothing["reason"] == "the synthetic body is empty"


@pytest.fixture
def cohort(tmp_path):
    """A patient in val whose synthetic bodies are two rows lower than the originals; only L1 is fractured."""
    made = write_box_cohort(tmp_path, patients=3, labels=(20, 21), fractures={"p2_20": 15})
    for case in made.cohort.cases("val"):
        ct = read_volume(straightened_ct(made.dataroot, case))
        label = read_volume(straightened_label(made.dataroot, case))
        rows = np.flatnonzero((label.array == int(case[-2:])).any(axis=(1, 2)))
        lower = label.array.copy()
        lower[rows[-2:]] = 0
        write_volume(fake_ct(tmp_path / "output", case), ct)
        write_volume(fake_label(tmp_path / "output", case), Volume(lower, label.affine))
    return made


def flags(cohort):
    output = cohort.path.parent / "output"
    return [f"--dataroot={cohort.dataroot}", f"--cohort={cohort.path}", f"--output={output}"]


def test_script_reports_healthy_vertebrae_of_the_hold_out(cohort, capsys):
    assert main(flags(cohort)) == 0
    folder = cohort.path.parent / "output" / "generation"
    summary = json.loads((folder / "generation.json").read_text())
    healthy = ["p2_21"]
    assert summary["vertebrae"] == 1 and summary["split"] == "val"
    rows = cohort.healthy_rows[healthy[0]]
    found = summary["measures"]
    assert found["height_difference"]["mean"] == pytest.approx(-2 / rows)
    assert found["dice"]["mean"] == pytest.approx(2 * (rows - 2) / (2 * rows - 2))
    assert found["dice"]["low"] is None                            # one patient has no interval
    assert found["psnr_db"] == {"mean": None, "low": None, "high": None, "undefined": 1}  # equal images
    with (folder / "generation.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["case"] for row in table] == healthy and table[0]["level"] == "L2"
    assert "Dice" in capsys.readouterr().out
    assert main(flags(cohort)) == 0
    assert "0 done, 1 skipped" in capsys.readouterr().out


def test_script_counts_a_case_that_was_not_synthesized(cohort, capsys):
    for case in cohort.cohort.cases("val"):
        fake_ct(cohort.path.parent / "output", case).unlink()
    assert main(flags(cohort)) == 1
    assert "run eval_3d_sagittal_twostage.py" in capsys.readouterr().err


def test_script_refuses_a_split_without_healthy_vertebrae(tmp_path):
    made = write_box_cohort(tmp_path, patients=3, labels=(20,), fractures={"p2_20": 12})
    with pytest.raises(InputError, match="expected a vertebra of grade 0"):
        main([f"--dataroot={made.dataroot}", f"--cohort={made.path}", f"--output={tmp_path / 'output'}"])
