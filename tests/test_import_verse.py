"""Import of an official VerSe tree."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.import_verse import main
from data.verse_tree import find_scans
from util.errors import InputError
from util.paths import raw_centroids, raw_ct, raw_mask
from util.vertebrae import read_cohort
from util.volume import Volume, read_ct_and_mask, write_volume


def write_subject(root: Path, subject: str, *, with_ct: bool = True) -> None:
    """Write one subject in VerSe's layout: two boxes, L1 and L2."""
    mask = np.zeros((30, 30, 60), np.uint8)
    mask[5:25, 5:25, 8:26], mask[5:25, 5:25, 32:50] = 21, 20
    folder = root / "derivatives" / subject
    write_volume(folder / f"{subject}_seg-vert_msk.nii.gz", Volume(mask, np.eye(4)))
    centroids = [{"direction": ["R", "A", "S"]}, {"label": 20, "X": 15.0, "Y": 15.0, "Z": 41.0},
                 {"label": 21, "X": 15.0, "Y": 15.0, "Z": 17.0}]
    (folder / f"{subject}_seg-subreg_ctd.json").write_text(json.dumps(centroids))
    if with_ct:
        ct = np.where(mask > 0, 300, 40).astype(np.int16)
        write_volume(root / "rawdata" / subject / f"{subject}_ct.nii.gz", Volume(ct, np.eye(4)))


def run(tmp_path: Path, grades: Path) -> int:
    return main(["--verse_root", str(tmp_path / "verse"), "--grades", str(grades),
                 "--out", str(tmp_path / "raw"), "--cohort", str(tmp_path / "cohort.json")])


def grades_file(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "grades.json"
    path.write_text(json.dumps(content))
    return path


def test_a_subject_arrives_unchanged_and_keeps_its_split(tmp_path):
    write_subject(tmp_path / "verse", "sub-verse900")
    grades = {"train": {"sub-verse901_20": 1}, "val": {"sub-verse900_20": 0, "sub-verse900_21": 3}}
    assert run(tmp_path, grades_file(tmp_path, grades)) == 0
    cohort = read_cohort(tmp_path / "cohort.json")
    assert cohort.splits["val"] == grades["val"] and not cohort.splits.get("train")
    raw = tmp_path / "raw"
    ct, mask = read_ct_and_mask(raw_ct(raw, "sub-verse900"), raw_mask(raw, "sub-verse900"))
    assert ct.array.max() == 300 and set(np.unique(mask.array)) == {0, 20, 21}
    assert raw_centroids(raw, "sub-verse900").is_file()


def test_a_subject_of_one_scan_is_known_by_its_own_name(tmp_path):
    """Though the scan's name says more; and no part of a mask's ending is taken for a scan's name."""
    folder = tmp_path / "derivatives" / "sub-verse401"
    folder.mkdir(parents=True)
    (folder / "sub-verse401_split-verse253_seg-vert_msk.nii.gz").touch()
    [scan] = find_scans(tmp_path, ["sub-verse401"])
    assert (scan.stem, scan.name) == ("sub-verse401_split-verse253", "sub-verse401")


def test_hidden_files_are_no_scans(tmp_path):
    """As other systems leave them beside copied files, or a killed copy."""
    write_subject(tmp_path, "sub-verse900")
    before = find_scans(tmp_path)
    folder = tmp_path / "derivatives" / "sub-verse900"
    (folder / "._sub-verse900_seg-vert_msk.nii.gz").write_bytes(b"no image")
    assert find_scans(tmp_path) == before


def test_grades_from_a_table(tmp_path):
    write_subject(tmp_path / "verse", "sub-verse900")
    table = tmp_path / "grades.csv"
    table.write_text("patient,label,grade,split\nsub-verse900,20,2,test\nsub-verse900,21,0,test\n")
    assert run(tmp_path, table) == 0
    splits = read_cohort(tmp_path / "cohort.json").splits
    assert splits["test"] == {"sub-verse900_20": 2, "sub-verse900_21": 0}


def test_what_is_missing_is_said(tmp_path, capsys):
    write_subject(tmp_path / "verse", "sub-verse900")
    write_subject(tmp_path / "verse", "sub-verse902", with_ct=False)
    grades = {"train": {"sub-verse900_20": 0, "sub-verse901_20": 1, "sub-verse902_20": 1}}
    run(tmp_path, grades_file(tmp_path, grades))
    told = capsys.readouterr()
    assert "sub-verse901" in told.out + told.err
    assert "mask without CT" in told.out + told.err
    assert read_cohort(tmp_path / "cohort.json").cases() == ["sub-verse900_20"]


def test_an_empty_tree_is_an_error(tmp_path):
    (tmp_path / "verse").mkdir()
    with pytest.raises(InputError, match="verse"):
        run(tmp_path, grades_file(tmp_path, {"train": {"sub-verse900_20": 0}}))
