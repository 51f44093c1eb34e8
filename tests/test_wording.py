"""Numbers agree with their nouns, and a message ends with one piece of advice."""

from pathlib import Path

import pytest
from box_spine import BoxCohort

from data.grade_tables import read_grades
from data.integrity import missing_files
from util.errors import InputError
from util.paths import straightened_ct, straightened_label, write_json
from util.vertebrae import read_cohort
from util.wording import counted, named, vertebrae


def test_numbers_and_nouns() -> None:
    assert [counted(number, "patient") for number in range(3)] == ["0 patients", "1 patient", "2 patients"]
    assert [named(number, "is", "are") for number in (1, 2)] == ["is", "are"]
    assert [vertebrae(1), vertebrae(2, "healthy")] == ["1 vertebra", "2 healthy vertebrae"]


@pytest.mark.parametrize("read", [read_cohort, read_grades])
def test_a_wrong_name_is_followed_by_one_advice(tmp_path: Path, read) -> None:
    write_json(tmp_path / "c.json", {"train": {"p_26": 0, "q": 0}})
    with pytest.raises(InputError) as told:
        read(tmp_path / "c.json")
    assert str(told.value).count("correct") == 1 and str(told.value).endswith("; correct the file")
    assert "case 'p_26'" in str(told.value) and "case 'q'" in str(told.value)


def test_a_case_without_volumes_is_followed_by_one_advice(own_pairs: BoxCohort) -> None:
    for volume in (straightened_ct, straightened_label):
        volume(own_pairs.dataroot, "p0_20").unlink()
    problem = missing_files(own_pairs.cohort, own_pairs.dataroot, own_pairs.heatmaps)["p0_20"]
    assert problem.count("run:") == 1 and "CT/p0_20.nii.gz and " in problem
    assert f"--cohort {own_pairs.cohort.path} --out {own_pairs.dataroot}" in problem
