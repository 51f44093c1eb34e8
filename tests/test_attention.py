"""The fracture classifier trained on boxes, and its heatmaps of them."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from box_spine import BoxCohort, box_case, write_box_cohort

from Attention.checkpoint import load_classifier, save_classifier
from util.errors import InputError
from util.paths import heatmap_record
from util.vertebrae import Cohort, read_cohort, write_cohort
from util.volume import read_volume

heatmap_script = importlib.import_module("Attention.grad_CAM_3d_sagittal")
train_script = importlib.import_module("Attention.train_classifier")
PRESSED_ROWS = 14  # of 25
SPLIT_CASES = {"train": ["p0_20", "p1_20", "p2_20", "p3_20"], "test": ["p4_20", "p5_20"]}


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> BoxCohort:
    """L1 of six patients; every other one is pressed."""
    pressed = {f"p{number}_20": PRESSED_ROWS for number in (1, 3, 5)}
    return write_box_cohort(tmp_path_factory.mktemp("boxes"), 6, (20,), fractures=pressed)


@pytest.fixture(scope="module")
def cohort(boxes: BoxCohort) -> Path:
    """The boxes split so that both classes are in `train` and in `test`."""
    grades = boxes.cohort.grades
    splits = {split: {case: grades[case] for case in cases} for split, cases in SPLIT_CASES.items()}
    path = boxes.path.with_name("balanced.json")
    write_cohort(path, Cohort(path, splits))
    return path


@pytest.fixture(scope="module")
def classifier_folder(boxes: BoxCohort, cohort: Path) -> Path:
    """What the training script makes of the boxes."""
    out = boxes.path.with_name("classifier")
    length = ["--max_steps=60", "--lr=0.01", "--validate_every=60"]
    assert train_script.main([*training_flags(boxes, cohort, out), *length]) == 0
    return out


def training_flags(boxes: BoxCohort, cohort: Path, out: Path) -> list[str]:
    """A small network on the boxes."""
    files = [f"--dataroot={boxes.dataroot}", f"--cohort={cohort}", f"--out={out}"]
    return [*files, "--batch_size=8", "--width=8", "--device=cpu"]


def heatmap_flags(boxes: BoxCohort, cohort: Path, out: Path, classifier_folder: Path) -> list[str]:
    """Heatmaps of the boxes by the small network."""
    files = [f"--dataroot={boxes.dataroot}", f"--cohort={cohort}", f"--out={out}", "--device=cpu"]
    return [*files, f"--checkpoint={classifier_folder / 'best.safetensors'}"]


def test_training_separates_pressed_boxes(classifier_folder: Path) -> None:
    lines = (classifier_folder / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["test"]["auc"] == 1.0
    assert (classifier_folder / "best.safetensors").stat().st_size < 2.5e6


def test_same_seed_same_training(boxes: BoxCohort, cohort: Path, tmp_path: Path) -> None:
    logs = []
    for name in ("first", "second"):
        assert train_script.main([*training_flags(boxes, cohort, tmp_path / name), "--max_steps=2"]) == 0
        logs.append((tmp_path / name / "log.jsonl").read_text())
    assert logs[0] == logs[1]


def test_an_earlier_training_is_kept(
    boxes: BoxCohort, cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*training_flags(boxes, cohort, tmp_path / "again"), "--max_steps=1"]
    for seed in range(3):
        assert train_script.main([*flags, f"--seed={seed}"]) == 0
    seeds = {
        path.parent.name: json.loads(path.read_text())["seed"] for path in tmp_path.rglob("options.json")
    }
    assert seeds == {"again.1": "0", "again.2": "1", "again": "2"}
    assert len({path.read_bytes() for path in tmp_path.rglob("best.safetensors")}) == 3
    monkeypatch.chdir(tmp_path / "again")
    with pytest.raises(InputError, match="expected a folder for this training alone"):
        train_script.main([*training_flags(boxes, cohort, tmp_path), "--max_steps=1"])


def test_weights_are_as_readable_as_other_files(classifier_folder: Path) -> None:
    modes = {path.stat().st_mode for path in classifier_folder.iterdir()}
    assert len(modes) == 1 and {"best.safetensors", "log.jsonl"} <= {
        path.name for path in classifier_folder.iterdir()
    }


def test_without_a_test_split_the_last_weights_are_kept(
    boxes: BoxCohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cohort.json"
    write_cohort(path, Cohort(path, {"train": {"p0_20": 0, "p1_20": 3}}))
    assert train_script.main([*training_flags(boxes, path, tmp_path / "out"), "--max_steps=2"]) == 0
    assert "nothing is reported" in capsys.readouterr().out
    assert (tmp_path / "out" / "best.safetensors").is_file()


def test_heatmaps_show_the_pressed_body(boxes: BoxCohort, cohort: Path, classifier_folder: Path) -> None:
    out, pair = boxes.path.with_name("found"), boxes.path.with_name("pair.json")
    write_cohort(pair, Cohort(pair, {"test": read_cohort(cohort).splits["test"]}))
    assert heatmap_script.main(heatmap_flags(boxes, pair, out, classifier_folder)) == 0
    healthy, pressed = (read_volume(out / f"{case}.nii.gz").array for case in SPLIT_CASES["test"])
    body = read_volume(boxes.dataroot / "label" / "p5_20.nii.gz").array > 0
    assert pressed.dtype == np.float32 and pressed.shape == (256, 256, 64)
    assert healthy.min() >= 0 and pressed.max() <= 1
    assert pressed.max() > 2 * healthy.max()
    assert not pressed[:, :, ~body.any((0, 1))].any()
    assert abs(int(pressed.sum((1, 2)).argmax()) - 128) <= 20  # rows: on the target, not on its neighbours


def test_second_run_skips(
    boxes: BoxCohort, classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cohort.json"
    write_cohort(path, Cohort(path, {"test": {"p0_20": 0}}))
    flags = heatmap_flags(boxes, path, tmp_path / "heat", classifier_folder)
    assert heatmap_script.main(flags) == 0
    assert heatmap_script.main(flags) == 0
    assert "1 skipped" in capsys.readouterr().out


def test_heatmaps_of_other_weights_are_made_anew(
    boxes: BoxCohort, classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Though their file is older than the heatmaps; those without a record are judged by their time."""
    path, other = tmp_path / "cohort.json", tmp_path / "other"
    write_cohort(path, Cohort(path, {"test": {"p0_20": 0}}))
    shutil.copytree(classifier_folder, other)
    classifier, its_settings = load_classifier(other / "best.safetensors")
    save_classifier(other / "best.safetensors", classifier, its_settings, {"step": 1})
    os.utime(other / "best.safetensors", (1e9, 1e9))
    for folder, counts in ((classifier_folder, "1 done"), (other, "1 done"), (other, "1 skipped")):
        assert heatmap_script.main(heatmap_flags(boxes, path, tmp_path / "heat", folder)) == 0
        assert counts in capsys.readouterr().out
    heatmap_record(tmp_path / "heat", "p0_20").unlink()
    assert heatmap_script.main(heatmap_flags(boxes, path, tmp_path / "heat", classifier_folder)) == 0
    assert "1 skipped" in capsys.readouterr().out


