"""The store of cut slices on disk."""

import errno
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from box_spine import AFFINE, BoxCohort, write_box_cohort

from data import slice_reading
from data.aligned_dataset import CaseVolumes, VertebraSlices, cut_vertebra
from data.integrity import read_cohort_slices
from data.slice_files import FORMAT, SliceCutter, map_slices, write_slices
from data.slice_reading import read_stored
from options.train_options import TrainOptions
from util.errors import InputError
from util.paths import heatmap_path, straightened_ct
from util.vertebrae import read_cohort
from util.volume import STRAIGHTENED_SHAPE, Volume, read_volume, write_volume

ROOT = Path(__file__).resolve().parent.parent
CASES = ["p0_19", "p0_20", "p1_19", "p1_20", "p2_19", "p2_20"]  # of train and test


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> BoxCohort:
    """Two patients to learn from, one to watch, one held out; two targets each."""
    return write_box_cohort(tmp_path_factory.mktemp("boxes"), patients=4, labels=(19, 20))


@pytest.fixture
def own_boxes(boxes: BoxCohort, tmp_path: Path) -> BoxCohort:
    """A copy, to be changed; without a store."""
    folder = tmp_path / "own"
    shutil.copytree(boxes.path.parent, folder, ignore=shutil.ignore_patterns("slices"))
    return replace(boxes, dataroot=folder / "straightened", heatmaps=folder / "heatmap",
                   path=folder / "cohort.json")


def cutter_of(boxes: BoxCohort) -> SliceCutter:
    """What training makes of its flags."""
    return SliceCutter(boxes.dataroot, boxes.heatmaps, "sagittal", 128,
                       read_cohort(boxes.path).fractured())


def assert_same(one: VertebraSlices, other: VertebraSlices) -> None:
    """Compare vertebrae to the last bit."""
    assert (one.case, one.top, one.bottom) == (other.case, other.top, other.bottom)
    for name in ("images", "distance", "measures_mm"):
        first, second = getattr(one, name), getattr(other, name)
        assert first.dtype == second.dtype and np.array_equal(first, second), name


def cut_again(boxes: BoxCohort, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Read the cohort from a store; return what was cut for it, after a look at how it came back."""
    cut: list[str] = []
    real = SliceCutter.cut
    with monkeypatch.context() as patch:
        patch.setattr(SliceCutter, "cut", lambda cutter, case: cut.append(case) or real(cutter, case))
        read = read_stored(CASES, cutter_of(boxes), folder, jobs=1)
    assert not read.problems and set(read.vertebrae) == set(CASES)
    for case in cut:
        assert_same(read.vertebrae[case], cutter_of(boxes).cut(case))
    return cut


def test_what_is_there_is_not_cut_again(boxes: BoxCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert cut_again(boxes, tmp_path / "s", monkeypatch) == CASES
    assert cut_again(boxes, tmp_path / "s", monkeypatch) == []
    lines = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("slices: ") for line in lines] == [
        f"0 cases found in {tmp_path / 's'}, 6 cut", f"6 cases found in {tmp_path / 's'}, 0 cut"]


def change_ct(boxes: BoxCohort) -> None:
    """Another grey level in one voxel of p0_20."""
    path = straightened_ct(boxes.dataroot, "p0_20")
    volume = read_volume(path)
    volume.array[128, 128, 32] ^= 1
    write_volume(path, volume)


def change_heatmap(boxes: BoxCohort) -> None:
    """Evidence of fracture in p1_19."""
    write_volume(heatmap_path(boxes.heatmaps, "p1_19"), Volume(np.full(STRAIGHTENED_SHAPE, 0.5, np.float32),
                                                               AFFINE))


def change_grade(boxes: BoxCohort) -> None:
    """A fracture of p0's T12, which is then no healthy neighbour of his L1 any more."""
    content = json.loads(boxes.path.read_text())
    content["train"]["p0_19"] = 2
    boxes.path.write_text(json.dumps(content))


@pytest.mark.parametrize(("change", "expected"), [
    (change_ct, ["p0_20"]), (change_heatmap, ["p1_19"]), (change_grade, ["p0_19", "p0_20"])])
def test_only_what_a_change_touches_is_cut_again(
        own_boxes: BoxCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str], change: Callable[[BoxCohort], None], expected: list[str]) -> None:
    cut_again(own_boxes, tmp_path / "s", monkeypatch)
    change(own_boxes)
    assert cut_again(own_boxes, tmp_path / "s", monkeypatch) == expected
    assert "MB of other volumes or flags lie there too" in capsys.readouterr().out


@pytest.mark.parametrize("flag", [{"plane": "coronal"}, {"crop_cols": 64}, {"heatmaps": None},
                                  {"fractured": {}}])
def test_flags_have_slices_of_their_own(own_boxes: BoxCohort, tmp_path: Path, flag: dict) -> None:
    change_grade(own_boxes)
    cutter = cutter_of(own_boxes)
    for one in (cutter, replace(cutter, **flag)):
        read = read_stored(["p0_20"], one, tmp_path, jobs=1)
        assert_same(read.vertebrae["p0_20"], one.cut("p0_20"))


