"""What bad input gets: one line with file or flag, expectation, finding and remedy; nothing half-written."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from Attention.checkpoint import KIND as CLASSIFIER
from Attention.checkpoint import read_description
from data.import_verse import main as import_verse
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
from phantom.make_cohort import main as make_cohort
from straighten.centroids import read_centroids
from straighten.curve import load_geometry
from straighten.location_json_local import main as locate
from straighten.straighten_mask_3d import main as straighten
from straighten.unstraighten import main as unstraighten
from util.cli import Main, number_from, run_script, whole_number
from util.errors import InputError
from util.paths import (
    fake_label,
    raw_centroids,
    raw_ct,
    raw_mask,
    read_json,
    straightened_label,
    write_json,
)
from util.stage import run_stage
from util.vertebrae import Cohort, read_cohort, split_case
from util.volume import Volume, read_mask, read_volume, write_volume

AFFINE = np.array([[0, 0, -1, 40], [0, -1, 0, 40], [-1, 0, 0, 75], [0, 0, 0, 1]], float)  # axes I-P-L


def told(capsys: pytest.CaptureFixture[str], main: Main, *flags: object) -> str:
    """Run a script that must refuse its input, and return the one line it says."""
    capsys.readouterr()
    assert run_script(lambda _=None: main([str(flag) for flag in flags])) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    return lines[0]


def boxes() -> np.ndarray:
    """A mask of two boxes, L1 above L2."""
    mask = np.zeros((60, 40, 40), np.uint8)
    mask[5:25, 10:30, 10:30], mask[32:55, 10:30, 10:30] = 20, 21
    return mask


def write_patient(raw: Path, name: str = "p") -> tuple[Path, Path]:
    """Write a patient of two boxes; return CT and mask."""
    write_volume(raw_ct(raw, name), Volume(np.where(boxes() > 0, 200, 40).astype(np.int16), AFFINE))
    write_volume(raw_mask(raw, name), Volume(boxes(), AFFINE))
    return raw_ct(raw, name), raw_mask(raw, name)


@pytest.fixture
def plain_file(tmp_path: Path) -> Path:
    """A file where a folder is wanted: nobody can write below it, not even root."""
    path = tmp_path / "file"
    path.write_text("x")
    return path


# Files


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


# Cohort


def test_a_cohort_without_any_case(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c\.json: expected cases, found none in any split; add them"):
        Cohort(tmp_path / "c.json", {"train": {}, "val": {}}).cases()


def test_a_grade_is_a_whole_number(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"train": {"p_20": 1.0}}')
    assert [type(grade) for grade in read_cohort(tmp_path / "c.json").grades.values()] == [int]


def test_a_case_names_no_other_folder() -> None:
    with pytest.raises(InputError, match="expected <patient>_<VerSe label"):
        split_case("../p_20")


# Flags


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
        RunState(tmp_path, options, nothing, []).check_same_run()


@pytest.mark.parametrize("metadata", ["no JSON", "{}", '{"arguments": {"kind": "residual"}, "settings": {}}'])
def test_a_generator_without_its_description(tmp_path: Path, metadata: str) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "g.safetensors", {GENERATOR: metadata})
    with pytest.raises(InputError, match=r"g\.safetensors: expected the description of a generator"):
        read_settings(tmp_path / "g.safetensors")


def test_a_classifier_without_its_description(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(1)}, tmp_path / "c.safetensors", {"kind": CLASSIFIER})
    with pytest.raises(InputError, match="expected the description of a fracture classifier"):
        read_description(tmp_path / "c.safetensors")


# A stage


def broken(_: str) -> None:
    """Fail as a library does, in several lines."""
    raise RuntimeError("first line\n\tsecond line")


def test_a_fault_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stage("work", broken, ["p_20"], lambda _: False) == 1
    assert "failed: RuntimeError: first line second line (test_bad_input.py:" in capsys.readouterr().err


# Straightening


@pytest.mark.parametrize("text, message", [
    ('[{"label": [20], "X": 1, "Y": 1, "Z": 1}]', "expected at least one vertebra"),
    ('[{"direction": 5}, {"label": 20, "X": 1, "Y": 1, "Z": 1}]', "three axis codes .*found 5"),
    (None, r"found no file; run straighten/location_json_local\.py"),
])
def test_a_foreign_centroid_file(tmp_path: Path, text: str | None, message: str) -> None:
    _, mask = write_patient(tmp_path)
    if text is not None:
        raw_centroids(tmp_path, "p").write_text(text)
    with pytest.raises(InputError, match=rf"p\.json: .*{message}"):
        read_centroids(raw_centroids(tmp_path, "p"), read_mask(mask))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
def test_a_damaged_geometry(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"p\.npz: expected the geometry .*; run straighten"):
        load_geometry(tmp_path / "p.npz")


def test_straightening_says_what_it_cannot_do(tmp_path: Path, plain_file: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    write_patient(tmp_path / "raw")
    write_json(tmp_path / "c.json", {"train": {"p_20": 0}})
    write_json(tmp_path / "none.json", {"train": {}})
    raw = ("--raw", tmp_path / "raw")
    assert "found 'Not a directory'" in told(capsys, straighten, *raw, "--out", plain_file / "x")
    assert "--labels 5: expected labels of cases" in told(
        capsys, straighten, *raw, "--out", tmp_path / "out", "--cohort", tmp_path / "c.json", "--labels", 5)
    for main in (locate, straighten):
        assert "found none in any split" in told(capsys, main, *raw, "--cohort", tmp_path / "none.json")
        assert "--raw" in told(capsys, main, "--raw", tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def test_carrying_back_says_at_once_where_it_cannot_write(tmp_path: Path, plain_file: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(tmp_path / "ct" / "p_20.nii.gz", Volume(boxes(), AFFINE))
    assert "found 'Not a directory'" in told(capsys, unstraighten, "--volumes", tmp_path / "ct",
                                             "--out", plain_file / "x")


# Phantom


def test_a_phantom_needs_a_place_for_its_cohort(tmp_path: Path, plain_file: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "raw"
    assert str(plain_file) in told(capsys, make_cohort, "--out", out, "--cohort", plain_file / "c.json")
    assert not list(out.iterdir())


# Import


def verse_tree(root: Path, damage: Callable[[Path, Path], object]) -> Path:
    """Write a VerSe tree of two scans, sub-a and sub-b; `damage` gets CT and mask of sub-b."""
    for name in ("sub-a", "sub-b"):
        paths = root / "rawdata" / f"{name}_ct.nii.gz", root / "derivatives" / f"{name}_seg-vert_msk.nii.gz"
        write_volume(paths[0], Volume(np.where(boxes() > 0, 200, 40).astype(np.int16), AFFINE))
        write_volume(paths[1], Volume(boxes(), AFFINE))
    damage(*paths)
    return root


def replace_mask(array: np.ndarray, moved_mm: float = 0.0) -> Callable[[Path, Path], object]:
    """Return a damage: another array, or the same somewhere else."""
    affine = AFFINE.copy()
    affine[0, 3] += moved_mm
    return lambda _, mask: write_volume(mask, Volume(array, affine))


def add_centroids(text: str) -> Callable[[Path, Path], object]:
    """Return a damage: a centroid file of that text."""
    return lambda _, mask: (mask.parent / "sub-b_seg-vb_ctd.json").write_text(text)


@pytest.mark.parametrize("damage, message", [
    (lambda ct, _: ct.write_bytes(ct.read_bytes()[:-200]), "_ct.nii.gz: expected a complete NIfTI"),
    (lambda _, mask: mask.write_bytes(b""), "_msk.nii.gz: expected a complete NIfTI"),
    (replace_mask(boxes()[:-1]), "expected the shape of"),
    (replace_mask(boxes(), 3.0), "found one 3.00 mm away"),
    (replace_mask(boxes() + np.float32(0.5)), "found fractions"),
    (replace_mask(boxes() + np.uint8(80)), "expected VerSe labels"),
    (add_centroids('[{"label": [20]}]'), "in VerSe's form"),
    (add_centroids("{"), "found a syntax error"),
], ids=["ct cut", "mask empty", "shape", "affine", "fractions", "labels", "centroids", "centroid JSON"])
def test_a_bad_scan_is_left_out_of_the_import(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                              damage: Callable[[Path, Path], object], message: str) -> None:
    root = verse_tree(tmp_path / "verse", damage)
    write_json(tmp_path / "g.json", {"train": {"sub-a_20": 0, "sub-b_20": 1}})
    flags = [f"--verse_root={root}", f"--grades={tmp_path / 'g.json'}", f"--out={tmp_path / 'raw'}",
             f"--cohort={tmp_path / 'c.json'}"]
    assert run_script(lambda _=None: import_verse(flags)) == 1
    failed = [line for line in capsys.readouterr().err.splitlines() if "sub-b failed:" in line]
    assert len(failed) == 1
    assert message in failed[0]
    assert read_cohort(tmp_path / "c.json").cases() == ["sub-a_20"]
    assert not (tmp_path / "raw" / "sub-b").exists()


def test_grades_with_a_torn_patient_are_refused(tmp_path: Path, plain_file: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.json").write_text(json.dumps({"train": {"sub-a_20": 0}, "val": {"sub-a_21": 0}}))
    flags = ("--verse_root", tmp_path, "--grades", tmp_path / "g.json", "--cohort", tmp_path / "c.json")
    assert "patient 'sub-a': expected in one split, found in train, val" in told(
        capsys, import_verse, *flags, "--out", tmp_path / "raw")
    assert "found 'Not a directory'" in told(capsys, import_verse, *flags, "--out", plain_file / "x")
    assert not (tmp_path / "c.json").exists()


# Evaluation


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