def test_batch_of_slices_does_not_change_the_heatmap(classifier_folder: Path) -> None:
    from Attention.volume_heatmap import volume_heatmap

    classifier, its_settings = load_classifier(classifier_folder / "best.safetensors")
    ct, label = box_case(20, 0, {20: PRESSED_ROWS}, seed=1)
    few, _ = volume_heatmap(classifier, its_settings, ct, label, batch_slices=7)
    whole, probabilities = volume_heatmap(classifier, its_settings, ct, label, batch_slices=64)
    assert np.abs(few - whole).max() <= 1 / 255 + 1e-6
    assert {19, 20, 21} <= set(probabilities)


def test_bodies_cut_off_by_the_view_are_not_judged() -> None:
    from Attention.volume_heatmap import whole_bodies

    label = np.zeros((20, 4, 4), np.uint8)
    label[:3], label[5:9], label[18:] = 8, 9, 10
    assert whole_bodies(label) == [9]


def test_missing_checkpoint_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors.*python Attention/train_classifier\.py"):
        heatmap_script.main(["--checkpoint", str(tmp_path / "none.safetensors")])


def test_no_checkpoint_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that are shipped for the phantom never step in unasked."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"classifier/best.*python Attention/train_classifier\.py"):
        heatmap_script.main([])


def test_another_file_is_no_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    broken, foreign = tmp_path / "broken.safetensors", tmp_path / "foreign.safetensors"
    broken.write_bytes(b"no weights")
    save_file({"weight": torch.zeros(1)}, foreign)
    for path in (broken, foreign):
        with pytest.raises(InputError, match="expected"):
            heatmap_script.main(["--checkpoint", str(path)])


def test_cohort_paths_replace_the_default_folders(
    boxes: BoxCohort, classifier_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {"straightened": str(boxes.dataroot), "heatmap": "elsewhere"}
    write_cohort("cohort.json", Cohort(Path("cohort.json"), {"test": {"p0_20": 0}}, paths))
    checkpoint = f"--checkpoint={classifier_folder / 'best.safetensors'}"
    assert heatmap_script.main(["--cohort=cohort.json", checkpoint, "--device=cpu"]) == 0
    assert Path("elsewhere/p0_20.nii.gz").is_file()


def test_a_bad_case_does_not_stop_the_others(
    boxes: BoxCohort, classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cohort.json"
    write_cohort(path, Cohort(path, {"test": {"missing_20": 0, "p0_20": 0}}))
    assert heatmap_script.main(heatmap_flags(boxes, path, tmp_path / "heat", classifier_folder)) == 1
    said = capsys.readouterr()
    assert "1 done" in said.out and "1 failed" in said.out and "missing_20" in said.err
