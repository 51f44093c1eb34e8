"""The benchmark from files to files, on boxes; and the commands that it runs."""

import importlib
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation.benchmark import build_parser
from evaluation.grade_metrics import Resampling
from evaluation.RHLV_quantification import main as quantify
from evaluation.scoreboard import course
from evaluation.scoreboard.ablation import FULL, SWITCHED, TRAINED, compared
from evaluation.scoreboard.floor import predict_left_out
from evaluation.scoreboard.metrics import judge
from evaluation.scoreboard.page import publish, write_results
from evaluation.scoreboard.table import add_reference, tidy_table
from evaluation.scoreboard.truth import compare_shapes, is_compared, shape_record
from util.cli import run_script
from util.errors import InputError
from util.paths import fake_label, read_json, straightened_label, write_json
from util.steps import ROOT, run_steps
from util.vertebrae import read_cohort
from util.volume import Volume, write_volume

AFFINE = np.array([[0, 0, -1, 12], [0, -1, 0, 32], [-1, 0, 0, 48], [0, 0, 0, 1.0]])  # axes I-P-L
PATIENTS = {"known": {20: (25, 0.2), 21: (30, 0.0)}, "other": {20: (30, 0.4), 21: (25, 0.0)},
            "real": {20: (24, None), 21: (26, None)}}  # height before in mm, and loss; None: nobody knows


def write_box(path: Path, label: int, rows: int, first: int = 40) -> None:
    """A body of some rows, 30 columns deep and 12 slices wide."""
    array = np.zeros((96, 64, 24), np.uint8)
    array[first:first + rows, 17:47, 6:18] = label
    write_volume(path, Volume(array, AFFINE))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> course.Place:
    """Six vertebrae of three patients, one without a truth; restored heights are right but for one."""
    root = tmp_path_factory.mktemp("boxes")
    here = course.Place(*(root / name for name in ("cohort.json", "raw", "straightened", "heatmap",
                                                   "healthy_raw", "healthy", "out")), True)
    for patient, bodies in PATIENTS.items():
        for label, (before, loss) in bodies.items():
            case = f"{patient}_{label}"
            write_box(straightened_label(here.dataroot, case), label, round(before * (1 - (loss or 0))))
            write_box(straightened_label(here.healthy, case), label, before, first=30)
            write_box(fake_label(here.out, case), label, before + (patient == "other" and label == 20))
            write_box(fake_label(here.baselines("val") / "ratio", case), label, before - 1)
        if bodies[20][1] is not None:
            write_json(here.raw / patient / "truth" / "truth.json", {"patient": patient, "vertebrae": {
                str(label): {"kind": "crush" if loss else "none", "loss_by_third": [loss] * 3,
                             "height_before_mm": [before] * 3, "height_after_mm": [before * (1 - loss)] * 3}
                for label, (before, loss) in bodies.items()}})
    write_json(here.cohort, {"val": {"known_20": 1, "known_21": 0, "other_20": 2, "other_21": 0, "real_20": 1,
                                     "real_21": 0}})
    baselines = [{"method": "ratio", "case": f"{patient}_{label}", "reason": ""}
                 | {f"height_reference_{part}_mm": before - 1.0
                    for part in ("anterior", "middle", "posterior", "overall")}
                 | {f"rhlv_{part}": 1 - before * (1 - (loss or 0)) / (before - 1)
                    for part in ("anterior", "middle", "posterior", "overall")}
                 for patient, bodies in PATIENTS.items() for label, (before, loss) in bodies.items()]
    pd.DataFrame(baselines).to_csv(here.baselines("val") / "baselines.csv", index=False)
    assert quantify(["--cohort", str(here.cohort), "--dataroot", str(here.dataroot), "--output",
                     str(here.out), "--no_figures"]) == 0
    for case in read_cohort(here.cohort).cases():
        compare_shapes(here, case)
    return here


@pytest.fixture(scope="module")
def table(place) -> pd.DataFrame:
    return tidy_table(read_cohort(place.cohort), place)


