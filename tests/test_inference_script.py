"""The inference script from the cohort file to the volumes, with a small untrained generator."""

import csv
import hashlib
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from box_spine import write_box_cohort

from eval_3d_sagittal_twostage import main
from models import case_synthesis
from models.case_synthesis import SynthesisSettings
from models.checkpoint import save_generator
from models.generator import build_generator
from models.synthesis_records import record_path, write_table
from util.errors import InputError
from util.paths import (
    fake_ct,
    fake_label,
    heatmap_path,
    read_json,
    straightened_ct,
    straightened_label,
    write_json,
)
from util.volume import read_volume, write_volume


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boxes")
    return write_box_cohort(folder, patients=3, labels=(20,), fractures={"p2_20": 17})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """One small generator per plane, with random weights."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {}
    for plane in ("sagittal", "coronal"):
        torch.manual_seed(len(plane))
        paths[plane] = folder / f"{plane}.safetensors"
        save_generator(paths[plane], build_generator(ngf=4),
                       {"plane": plane, "crop_cols": 128, "attention": "heatmap"})
    return paths


def run(cohort, checkpoint, output, *flags):
    return main([*cohort.flags, f"--checkpoint={checkpoint}", f"--output={output}", "--device=cpu",
                 "--jobs=1", "--threads=1", *flags])


def rows_of(output):
    with (output / "synthesis.csv").open(newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_writes_volumes_and_table_and_skips_what_is_complete(cohort, checkpoints, tmp_path, capsys):
    assert run(cohort, checkpoints["sagittal"], tmp_path, "--cases", "p2_20") == 0
    for made, source in ((fake_ct(tmp_path, "p2_20"), straightened_ct(cohort.dataroot, "p2_20")),
                         (fake_label(tmp_path, "p2_20"), straightened_label(cohort.dataroot, "p2_20"))):
        volume, original = read_volume(made), read_volume(source)
        assert volume.array.shape == (256, 256, 64) and volume.array.dtype == np.uint8
        assert np.allclose(volume.affine, original.affine)
        assert not volume.array[:, :64].any() and not volume.array[:, 192:].any()
    row = rows_of(tmp_path)["p2_20"]
    assert (row["vertebra"], row["upper_vertebra"], row["lower_vertebra"]) == ("L1", "T12", "L2")
    assert row["original_height_mm"] == "17.0" and 0 < float(row["height_mm"]) <= 40
    assert row["sagittal_height_mm"] == row["height_mm"] and row["coronal_height_mm"] == ""
    before = fake_ct(tmp_path, "p2_20").stat().st_mtime_ns
    assert run(cohort, checkpoints["sagittal"], tmp_path, "--cases", "p2_20") == 0
    assert "0 done, 1 skipped" in capsys.readouterr().out
    assert fake_ct(tmp_path, "p2_20").stat().st_mtime_ns == before


@pytest.mark.parametrize("content", ["{", '{"case": "p2_20"}'], ids=["half-written", "whole"])
def test_the_table_passes_over_what_a_killed_write_left(tmp_path, content):
    record = record_path(tmp_path, "p2_20")
    write_json(record, {"case": "p2_20"})
    record.with_name(f".0123456789abcdef.{record.name}").write_text(content)
    write_table(tmp_path)
    assert (tmp_path / "synthesis.csv").read_text().count("p2_20") == 1


def test_another_method_is_not_taken_for_complete(cohort, checkpoints, tmp_path, capsys):
    for flags in (["--iterative=none"], ["--iterative=fractured"]):
        assert run(cohort, checkpoints["sagittal"], tmp_path, "--cases", "p2_20", *flags) == 0
        assert "1 done, 0 skipped" in capsys.readouterr().out
    assert rows_of(tmp_path)["p2_20"]["upper_height_mm"] == ""      # no neighbour is graded above 0


def test_other_weights_of_the_same_name_are_seen_by_a_process_that_lives_on(cohort, checkpoints, tmp_path):
    """As a cluster's workers do, this process keeps networks from one run to the next."""
    weights = tmp_path / "weights.safetensors"
    heights = []
    for plane in ("sagittal", "coronal", "sagittal"):
        shutil.copyfile(checkpoints[plane], weights)
        output = tmp_path / f"output_{len(heights)}"
        assert run(cohort, weights, output, "--cases", "p2_20", "--iterative=none", "--heights=head") == 0
        heights.append((rows_of(output)["p2_20"]["sagittal_height_mm"],
                        rows_of(output)["p2_20"]["coronal_height_mm"]))
    assert heights[0] == heights[2] and heights[0][0] and not heights[0][1] and heights[1][1]


def test_weights_that_change_within_a_run_are_refused(cohort, checkpoints, tmp_path):
    settings = SynthesisSettings(cohort.dataroot, tmp_path, (checkpoints["sagittal"],), cohort.heatmaps)
    with pytest.raises(InputError, match="expected the weights that this run began with"):
        case_synthesis.synthesize_case(settings, "0123456789abcdef", "p2_20")


def test_what_decides_a_result_is_told_apart(cohort, checkpoints, tmp_path):
    """Grades where fractured neighbours alone are restored, precision, and the very files."""
    settings = SynthesisSettings(cohort.dataroot, tmp_path, (checkpoints["sagittal"],), cohort.heatmaps)
    digest = case_synthesis.recipe(settings)
    case_synthesis.synthesize_case(settings, digest, "p2_20")
    assert case_synthesis.is_complete(settings, digest, "p2_20")
    copied = tmp_path / "copied"
    shutil.copytree(cohort.dataroot, copied)
    os.utime(straightened_ct(copied, "p2_20"), (1e9, 1e9))           # another file, older than the result
    for other in (replace(settings, amp=True), replace(settings, dataroot=copied)):
        assert not case_synthesis.is_complete(other, digest, "p2_20")
    graded = [replace(settings, iterative="fractured", fractured={"p2": labels}) for labels in ({19}, {21})]
    assert case_synthesis.recipe(graded[0]) == case_synthesis.recipe(graded[1])
    assert len({case_synthesis.ingredients(each, "p2_20") for each in graded}) == 2
    assert len({case_synthesis.ingredients(each, "p1_20") for each in graded}) == 1