def flip_a_byte(path: Path) -> None:
    """Change one byte of an image."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_a_byte, lambda path: path.write_bytes(path.read_bytes()[:-1]),
                                    lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_a_damaged_file_is_noticed_and_mended(boxes: BoxCohort, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch,
                                              damage: Callable[[Path], None]) -> None:
    cut_again(boxes, tmp_path, monkeypatch)
    path = cutter_of(boxes).file(tmp_path, "p1_20")
    before = path.read_bytes()
    damage(path)
    assert cut_again(boxes, tmp_path, monkeypatch) == ["p1_20"]
    assert path.read_bytes() == before


def test_slices_survive_their_file(tmp_path: Path) -> None:
    vertebra = VertebraSlices("p_20", np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2),
                              np.array([-1, 1], np.float32), 3, 9)
    write_slices(tmp_path / "a.safetensors", vertebra)
    mapped = map_slices(tmp_path / "a.safetensors", "p_20")
    assert mapped is not None and mapped.measures_mm is None
    assert_same(replace(mapped, measures_mm=np.zeros(1)), replace(vertebra, measures_mm=np.zeros(1)))
    (tmp_path / "a.safetensors").unlink()  # who deletes the store harms no run that has mapped it
    assert np.array_equal(mapped.images, vertebra.images)


def test_damage_of_any_byte_is_noticed(tmp_path: Path) -> None:
    vertebra = VertebraSlices("p_20", np.arange(24, dtype=np.uint8).reshape(2, 3, 2, 2),
                              np.array([-1, 1], np.float32), 3, 9, np.array([20.0, 21.0, 22.0]))
    path = tmp_path / "a.safetensors"
    write_slices(path, vertebra)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1:])
        assert map_slices(path, "p_20") is None, place


def test_the_format_s_number_is_raised_when_the_cut_changes() -> None:
    """The store cannot see a change of the code: where this fails, raise FORMAT and state the new digest."""
    label = np.zeros(STRAIGHTENED_SHAPE, np.uint8)
    label[116:140, 112:144, 12:52], label[86:110, 112:144, 12:52] = 20, 19
    heat = (np.indices(STRAIGHTENED_SHAPE).sum(0) % 256).astype(np.uint8)
    volumes = CaseVolumes(heat, label, heat, AFFINE)
    vertebra = cut_vertebra("p_20", volumes, {19, 20}, "sagittal")
    assert vertebra.measures_mm is not None
    content = [np.ascontiguousarray(vertebra.images).tobytes(), vertebra.distance.round(3).tobytes(),
               str((vertebra.top, vertebra.bottom, vertebra.measures_mm.round(3).tolist())).encode()]
    assert (FORMAT, hashlib.sha256(b"".join(content)).hexdigest()[:16]) == (1, "b9f34c27f84b93bb")


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


def test_two_runs_may_fill_a_store_at_once(boxes: BoxCohort, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    places = boxes.dataroot, boxes.heatmaps, tmp_path / "s"
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
    assert cut_again(boxes, tmp_path / "s", monkeypatch) == []


def test_processes_cut_what_threads_do_and_list_what_they_cannot(
        own_boxes: BoxCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = straightened_ct(own_boxes.dataroot, "p1_19")
    path.write_bytes(path.read_bytes()[:2000])
    cutter = cutter_of(own_boxes)
    threads = read_stored(CASES, cutter, tmp_path / "threads", jobs=2)
    monkeypatch.setattr(slice_reading, "FEW_CASES", 0)
    processes = read_stored(CASES, cutter, tmp_path / "processes", jobs=2)
    assert threads.problems == processes.problems and list(processes.problems) == ["p1_19"]
    assert str(path) in processes.problems["p1_19"]
    names = [sorted(file.name for file in (tmp_path / where).iterdir()) for where in ("threads", "processes")]
    assert names[0] == names[1] and len(names[0]) == 5
    for name in names[0]:
        assert (tmp_path / "threads" / name).read_bytes() == (tmp_path / "processes" / name).read_bytes()


def test_volumes_that_change_meanwhile_are_told(own_boxes: BoxCohort, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    real = SliceCutter.cut

    def cut_and_change(cutter: SliceCutter, case: str) -> VertebraSlices:
        vertebra = real(cutter, case)
        if case == "p0_20":
            change_ct(own_boxes)
        return vertebra

    monkeypatch.setattr(SliceCutter, "cut", cut_and_change)
    read = read_stored(CASES, cutter_of(own_boxes), tmp_path, jobs=1)
    assert list(read.problems) == ["p0_20"] and "that they changed; run again" in read.problems["p0_20"]


def read(cohort: BoxCohort, *flags: str):
    """Read a cohort as train.py does."""
    return read_cohort_slices(TrainOptions().parse([*cohort.flags, *flags]))


def test_a_folder_that_cannot_be_written_names_its_flag(boxes: BoxCohort, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"^--cache_dir .*/file/s: expected a folder to .*--cache none"):
        read(boxes, f"--cache_dir={tmp_path / 'file' / 's'}")


def test_a_full_disk_ends_the_run_even_if_bad_cases_may_be_skipped(
        boxes: BoxCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_path: Path, _content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"^--cache_dir .*found 'No space left on device'; make room"):
        read(boxes, f"--cache_dir={tmp_path / 's'}", "--skip_bad_cases")
    assert not list((tmp_path / "s").iterdir())


def test_the_store_lies_beside_the_volumes(own_boxes: BoxCohort) -> None:
    read(own_boxes)
    assert len(list((own_boxes.dataroot.parent / "slices").glob("*.sagittal.*.safetensors"))) == len(CASES)


@pytest.mark.parametrize("flag", ["--cache=none", "--dry_run"])
def test_nothing_is_written_where_nothing_shall_be(own_boxes: BoxCohort, flag: str) -> None:
    assert read(own_boxes, flag).train.cases == CASES[:4]
    assert not (own_boxes.dataroot.parent / "slices").exists()
