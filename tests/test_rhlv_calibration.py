"""Intervals in the table and on the pictures, and which calibration they come from; boxes as bodies."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.rhlv.figures import caption_of
from evaluation.rhlv.records import MeasuredCase
from evaluation.rhlv.uncertainty import read_calibration
from evaluation.RHLV_quantification import main
from models.synthesis_records import record_path
from util.cli import run_script
from util.paths import fake_label, straightened_label, write_json
from util.volume import Volume, write_volume

AFFINE = np.array([[0, 0, -1, 32], [0, -1, 0, 128], [-1, 0, 0, 128], [0, 0, 0, 1.0]])  # axes I-P-L
PARTS = ("anterior", "middle", "posterior", "overall")
FRACTURED = "f_20"


def box(height: int) -> Volume:
    """An L1 of one height, 12 columns deep and 10 slices wide."""
    array = np.zeros((56, 24, 16), np.uint8)
    array[8:8 + height, 6:18, 3:13] = 20
    return Volume(array, AFFINE)


def write_case(root: Path, case: str, original: int, synthetic: int, recipe: str = "abc") -> None:
    write_volume(straightened_label(root / "straightened", case), box(original))
    write_volume(fake_label(root / "output", case), box(synthetic))
    write_json(record_path(root / "output", case), {
        "recipe": recipe, "case": case, "height_mm": 40.0, "spread_mm": 1.0, "sagittal_height_mm": 41.0,
        "coronal_height_mm": 39.0, "direct_height_mm": 37.0})


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Healthy bodies of 40 mm synthesized at 38 to 42, four of each; and one of 28 mm synthesized at 40."""
    healthy = {f"h{number}_20": 38 + number % 5 for number in range(20)}
    for case, synthetic in healthy.items():
        write_case(tmp_path, case, 40, synthetic)
    write_case(tmp_path, FRACTURED, 28, 40)
    path = tmp_path / "cohort.json"
    write_json(path, {"paths": {"straightened": str(tmp_path / "straightened")},
                      "test": dict.fromkeys(healthy, 0), "val": {FRACTURED: 2}})
    return path


def run(cohort: Path, *extra: str) -> int:
    arguments = ["--cohort", str(cohort), "--output", str(cohort.parent / "output"), *extra]
    return run_script(lambda argv=None: main(arguments))


def results(cohort: Path) -> Path:
    return cohort.parent / "output" / "RHLV"


def read_table(cohort: Path) -> pd.DataFrame:
    return pd.read_csv(results(cohort) / "rhlv.csv").set_index("case")


def test_the_table_holds_interval_calibrated_loss_and_grades(cohort, capsys):
    assert run(cohort, "--no_figures") == 0
    assert "calibration: 90 % intervals from 20 healthy vertebrae of 20 patients" in capsys.readouterr().out
    row = read_table(cohort).loc[FRACTURED]
    for part in PARTS:  # residuals log(38 / 40) to log(42 / 40), median 0: extremes at the 1st and 20th of 20
        assert row[f"rhlv_{part}"] == row[f"rhlv_calibrated_{part}"] == pytest.approx(0.3)
        assert row[f"rhlv_{part}_low"] == pytest.approx(1 - 0.7 * 42 / 40, abs=1e-4)
        assert row[f"rhlv_{part}_high"] == pytest.approx(1 - 0.7 * 38 / 40, abs=1e-4)
    assert [row[f"p_grade{grade}"] for grade in (1, 2, 3)] == pytest.approx([20.5 / 21, 20.5 / 21, 0.5 / 21],
                                                                            abs=1e-4)
    assert read_table(cohort)["in_calibration"].sum() == 20 and not row["in_calibration"]
    excel = pd.read_excel(results(cohort) / "rhlv.xlsx").set_index("case")
    assert excel.loc[FRACTURED, "rhlv_anterior_low"] == pytest.approx(row["rhlv_anterior_low"])
    saved = read_calibration(results(cohort) / "calibration.json")
    assert (saved.origin.recipe, saved.origin.cohort, saved.level) == ("abc", "cohort.json", 0.9)


def test_too_few_healthy_vertebrae_leave_the_columns_empty(cohort, capsys):
    fake_label(cohort.parent / "output", "h0_20").unlink()
    run(cohort, "--no_figures")
    said = capsys.readouterr().out
    assert "none, since 19 grade 0 cases of split test are measured and 90 % intervals need 20" in said
    assert read_table(cohort).filter(regex="_low|_high|calibrated|p_grade").isna().all(axis=None)
    assert not (results(cohort) / "calibration.json").exists()


