"""Bad files, cohorts, flags and tables get one line: what was expected, what was found, and the remedy."""

import re
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import pytest
import torch
from bad_input import told
from safetensors.torch import save_file

from Attention.checkpoint import KIND as CLASSIFIER
from Attention.checkpoint import read_description
from evaluation.report import main as report
from evaluation.report import read_predictions
from evaluation.rhlv.records import Folders
from evaluation.RHLV_quantification import is_complete as is_measured
from evaluation.SVM_grading import build_parser as grading_parser
from models.base_model import BaseModel
from models.checkpoint import KIND as GENERATOR
from models.checkpoint import read_settings
from models.run_state import RunState
from options.train_options import TrainOptions
from util.cli import number_from, whole_number
from util.errors import InputError
from util.paths import (
    fake_label,
    read_json,
    straightened_label,
    write_json,
)
from util.stage import run_stage
from util.vertebrae import Cohort, read_cohort, split_case
from util.volume import read_volume


@pytest.mark.parametrize("dtype", [[("R", "u1"), ("G", "u1"), ("B", "u1")], np.complex64],
                         ids=["rgb", "complex"])
def test_voxels_are_real_numbers(tmp_path: Path, dtype: object) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), dtype), np.eye(4)), tmp_path / "v.nii.gz")
    with pytest.raises(InputError, match=r"v\.nii\.gz: expected one real number per voxel, found .*; export"):
        read_volume(tmp_path / "v.nii.gz")


def test_a_folder_in_the_way_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.json").mkdir()
    with pytest.raises(InputError, match=r"c\.json: expected a file to write, found 'Is a directory'"):
        write_json(tmp_path / "c.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


def test_a_key_twice_is_no_json_of_ours(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"train": {"p_20": 0, "p_20": 3}}')
    with pytest.raises(InputError, match=r"c\.json: .*key 'p_20' twice"):
        read_json(tmp_path / "c.json")


def test_a_cohort_without_any_case(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.json: expected cases, found none in any split; add them"):
        Cohort(tmp_path / "c.json", {"train": {}, "val": {}}).cases()


def test_a_grade_is_a_whole_number(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"train": {"p_20": 1.0}}')
    assert [type(grade) for grade in read_cohort(tmp_path / "c.json").grades.values()] == [int]


def test_a_case_names_no_other_folder() -> None:
    with pytest.raises(InputError, match="expected <patient>_<VerSe label"):
        split_case("../p_20")


@pytest.mark.parametrize("flags", [("--beta1", "1"), ("--lr", "nan"), ("--seed", "-1"), ("--seed", "9" * 20)])
def test_numbers_out_of_range_are_refused_by_the_parser(capsys: pytest.CaptureFixture[str],
                                                        flags: tuple[str, str]) -> None:
    with pytest.raises(SystemExit) as stop:
        TrainOptions().build_parser().parse_args(flags)
    assert stop.value.code == 2
    assert f"argument {flags[0]}: expected" in capsys.readouterr().err


def test_limits_belong_to_their_side() -> None:
    assert number_from(0.0, below=1.0)("0") == 0.0
    assert whole_number(1)("1") == 1


def test_a_run_stays_in_its_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "c.json", {"train": {"p_20": 0}})
    with pytest.raises(InputError, match=r"--name '\.\.': expected a plain folder name"):
        TrainOptions().parse(["--cohort", str(tmp_path / "c.json"), "--name", ".."])


@pytest.mark.parametrize("text, message", [
    (None, "--continue_train: expected a run in"),
    ("[1]", "expected the flags of a run, found list"),
    ("{}", "--model None (now pix2pix)"),
])
def test_a_run_goes_on_from_a_run(tmp_path: Path, text: str | None, message: str) -> None:
    write_json(tmp_path / "c.json", {"train": {"p_20": 0}})
    if text is not None:
        (tmp_path / "options.json").write_text(text)
    options, nothing = TrainOptions().parse(["--cohort", str(tmp_path / "c.json")]), cast(BaseModel, None)
    with pytest.raises(InputError, match=re.escape(message)):
        RunState(tmp_path, options, nothing, [], []).check_same_run()


@pytest.mark.parametrize("metadata", ["no JSON", "{}", '{"arguments": {"kind": "residual"}, "settings": {}}'])
def test_a_generator_without_its_description(tmp_path: Path, metadata: str) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "g.safetensors", {GENERATOR: metadata})
    with pytest.raises(InputError, match=r"g\.safetensors: expected the description of a generator"):
        read_settings(tmp_path / "g.safetensors")


def test_a_classifier_without_its_description(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "c.safetensors", {"kind": CLASSIFIER})
    with pytest.raises(InputError, match="expected the description of a fracture classifier"):
        read_description(tmp_path / "c.safetensors")


def broken(_: str) -> None:
    """Fail as a library does, in several lines."""
    raise RuntimeError("first line\n\tsecond line")


def test_a_fault_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage("work", broken, ["p_20"], lambda _: False) == 1
    assert "failed: RuntimeError: first line second line (test_bad_input.py:" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "case,patient\np_20,p\n"])
def test_a_report_of_a_foreign_table(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    write_json(tmp_path / "c.json", {"train": {"p_20": 0}})
    (tmp_path / "RHLV").mkdir()
    (tmp_path / "RHLV" / "rhlv.csv").write_text(text)
    line = told(capsys, report, "--cohort", tmp_path / "c.json", "--output", tmp_path)
    assert "rhlv.csv: expected" in line
    assert "RHLV_quantification.py" in line
    assert not (tmp_path / "report").exists()


def test_predictions_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "grading").mkdir()
    (tmp_path / "grading" / "predictions.csv").write_text("")
    with pytest.raises(InputError, match=r"predictions\.csv: expected the grades .*; run SVM_grading"):
        read_predictions(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_foreign_record_is_measured_anew(tmp_path: Path, text: str) -> None:
    folders = Folders(tmp_path / "straightened", tmp_path)
    for path in (straightened_label(folders.dataroot, "p_20"), fake_label(tmp_path, "p_20"),
                 folders.record("p_20")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert not is_measured("p_20", folders)


@pytest.mark.parametrize("penalty", ["0", "-1", "nan"])
def test_a_penalty_is_positive(capsys: pytest.CaptureFixture[str], penalty: str) -> None:
    with pytest.raises(SystemExit):
        grading_parser().parse_args(["--penalty", penalty])
    assert "argument --penalty: expected a finite number" in capsys.readouterr().err
