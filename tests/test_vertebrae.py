"""Vertebrae: neighbours follow anatomy, and the cohort file is checked whole."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from util.errors import InputError
from util.vertebrae import (
    LABELS,
    Cohort,
    case_name,
    healthy_labels,
    label_name,
    neighbours,
    read_cohort,
    split_case,
    write_cohort,
)

T11, T12, T13, L1, L2, L5, L6 = 18, 19, 28, 20, 21, 24, 25


def test_names():
    assert [label_name(label) for label in (1, 8, T12, L1, L6, T13)] == ["C1", "T1", "T12", "L1", "L6", "T13"]


def test_neighbours_follow_anatomy():
    assert neighbours(L1, {T12, L1, L2}) == (T12, L2)
    assert neighbours(L1, {T12, T13, L1, L2}) == (T13, L2)
    assert neighbours(T12, {T11, T12, T13}) == (T11, T13)
    assert neighbours(L6, {L5, L6}) == (L5, None)
    assert neighbours(L5, {L5, L6}) == (None, L6)


def test_a_missing_vertebra_leaves_no_neighbour():
    assert neighbours(L1, {T11, L1, 22}) == (None, None)


@given(st.text("ab_0-", min_size=1), st.sampled_from(sorted(LABELS)))
def test_cases_split_at_the_last_underscore(patient, label):
    assert split_case(case_name(patient, label)) == (patient, label)


@pytest.mark.parametrize("case", ["20", "_20", "patient", "patient_26", "patient_x", "patient_"])
def test_other_case_names_are_refused(case):
    with pytest.raises(InputError, match=case):
        split_case(case)


def test_cohort_reads_what_it_wrote(tmp_path):
    cohort = Cohort(tmp_path / "c.json", {"train": {"a_20": 0}, "val": {"b_20": 3}}, {"raw": "here"})
    write_cohort(cohort.path, cohort)
    assert read_cohort(cohort.path) == cohort


def test_published_form_with_splits_alone(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"train": {"a_20": 0}, "test": {}, "val": {}}))
    assert read_cohort(path).cases("train") == ["a_20"]
    with pytest.raises(InputError, match="found none"):
        read_cohort(path).cases("val")


def test_every_problem_is_listed(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"train": {"a_20": 4, "b_99": 0, "c_20": 0}, "val": {"c_21": 1}, "dev": {}}))
    with pytest.raises(InputError) as caught:
        read_cohort(path)
    for problem in ("found 'dev'", "found 4", "'b_99'", "patient 'c'"):
        assert problem in str(caught.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", "{}"])
def test_no_cohort_at_all(tmp_path, text):
    path = tmp_path / "c.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"c\.json"):
        read_cohort(path)


def test_healthy_means_not_graded_above_the_limit():
    cohort = Cohort(None, {"train": {"a_20": 1, "a_21": 0, "b_20": 3}})
    assert healthy_labels(cohort, "a", {19, 20, 21}) == {19, 21}
    assert healthy_labels(cohort, "a", {19, 20, 21}, max_grade=1) == {19, 20, 21}


def test_a_cohort_file_that_holds_another_cohort_is_kept(tmp_path, capsys):
    path = tmp_path / "cohort.json"
    cohorts = [Cohort(path, {"train": {"p_20": grade}}) for grade in (0, 1, 1, 2)]
    for cohort in cohorts:
        write_cohort(path, cohort)
    assert read_cohort(path).grades == {"p_20": 2}
    assert read_cohort(tmp_path / "cohort.1.json").grades == {"p_20": 0}
    assert read_cohort(tmp_path / "cohort.2.json").grades == {"p_20": 1}
    assert len(list(tmp_path.iterdir())) == 3
    assert f"of this name is kept as {tmp_path / 'cohort.1.json'}" in capsys.readouterr().out