def test_a_case_that_breaks_off_in_writing_is_not_complete(cohort, checkpoints, tmp_path, monkeypatch):
    """Though a record of the volumes that lay there before would say so."""
    settings = SynthesisSettings(cohort.dataroot, tmp_path, (checkpoints["sagittal"],), cohort.heatmaps)
    digest = case_synthesis.recipe(settings)
    case_synthesis.synthesize_case(settings, digest, "p2_20")

    def break_off(path, volume):
        if path == fake_label(tmp_path, "p2_20"):
            raise InputError("broken off")
        write_volume(path, volume)

    monkeypatch.setattr(case_synthesis, "write_volume", break_off)
    with pytest.raises(InputError, match="broken off"):
        case_synthesis.synthesize_case(settings, digest, "p2_20")
    assert not case_synthesis.is_complete(settings, digest, "p2_20")


@pytest.mark.parametrize("path_of", [fake_ct, fake_label])
def test_a_volume_that_is_cut_off_is_not_complete(cohort, checkpoints, tmp_path, path_of):
    settings = SynthesisSettings(cohort.dataroot, tmp_path, (checkpoints["sagittal"],), cohort.heatmaps)
    digest = case_synthesis.recipe(settings)
    case_synthesis.synthesize_case(settings, digest, "p2_20")
    whole = path_of(tmp_path, "p2_20").read_bytes()
    for kept in (0, 3, 1000, len(whole) - 1):
        path_of(tmp_path, "p2_20").write_bytes(whole[:kept])
        assert not case_synthesis.is_complete(settings, digest, "p2_20")
    path_of(tmp_path, "p2_20").write_bytes(whole)
    assert case_synthesis.is_complete(settings, digest, "p2_20")


def test_a_record_names_its_weights(cohort, checkpoints, tmp_path):
    settings = SynthesisSettings(cohort.dataroot, tmp_path, tuple(checkpoints.values()), cohort.heatmaps)
    case_synthesis.synthesize_case(settings, case_synthesis.recipe(settings), "p2_20")
    assert read_json(record_path(tmp_path, "p2_20"))["weights"] == [
        {"file": f"{path.parent.name}/{path.name}", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in checkpoints.values()]


def test_two_planes_are_fused(cohort, checkpoints, tmp_path):
    fused = f"--checkpoint_coronal={checkpoints['coronal']}"
    assert run(cohort, checkpoints["sagittal"], tmp_path, fused, "--cases", "p2_20", "--iterative=none") == 0
    row = rows_of(tmp_path)["p2_20"]
    mean = (float(row["sagittal_height_mm"]) + float(row["coronal_height_mm"])) / 2
    assert float(row["height_mm"]) == pytest.approx(mean, abs=2e-3)


def test_inference_does_without_tf32(checkpoints, monkeypatch):
    for _ in range(2):  # the second time the networks are there already
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
        torch.set_float32_matmul_precision("high")
        case_synthesis.load_models((checkpoints["sagittal"],), "cpu", amp=False)
        assert not torch.backends.cudnn.allow_tf32
        assert torch.get_float32_matmul_precision() == "highest"


def test_cases_in_several_threads_give_the_same_files(cohort, checkpoints, tmp_path, monkeypatch):
    fused = f"--checkpoint_coronal={checkpoints['coronal']}"
    for threads in (1, 3):
        monkeypatch.setattr(case_synthesis, "host_threads", lambda *_, count=threads: count)
        assert run(cohort, checkpoints["sagittal"], tmp_path / str(threads), fused) == 0
    made = [sorted(path for path in (tmp_path / str(threads)).rglob("*") if path.is_file())
            for threads in (1, 3)]
    assert len(made[0]) == 3 * 3 + 1
    assert [path.read_bytes() for path in made[0]] == [path.read_bytes() for path in made[1]]


def test_the_same_plane_twice_is_refused(cohort, checkpoints, tmp_path):
    with pytest.raises(InputError, match="expected the other plane"):
        run(cohort, checkpoints["sagittal"], tmp_path, f"--checkpoint_coronal={checkpoints['sagittal']}")


def test_a_bad_case_does_not_stop_the_others(cohort, checkpoints, tmp_path, capsys):
    path = heatmap_path(cohort.heatmaps, "p0_20")
    whole = read_volume(path)
    write_volume(path, type(whole)(whole.array[:, :, :60].copy(), whole.affine))
    try:
        assert run(cohort, checkpoints["sagittal"], tmp_path, "--iterative=none") == 1
    finally:
        write_volume(path, whole)
    output = capsys.readouterr()
    assert "2 done, 0 skipped (complete), 1 failed" in output.out
    assert "p0_20 failed" in output.err and "expected the shape" in output.err
    assert set(rows_of(tmp_path)) == {"p1_20", "p2_20"}


def test_wrong_names_are_refused_in_one_line(cohort, checkpoints, tmp_path):
    with pytest.raises(InputError, match="expected a generator's checkpoint, found no file"):
        run(cohort, tmp_path / "none.safetensors", tmp_path)
    with pytest.raises(InputError, match="--cases: expected cases"):
        run(cohort, checkpoints["sagittal"], tmp_path, "--cases", "p9_20")