def test_the_table_joins_truth_and_every_method(place, table):
    assert list(table["method"].unique()) == ["generator", "ratio"]
    own = table[table["method"] == "generator"].set_index("case")
    assert list(own.index) == ["known_20", "known_21", "other_20", "other_21", "real_21"]
    assert own.loc["known_20", "rhlv_middle"] == pytest.approx(0.2)
    assert own.loc["known_20", ["kind", "severity", "level"]].tolist() == ["crush", "20-25 %", "L1"]
    assert own["fractured_neighbours"].tolist() == [0, 1, 0, 1, 1]
    assert own.loc["real_21", ["true_loss_middle", "true_before_middle_mm"]].tolist() == [0.0, 26.0]
    assert own.loc["known_20", ["dice", "hausdorff95_mm"]].tolist() == [1.0, 0.0]  # after a shift of ten rows
    assert own.loc["other_20", "dice"] == pytest.approx(2 * 30 / 61)
    assert own.loc["known_20", "true_extent_mm"] == 25.0
    ratio = table[table["method"] == "ratio"].set_index("case")
    assert ratio.loc["known_21", "dice"] == pytest.approx(2 * 29 / 59)
    assert ratio.loc["known_21", "measured_overall_mm"] == 30.0


def test_shapes_are_compared_once_and_again_after_a_new_synthesis(place):
    assert is_compared(place, "real_21")
    moved = replace(place, out=place.out.parent / "elsewhere")
    assert not is_compared(moved, "real_21")
    write_box(fake_label(moved.out, "real_21"), 21, 20)
    compare_shapes(moved, "real_21")
    assert is_compared(moved, "real_21")
    record = read_json(moved.out / "shapes" / "real_21.json")
    assert record["methods"]["generator"][0] == pytest.approx(40 / 46)


def test_a_method_that_was_left_out_is_compared_later(place):
    """A run without baselines wrote the record after the baselines' masks."""
    alone = replace(place, has_baselines=False)
    compare_shapes(alone, "known_20")
    assert is_compared(alone, "known_20") and not is_compared(place, "known_20")
    compare_shapes(place, "known_20")
    assert is_compared(place, "known_20") and is_compared(alone, "known_20")
    assert list(read_json(shape_record(place, "known_20"))["methods"]) == ["generator", "ratio"]


def test_a_case_without_a_healthy_body_is_done(place, tmp_path):
    moved = replace(place, out=tmp_path, dataroot=tmp_path, healthy=tmp_path, has_baselines=False)
    write_box(fake_label(moved.out, "known_20"), 20, 25)
    assert compare_shapes(moved, "known_20") is not None
    assert is_compared(moved, "known_20")


def test_a_damaged_comparison_is_made_anew(place, tmp_path):
    moved = replace(place, out=tmp_path, has_baselines=False)
    write_box(fake_label(moved.out, "known_20"), 20, 25)
    shape_record(moved, "known_20").parent.mkdir()
    shape_record(moved, "known_20").write_text("{")
    assert not is_compared(moved, "known_20")


def test_report_page_and_plots(place, table, tmp_path):
    args = build_parser().parse_args(["--checkpoint", str(ROOT / "weights" / "phantom_sagittal.safetensors"),
                                      "--cohort", "phantom", "--docs", str(tmp_path / "docs")])
    with_floor = add_reference(table, "floor", {"known_20": np.full(3, 25.0)})
    report = judge(with_floor, Resampling(20, 0))
    floor = report["methods"]["floor"]
    assert floor["vertebrae"] == 1 and floor["rhlv_mae_points"]["value"] == pytest.approx(0.0, abs=1e-6)
    page = tmp_path / "docs" / "benchmark.md"
    page.parent.mkdir()
    page.write_text((ROOT / "docs" / "benchmark.md").read_text())
    text = write_results(args, place, report, with_floor, [("a step", f"train.py --x {ROOT}/weights/a")])
    assert "not clinical" in text and (place.out / "benchmark.md").read_text() == text
    written = read_json(place.out / "benchmark.json")
    assert written["methods"] == report["methods"]
    assert written["provenance"]["commands"] == ["train.py --x weights/a"]
    assert read_json(tmp_path / "docs" / "benchmark.json") == written
    for plot in ("bland_altman", "calibration", "roc"):
        assert (tmp_path / "docs" / "images" / f"benchmark_{plot}.png").stat().st_size > 5000
    text = page.read_text()
    assert "| RHLV, MAE points | 0.39 (" in text                   # one of five is 18/30 - 18/31 wrong
    assert "Not run yet" not in text and "How bodies are compared" in text
    publish(tmp_path / "docs", place.out, written)
    assert page.read_text() == text                                # the same report writes the same page
    publish(tmp_path / "empty", place.out, written)                # without a page there is none to fill
    assert not (tmp_path / "empty" / "benchmark.md").exists()


