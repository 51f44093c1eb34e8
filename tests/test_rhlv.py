"""The script that measures relative height loss, on boxes pressed and unpressed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.RHLV_quantification import main
from util.cli import run_script
from util.paths import fake_label, straightened_label, write_json
from util.volume import Volume, read_volume, write_volume

AFFINE = np.array([[0, 0, -1, 32], [0, -1, 0, 128], [-1, 0, 0, 128], [0, 0, 0, 1.0]])  # axes I-P-L
SHAPE = (96, 64, 24)


def box(height: int, label: int, affine: np.ndarray = AFFINE, shape: tuple[int, int, int] = SHAPE) -> Volume:
    """A body of one height, 30 columns deep and 16 slices wide."""
    array = np.zeros(shape, np.uint8)
    array[40:40 + height, 17:47, 4:20] = label
    return Volume(array, affine)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Two cases: 30 mm pressed to 21, and a synthesis that came out empty."""
    for case, original, synthetic in (("a_b_20", 21, 30), ("c_19", 25, 0)):
        label = int(case.rpartition("_")[2])
        write_volume(straightened_label(tmp_path / "straightened", case), box(original, label))
        write_volume(fake_label(tmp_path / "output", case), box(synthetic, label))
    path = tmp_path / "cohort.json"
    write_json(path, {"paths": {"straightened": str(tmp_path / "straightened")},
                      "train": {"a_b_20": 2}, "val": {"c_19": 0}})
    return path


def run(cohort: Path, *extra: str) -> int:
    return main(["--cohort", str(cohort), "--output", str(cohort.parent / "output"), *extra])


def read_table(cohort: Path) -> pd.DataFrame:
    return pd.read_csv(cohort.parent / "output" / "RHLV" / "rhlv.csv").set_index("case")


def test_a_pressed_box_and_an_empty_synthesis(cohort, capsys):
    assert run(cohort, "--jobs", "2") == 0
    table = read_table(cohort)
    pressed, empty = table.loc["a_b_20"], table.loc["c_19"]
    assert [pressed[f"rhlv_{part}"] for part in ("anterior", "middle", "posterior", "overall")] == [0.3] * 4
    assert (pressed["height_original_anterior_mm"], pressed["height_synthetic_anterior_mm"]) == (21.0, 30.0)
    assert (pressed["patient"], pressed["level"]) == ("a_b", "L1")
    assert (pressed["kind"], pressed["rule_grade"]) == ("crush", 2)
    assert pressed["seen_in_training"] and not empty["seen_in_training"]
    assert np.isnan(empty["rhlv_anterior"]) and empty["reason"] == "the synthetic body is empty"
    assert empty["height_original_middle_mm"] == 25.0 and np.isnan(empty["height_synthetic_middle_mm"])
    assert "undefined: 1" in capsys.readouterr().out
    excel = pd.read_excel(cohort.parent / "output" / "RHLV" / "rhlv.xlsx")
    assert list(excel["case"]) == ["a_b_20", "c_19"]


def test_maps_and_curves_lie_beside_the_table(cohort):
    run(cohort)
    folder = cohort.parent / "output" / "RHLV"
    image = read_volume(folder / "maps" / "a_b_20.nii.gz")
    percent = image.array
    assert percent.shape == (1, *SHAPE[1:])
    assert np.nanmin(percent) == np.nanmax(percent) == pytest.approx(30.0)
    assert np.isfinite(percent).sum() == 30 * 16
    assert (image.affine @ [0, 17, 4, 1])[2] == pytest.approx(128 - (40 + 69) / 2)  # the body's middle row
    assert image.spacing_mm[0] == pytest.approx(30.0)
    assert (folder / "maps" / "a_b_20.png").stat().st_size > 1000
    assert (folder / "curves" / "a_b_20.png").stat().st_size > 1000