def test_cases_of_different_weights_are_not_mixed(cohort, capsys):
    write_case(cohort.parent, "h0_20", 40, 40, recipe="other")
    run(cohort, "--no_figures")
    assert "synthesized with 2 different weights" in capsys.readouterr().out
    assert read_table(cohort)["rhlv_anterior_low"].isna().all()


def test_a_file_serves_another_cohort_of_the_same_weights_and_no_other(cohort, tmp_path, capsys):
    run(cohort, "--no_figures")
    calibration = (results(cohort) / "calibration.json").rename(tmp_path / "kept.json")
    expected = read_table(cohort).loc[FRACTURED, "rhlv_middle_high"]
    user = tmp_path / "user"
    write_json(user / "cohort.json", {"paths": {"straightened": str(user / "straightened")},
                                      "val": {FRACTURED: 2}})
    write_case(user, FRACTURED, 28, 40)
    assert run(user / "cohort.json", "--no_figures", f"--calibration={calibration}") == 0
    assert read_table(user / "cohort.json").loc[FRACTURED, "rhlv_middle_high"] == expected
    assert run(user / "cohort.json", "--no_figures", f"--calibration={calibration}", "--level=0.95") == 2
    assert "expected a calibration on at least 39 vertebrae, found 20" in capsys.readouterr().err
    write_case(user, FRACTURED, 28, 40, recipe="other")
    assert run(user / "cohort.json", "--no_figures", f"--calibration={calibration}") == 2
    error = capsys.readouterr().err
    assert "recipe other of f_20" in error and "found one of recipe abc" in error
    assert run(user / "cohort.json", "--no_figures", f"--calibration={tmp_path / 'none.json'}") == 2


@pytest.mark.parametrize("text", [None, "{", "[1]", "{}"])
def test_a_wrong_calibration_is_told_before_cases_are_measured(cohort, tmp_path, capsys, text):
    path = tmp_path / "kept.json"
    if text is not None:
        path.write_text(text)
    assert run(cohort, f"--calibration={path}") == 2
    said = capsys.readouterr()
    assert "kept.json: expected" in said.err and "RHLV:" not in said.out
    assert not results(cohort).exists()


def test_pictures_carry_the_interval_and_follow_the_calibration(cohort, capsys):
    pictures = [results(cohort) / folder / f"{FRACTURED}.png" for folder in ("maps", "curves")]
    run(cohort, "--split=val")
    assert [caption_of(picture) for picture in pictures] == ["", ""]  # nothing of split test is measured yet
    run(cohort, "--no_figures")
    run(cohort, "--split=val")
    for picture in pictures:  # 1 - 0.7 * 1.05 and 1 - 0.7 * 0.95, in whole percent
        assert "anterior 30 % (27 to 33)" in caption_of(picture)
        assert "P(grade ≥ 2) = 0.98" in caption_of(picture)
    capsys.readouterr()
    run(cohort, "--split=val")
    assert "RHLV pictures: 0 done, 1 skipped" in capsys.readouterr().out
    run(cohort, "--split=val", "--level=0.6")
    assert "RHLV pictures: 1 done, 0 skipped" in capsys.readouterr().out
    assert all("60 % interval" in caption_of(picture) for picture in pictures)
    run(cohort, "--split=val", "--calibration=none")
    assert [caption_of(picture) for picture in pictures] == ["", ""]
    assert not (results(cohort) / "calibration.json").exists()


def test_disagreement_is_relative_to_the_predicted_height():
    record = {"height_mm": 20.0, "spread_mm": 1.0, "sagittal_height_mm": 21.0, "coronal_height_mm": 19.0,
              "direct_height_mm": 17.0}
    np.testing.assert_allclose(MeasuredCase("p_20", {"missing_neighbours": 1}, record).disagreement,
                               [0.1, 0.05, 0.15, 1.0])
    single = {"height_mm": 20.0, "spread_mm": 1.0, "sagittal_height_mm": 21.0}
    np.testing.assert_allclose(MeasuredCase("p_20", {"missing_neighbours": 0}, single).disagreement,
                               [0.0, 0.05, 0.0, 0.0])
    unknown = MeasuredCase("p_20", {"missing_neighbours": 2}, {}).disagreement
    assert np.isnan(unknown[:3]).all() and unknown[3] == 2.0


def test_neighbours_that_are_not_there_are_counted(cohort):
    run(cohort, "--no_figures", "--split=val")
    record = (results(cohort) / "cases" / f"{FRACTURED}.json").read_text()
    assert '"missing_neighbours": 2' in record
