"""Filling the store of cut slices: in several runs or processes at once, and where it cannot be filled."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
from box_spine import BoxCohort
from slice_store import CASES, change_ct, cut_again, cutter_of

from data import slice_reading
from data.aligned_dataset import VertebraSlices
from data.integrity import read_cohort_slices
from data.slice_files import SliceCutter
from data.slice_reading import read_stored
from options.train_options import TrainOptions
from util.errors import InputError
from util.paths import straightened_ct

ROOT = Path(__file__).resolve().parent.parent
BUILD = """
import sys
from pathlib import Path
from data.slice_files import SliceCutter
from data.slice_reading import read_stored
dataroot, heatmaps, folder, *cases = sys.argv[1:]
cutter = SliceCutter(Path(dataroot), Path(heatmaps), "sagittal", 128, {})
print("ready", flush=True)
sys.stdin.readline()
print(len(read_stored(cases, cutter, Path(folder), 1).vertebrae))
"""


def test_two_runs_may_fill_a_store_at_once(pairs: BoxCohort, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    places = pairs.dataroot, pairs.heatmaps, tmp_path / "s"
    command = [sys.executable, "-c", BUILD, *map(str, places), *CASES]
    builders = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(2)]
    for builder in builders:
        assert builder.stdout.readline() == "ready\n"  # both have imported all that they need
    for builder in builders:
        builder.stdin.write("go\n")
        builder.stdin.flush()
    for builder in builders:
        out, _ = builder.communicate()
        assert builder.returncode == 0 and out.splitlines()[-1] == str(len(CASES))
    assert len(list((tmp_path / "s").iterdir())) == len(CASES)  # and nothing half-written
    assert cut_again(pairs, tmp_path / "s", monkeypatch) == []


def test_what_another_run_takes_away_while_the_store_is_counted_is_no_matter(
        pairs: BoxCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    """Its temporary files get other names at any moment."""
    (tmp_path / "other").write_bytes(bytes(2_000_000))
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: [*listed(folder), folder / ".temporary.gone"])
    read_stored(CASES, cutter_of(pairs), tmp_path, 1)
    assert "; 2 MB of other volumes or flags lie there too" in capsys.readouterr().out


def test_processes_cut_what_threads_do_and_list_what_they_cannot(
        own_pairs: BoxCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = straightened_ct(own_pairs.dataroot, "p1_19")
    path.write_bytes(path.read_bytes()[:2000])
    cutter = cutter_of(own_pairs)
    threads = read_stored(CASES, cutter, tmp_path / "threads", jobs=2)
    monkeypatch.setattr(slice_reading, "FEW_CASES", 0)
    processes = read_stored(CASES, cutter, tmp_path / "processes", jobs=2)
    assert threads.problems == processes.problems and list(processes.problems) == ["p1_19"]
    assert str(path) in processes.problems["p1_19"]
    names = [sorted(file.name for file in (tmp_path / where).iterdir()) for where in ("threads", "processes")]
    assert names[0] == names[1] and len(names[0]) == 5
    for name in names[0]:
        assert (tmp_path / "threads" / name).read_bytes() == (tmp_path / "processes" / name).read_bytes()


def test_volumes_that_change_meanwhile_are_told(own_pairs: BoxCohort, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    real = SliceCutter.cut

    def cut_and_change(cutter: SliceCutter, case: str) -> VertebraSlices:
        vertebra = real(cutter, case)
        if case == "p0_20":
            change_ct(own_pairs)
        return vertebra

    monkeypatch.setattr(SliceCutter, "cut", cut_and_change)
    read = read_stored(CASES[:2], cutter_of(own_pairs), tmp_path, jobs=1)
    assert list(read.problems) == ["p0_20"] and "that they changed; run again" in read.problems["p0_20"]


def read(cohort: BoxCohort, *flags: str):
    """Read a cohort as train.py does."""
    return read_cohort_slices(TrainOptions().parse([*cohort.flags, *flags]))


def test_a_folder_that_cannot_be_written_names_its_flag(pairs: BoxCohort, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"^--cache_dir .*/file/s: expected a folder to .*--cache none"):
        read(pairs, f"--cache_dir={tmp_path / 'file' / 's'}")


def test_a_full_disk_ends_the_run_even_if_bad_cases_may_be_skipped(
        pairs: BoxCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"^--cache_dir .*found 'No space left on device'; make room"):
        read(pairs, f"--cache_dir={tmp_path / 's'}", "--skip_bad_cases")
    assert not list((tmp_path / "s").iterdir())


def test_the_store_lies_beside_the_volumes(own_pairs: BoxCohort) -> None:
    read(own_pairs)
    assert len(list((own_pairs.dataroot.parent / "slices").glob("*.sagittal.*.safetensors"))) == len(CASES)


@pytest.mark.parametrize("flag", ["--cache=none", "--dry_run"])
def test_nothing_is_written_where_nothing_shall_be(own_pairs: BoxCohort, flag: str) -> None:
    assert read(own_pairs, flag).train.cases == CASES[:4]
    assert not (own_pairs.dataroot.parent / "slices").exists()


def test_a_dry_run_reads_fractured_vertebrae_and_the_hold_out_too(
        own_pairs: BoxCohort, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads(own_pairs.path.read_text())
    content["train"]["p0_20"] = 3
    own_pairs.path.write_text(json.dumps(content))
    held_out = next(iter(content["val"]))
    for case in ("p0_20", held_out):
        path = straightened_ct(own_pairs.dataroot, case)
        path.write_bytes(path.read_bytes()[:2000])
    assert read(own_pairs).status == 0  # training reads neither
    with pytest.raises(InputError, match="found 2 with the problems above"):
        read(own_pairs, "--dry_run")
    told = capsys.readouterr().err
    assert all(f"CT/{case}.nii.gz: expected a complete NIfTI" in told for case in ("p0_20", held_out))
    assert read(own_pairs, "--dry_run", "--skip_bad_cases").train.cases == ["p0_19", *CASES[2:4]]