def test_the_ablation_compares_with_the_full_method(table):
    own = table[table["method"] == "generator"].reset_index(drop=True)
    worse = own.assign(dice=own["dice"] - 0.25)
    rows = compared({FULL.title: own, SWITCHED[0].title: worse}, ", short", Resampling(20, 0))
    assert not rows["full, short"]["is_difference"] and rows["full, short"]["vertebrae"] == 5
    change = rows["without iterative synthesis, short"]
    assert change["is_difference"] and change["measures"]["body_dice"]["value"] == pytest.approx(-0.25)
    assert change["measures"]["rhlv_mae_points"]["value"] == 0.0


def test_the_floor_finds_what_follows_from_the_other_levels():
    rng = np.random.default_rng(0)
    scale = np.exp(0.1 * rng.standard_normal((400, 1, 1)))
    spines = scale * np.array([20.0, 25.0, 30.0])[None, :, None] * np.ones(3)  # one size decides all
    found = predict_left_out(spines[:300], spines[300:])
    assert np.allclose(found, spines[300:], rtol=0.01)
    chance = spines * np.exp(0.05 * rng.standard_normal((400, 3, 1)))
    left = np.abs(predict_left_out(chance[:300], chance[300:]) / chance[300:] - 1).mean()
    assert 0.03 < left < 0.07                                                    # its own chance stays


@pytest.mark.parametrize("cohort", ["phantom", "file"])
def test_the_steps_are_commands_that_the_scripts_take(place, cohort, tmp_path):
    args = build_parser().parse_args([
        "--checkpoint", "a b.safetensors", "--checkpoint_coronal", "c", "--jobs", "3", "--overwrite",
        "--synthesis_flags", "--threads 1", "--out", str(tmp_path),
        "--cohort", "phantom" if cohort == "phantom" else str(place.cohort)])
    where = course.place_of(args)
    steps = [*course.data_steps(args, where),
             *course.method_steps(args, where, read_cohort(place.cohort)),
             *course.baseline_steps(args, where, ["val"], True)]
    assert "--split val" in steps[-1][1] and "--model" in steps[-1][1] and "baselines.py" in steps[-1][1]
    assert ("make_cohort" in steps[0][1]) == (cohort == "phantom")
    check_commands(steps)


def test_bodies_before_the_fracture_are_straightened_as_masks(place, tmp_path):
    args = build_parser().parse_args(["--checkpoint", "x"])
    own = replace(place, raw=tmp_path / "raw", healthy_raw=tmp_path / "healthy_raw")
    source = own.raw / "known" / "truth" / "healthy_body.nii.gz"
    assert not course.healthy_steps(args, own, ["known"])
    write_box(source, 20, 25)
    steps = course.healthy_steps(args, own, ["known", "real"])
    assert (own.healthy_raw / "known" / "known_msk.nii.gz").read_bytes() == source.read_bytes()
    assert [step[1].split()[0] for step in steps] == ["straighten/location_json_local.py",
                                                      "straighten/straighten_mask_3d.py"]
    assert not (own.healthy_raw / "real").exists()
    check_commands(steps)


def check_commands(steps: list[tuple[str, str]]) -> None:
    """Let each script's own parser read its flags."""
    for _, command in steps:
        script, *flags = shlex.split(command)
        assert (ROOT / script).is_file(), script
        module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
        module.build_parser().parse_args(flags)


def test_trainings_differ_in_the_part_alone():
    from options.train_options import TrainOptions

    full = vars(TrainOptions().build_parser().parse_args([]))
    for part in TRAINED:
        reduced = vars(TrainOptions().build_parser().parse_args(part.training))
        changed = {name for name, value in reduced.items() if value != full[name]}
        assert len(changed) == len(part.training) // 2, part


@pytest.mark.parametrize("status", [1, 2])
def test_steps_go_past_bad_cases_only_where_asked(tmp_path, monkeypatch, status):
    monkeypatch.setattr("util.steps.ROOT", tmp_path)
    (tmp_path / "stage.py").write_text(f"raise SystemExit({status})")
    steps = [("try", "stage.py")]
    with pytest.raises(InputError, match=rf"exit status {status}"):
        run_steps(steps, tmp_path)
    if status == 1:
        assert run_steps(steps, tmp_path, past_bad_cases=True) == 1
    else:
        with pytest.raises(InputError, match="exit status 2"):
            run_steps(steps, tmp_path, past_bad_cases=True)


def test_mistakes_are_one_line(tmp_path, capsys):
    from evaluation.benchmark import main

    assert run_script(lambda argv=None: main(["--checkpoint", str(tmp_path / "none")])) == 2
    assert "--checkpoint" in capsys.readouterr().err
    args = build_parser().parse_args(["--checkpoint", "x", "--baselines", str(tmp_path / "none")])
    with pytest.raises(InputError, match=r"--baselines .*found no file"):
        course.baseline_model(args)
