"""Bad scans get one line from straightening, phantom and import, and leave nothing half-written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_input import AFFINE, boxes, told, write_patient

from data.import_verse import main as import_verse
from phantom.make_cohort import main as make_cohort
from straighten.centroids import read_centroids
from straighten.curve import load_geometry
from straighten.location_json_local import main as locate
from straighten.straighten_mask_3d import main as straighten
from straighten.unstraighten import main as unstraighten
from util.cli import run_script
from util.errors import InputError
from util.paths import (
    raw_centroids,
    write_json,
)
from util.vertebrae import read_cohort
from util.volume import Volume, read_mask, write_volume


@pytest.fixture
def plain_file(tmp_path: Path) -> Path:
    """A file where a folder is wanted: nobody can write below it, not even root."""
    path = tmp_path / "file"
    path.write_text("x")
    return path


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


def test_a_phantom_needs_a_place_for_its_cohort(tmp_path: Path, plain_file: Path,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "raw"
    assert str(plain_file) in told(capsys, make_cohort, "--out", out, "--cohort", plain_file / "c.json")
    assert not list(out.iterdir())


def verse_tree(root: Path, damage: Callable[[Path, Path], object]) -> Path:
    """Write a VerSe tree of two scans, sub-a and sub-b; `damage` gets CT and mask of sub-b."""
    for name in ("sub-a", "sub-b"):
        paths = root / "rawdata" / f"{name}_ct.nii.gz", root / "derivatives" / f"{name}_seg-vert_msk.nii.gz"
        write_volume(paths[0], Volume(np.where(boxes() > 0, 400, -100).astype(np.int16), AFFINE))
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
