"""The script of the baselines on a cohort of boxes: fit, references, masks, table, mistakes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from box_spine import BoxCohort, write_box_cohort

from evaluation import RHLV_quantification
from evaluation.baseline.models import load_baselines
from evaluation.baseline.surroundings import Surroundings, read_surroundings
from evaluation.baselines import main
from util.cli import run_script
from util.paths import fake_label, straightened_label, write_json
from util.vertebrae import read_cohort
from util.volume import read_volume

PARTS = ("anterior", "middle", "posterior", "overall")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory) -> BoxCohort:
    """Six patients; L1 of the one held out has collapsed to 12 rows."""
    return write_box_cohort(tmp_path_factory.mktemp("boxes"), labels=(20, 21), fractures={"p5_20": 12})


@pytest.fixture(scope="module")
def out(boxes) -> Path:
    """Fitted on the train split, run on val."""
    folder = boxes.path.parent / "baselines"
    assert run(boxes, folder) == 0
    return folder


def run(boxes: BoxCohort, out: Path, *extra: str) -> int:
    return main([f"--cohort={boxes.path}", f"--dataroot={boxes.dataroot}", f"--out={out}", *extra])


def read_table(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "baselines.csv").set_index(["method", "case"])


def test_the_table_has_every_method_and_the_collapsed_vertebra_its_loss(boxes, out):
    table = read_table(out)
    assert list(table.index) == [(method, case) for method in ("ratio", "shape", "six_point", "posterior")
                                 for case in ("p5_20", "p5_21")]
    rows = boxes.healthy_rows["p5_20"]
    for method in ("ratio", "shape"):
        assert table.loc[(method, "p5_20"), "height_reference_overall_mm"] == pytest.approx(rows, abs=0.7)
        assert table.loc[(method, "p5_20"), "rhlv_overall"] == pytest.approx(1 - 12 / rows, abs=0.02)
    for method in ("six_point", "posterior"):                      # a crushed box shows them no loss
        assert [table.loc[(method, "p5_20"), f"rhlv_{part}"] for part in PARTS] == [0.0] * 4
    row = table.loc[("shape", "p5_20")]
    assert (row["patient"], row["level"], row["split"], row["grade"]) == ("p5", "L1", "val", 3)


def test_the_masks_are_measured_as_a_generator_s(boxes, out):
    for method in ("ratio", "shape"):
        flags = [f"--cohort={boxes.path}", f"--dataroot={boxes.dataroot}", f"--output={out / method}"]
        assert RHLV_quantification.main([*flags, "--split=val", "--no_figures"]) == 0
        measured = pd.read_csv(out / method / "RHLV" / "rhlv.csv").set_index("case")
        table = read_table(out).loc[method]
        for part in PARTS:
            assert measured[f"height_synthetic_{part}_mm"].to_numpy() == pytest.approx(
                table[f"height_reference_{part}_mm"].to_numpy(), abs=0.5)
        original = read_volume(straightened_label(boxes.dataroot, "p5_20"))
        fake = read_volume(fake_label(out / method, "p5_20"))
        assert (fake.array.shape, fake.array.dtype) == ((256, 256, 64), np.uint8)
        assert np.array_equal(fake.affine, original.affine)


def test_the_target_s_own_rows_do_not_count(boxes, out):
    surroundings = read_surroundings(boxes.dataroot, "p5_20", read_cohort(boxes.path))
    assert 20 not in surroundings.healthy
    table = read_table(out)
    for baseline in load_baselines(out / "baselines.json").methods[:2]:
        other = dict(surroundings.bodies)
        other.pop(20)
        blind = Surroundings(20, other, surroundings.healthy)
        assert baseline.reference(blind).heights_mm[3] == pytest.approx(
            table.loc[(baseline.name, "p5_20"), "height_reference_overall_mm"], abs=1e-4)


def test_a_second_run_skips_and_another_grade_is_done_again(boxes, out, capsys):
    assert run(boxes, out) == 0
    text = capsys.readouterr().out
    assert "measure: 0 done, 8 skipped" in text and "baselines: 0 done, 2 skipped" in text
    before = fake_label(out / "ratio", "p5_20").read_bytes()
    fake_label(out / "ratio", "p5_20").unlink()
    run(boxes, out)
    assert "baselines: 1 done, 1 skipped" in capsys.readouterr().out
    assert fake_label(out / "ratio", "p5_20").read_bytes() == before
    regraded = boxes.path.with_name("regraded.json")
    splits = read_cohort(boxes.path).splits
    write_json(regraded, splits | {"val": splits["val"] | {"p5_21": 1}})
    assert main([f"--cohort={regraded}", f"--dataroot={boxes.dataroot}", f"--out={out}"]) == 0
    assert "baselines: 2 done" in capsys.readouterr().out
    run(boxes, out)                                                # as the other tests expect it


def test_a_fitted_model_is_taken_as_it_is_and_a_fit_repeats_to_the_byte(boxes, out, tmp_path):
    assert run(boxes, tmp_path, "--fit_only") == 0
    assert (tmp_path / "baselines.json").read_bytes() == (out / "baselines.json").read_bytes()
    assert not (tmp_path / "baselines.csv").exists()
    assert run(boxes, tmp_path / "other", f"--model={tmp_path / 'baselines.json'}") == 0
    assert (tmp_path / "other" / "baselines.csv").read_bytes() == (out / "baselines.csv").read_bytes()
    assert not (tmp_path / "other" / "measured").exists()


@pytest.mark.parametrize(("content", "message"), [({"format": "baselines 0"}, "found another file"),
                                                  ([], "found another file"), (None, "expected a JSON file")])
def test_a_foreign_model_is_named(boxes, tmp_path, capsys, content, message):
    path = tmp_path / "model.json"
    if content is not None:
        write_json(path, content)
    assert run_script(lambda argv=None: run(boxes, tmp_path, f"--model={path}")) == 2
    error = capsys.readouterr().err
    assert f"error: {path}" in error and message in error and error.count("\n") == 1


def test_a_case_without_a_file_fails_and_the_others_go_on(boxes, out, tmp_path, capsys):
    cohort = tmp_path / "cohort.json"
    write_json(cohort, {"val": {"p5_20": 3, "p9_20": 0}})
    assert main([f"--cohort={cohort}", f"--dataroot={boxes.dataroot}", f"--out={tmp_path}",
                 f"--model={out / 'baselines.json'}"]) == 1
    captured = capsys.readouterr()
    assert "p9_20 failed" in captured.err and "1 done, 0 skipped (complete), 1 failed" in captured.out
    assert set(read_table(tmp_path).index.get_level_values("case")) == {"p5_20"}


def test_nothing_to_fit_on_is_told(boxes, tmp_path, capsys):
    cohort = tmp_path / "cohort.json"
    write_json(cohort, {"train": {"p5_20": 3}, "val": {"p4_20": 0}})
    arguments = [f"--cohort={cohort}", f"--dataroot={boxes.dataroot}", f"--out={tmp_path}"]
    assert run_script(lambda argv=None: main(arguments)) == 2
    assert "expected vertebrae of grade 0 in split 'train', found none" in capsys.readouterr().err