def test_a_second_run_skips_and_a_new_synthesis_is_measured_again(cohort, capsys):
    run(cohort, "--no_figures")
    run(cohort, "--no_figures")
    assert "0 done, 2 skipped" in capsys.readouterr().out
    write_volume(fake_label(cohort.parent / "output", "a_b_20"), box(28, 20))
    run(cohort, "--no_figures")
    assert "1 done, 1 skipped" in capsys.readouterr().out
    assert read_table(cohort).loc["a_b_20", "rhlv_overall"] == pytest.approx(0.25)


def test_nothing_stays_of_a_loss_that_is_undefined_now(cohort):
    run(cohort)
    folder = cohort.parent / "output" / "RHLV"
    drawn = [folder / name for name in ("maps/a_b_20.nii.gz", "maps/a_b_20.png", "curves/a_b_20.png")]
    assert all(path.is_file() for path in drawn)
    write_volume(fake_label(cohort.parent / "output", "a_b_20"), box(0, 20))
    assert run(cohort) == 0
    assert read_table(cohort).loc["a_b_20", "reason"] == "the synthetic body is empty"
    assert not any(path.exists() for path in drawn)
    for path in drawn:
        path.write_bytes(b"of an earlier measurement")
    run(cohort)
    assert not any(path.exists() for path in drawn)


def test_pictures_of_an_earlier_measurement_go_with_it(cohort):
    run(cohort)
    folder = cohort.parent / "output" / "RHLV"
    write_volume(fake_label(cohort.parent / "output", "a_b_20"), box(28, 20))
    run(cohort, "--no_figures")
    assert not list(folder.rglob("*.png")) and (folder / "maps" / "a_b_20.nii.gz").is_file()


def test_a_missing_map_of_a_defined_loss_is_made_anew(cohort, capsys):
    run(cohort, "--no_figures")
    path = cohort.parent / "output" / "RHLV" / "maps" / "a_b_20.nii.gz"
    path.unlink()
    capsys.readouterr()
    run(cohort, "--no_figures")
    assert "1 done, 1 skipped" in capsys.readouterr().out and path.is_file()


def test_weights_from_another_cohort_have_seen_no_case(cohort):
    run(cohort, "--no_figures", "--trained_on", "none")
    assert not read_table(cohort)["seen_in_training"].any()


def original_path(root: Path) -> Path:
    return straightened_label(root / "straightened", "a_b_20")


def synthetic_path(root: Path) -> Path:
    return fake_label(root / "output", "a_b_20")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: write_volume(original_path(root), box(25, 8)), "expected label 20"),
        (lambda root: original_path(root).unlink(), "expected a NIfTI file, found none"),
        (lambda root: write_volume(synthetic_path(root), box(25, 20, 2 * AFFINE)), "expected the affine"),
        (lambda root: write_volume(synthetic_path(root), box(25, 20, shape=(96, 64, 30))),
         "expected the shape"),
        (lambda root: synthetic_path(root).write_bytes(b"no image"), "copy or export it again"),
        (lambda root: cut_off(synthetic_path(root)), "copy or export it again"),
    ],
    ids=["wrong label", "no file", "other affine", "other shape", "damaged", "cut off"],
)
def test_a_bad_case_fails_with_its_reason_and_the_others_go_on(cohort, capsys, damage, message):
    damage(cohort.parent)
    assert run(cohort, "--no_figures") == 1
    captured = capsys.readouterr()
    assert f"a_b_20 failed: {cohort.parent}" in captured.err and message in captured.err
    assert "1 done, 0 skipped (complete), 1 failed" in captured.out
    assert list(read_table(cohort).index) == ["c_19"]


def test_nothing_synthesized_is_told(cohort, capsys):
    for case in ("a_b_20", "c_19"):
        fake_label(cohort.parent / "output", case).unlink()
    arguments = ["--cohort", str(cohort), "--output", str(cohort.parent / "output")]
    assert run_script(lambda argv=None: main(arguments)) == 2
    assert "label_fake: expected synthetic labels of the 2 cases" in capsys.readouterr().err
