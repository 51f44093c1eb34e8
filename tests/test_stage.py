"""Stages: nothing is lost, nothing half-written, nothing silently skipped."""

from functools import partial
from pathlib import Path

import pytest

from util.cli import run_script
from util.errors import InputError
from util.paths import atomic_path, make_folder, read_json, visible
from util.stage import run_stage


def write_case(folder: Path, case: str) -> None:
    """Write a case's file; the names tell which ones go wrong."""
    if case.startswith("mistake"):
        raise InputError(f"{case}: expected a good file, found a bad one; mend it")
    if case.startswith("fault"):
        raise ValueError("a fault of the program")
    (folder / case).write_text("done")


def run(folder: Path, cases, **options) -> int:
    work = partial(write_case, folder)
    return run_stage("Writing", work, cases, lambda case: (folder / case).exists(), **options)


def test_a_bad_case_does_not_stop_the_others(tmp_path, capsys):  # nor in processes: test_scheduler.py
    assert run(tmp_path, ["a", "mistake", "fault", "b"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    told = capsys.readouterr()
    assert "2 done, 0 skipped (complete), 2 failed" in told.out
    assert "expected a good file" in told.err and "ValueError" in told.err


def test_complete_cases_are_skipped_unless_told(tmp_path, capsys):
    assert run(tmp_path, ["a", "b"]) == 0
    (tmp_path / "a").write_text("kept")
    assert run(tmp_path, ["a", "b"]) == 0
    assert (tmp_path / "a").read_text() == "kept"
    assert "0 done, 2 skipped" in capsys.readouterr().out
    assert run(tmp_path, ["a", "b"], overwrite=True) == 0
    assert (tmp_path / "a").read_text() == "done"


def test_a_killed_write_leaves_nothing(tmp_path):
    target = tmp_path / "new" / "volume.nii.gz"
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("half")
        raise RuntimeError
    assert list(target.parent.iterdir()) == []


def test_what_a_killed_write_left_is_not_seen(tmp_path, monkeypatch):
    for name in ("b.json", "a.json", ".0123.a.json", "x/c.json", "x/.4567.c.json", ".kept/d.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert visible(tmp_path, "*.json") == [tmp_path / "a.json", tmp_path / "b.json"]
    assert visible(tmp_path, "**/*.json")[2:] == [tmp_path / "x" / "c.json"]
    assert visible(tmp_path / "none", "*") == []
    monkeypatch.chdir(tmp_path / ".kept")
    assert visible(".", "*.json") == [Path("d.json")]
    assert visible(tmp_path / ".kept", "*") == [tmp_path / ".kept" / "d.json"]  # it was asked for itself


def test_a_folder_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder"):
        make_folder(tmp_path / "file" / "below")


def test_scripts_report_a_mistake_in_one_line(tmp_path, capsys):
    def main(argv=None):
        return len(read_json(tmp_path / "missing.json"))

    assert run_script(main) == 2
    assert capsys.readouterr().err.count("\n") == 1
