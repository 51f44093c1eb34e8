"""The store of cut slices on disk: what is in it, what is cut again, what damage does."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from box_spine import AFFINE, BoxCohort
from slice_store import CASES, assert_same, change_ct, cut_again, cutter_of

from data.aligned_dataset import CaseVolumes, VertebraSlices, cut_vertebra
from data.slice_files import FORMAT, map_slices, write_slices
from data.slice_reading import read_stored
from util.paths import heatmap_path
from util.volume import STRAIGHTENED_SHAPE, Volume, write_volume


@pytest.fixture
def filled(whole_store: Path, tmp_path: Path) -> Path:
    """A store with all cases of the pairs, to be changed."""
    return Path(shutil.copytree(whole_store, tmp_path / "filled"))


@pytest.fixture(scope="module")
def whole_store(pairs: BoxCohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, not to be changed."""
    folder = tmp_path_factory.mktemp("store")
    assert not read_stored(CASES, cutter_of(pairs), folder, jobs=1).problems
    return folder


def test_what_is_there_is_not_cut_again(pairs: BoxCohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert cut_again(pairs, tmp_path / "s", monkeypatch) == CASES
    assert cut_again(pairs, tmp_path / "s", monkeypatch) == []
    lines = capsys.readouterr().out.splitlines()
    assert [line.removeprefix("slices: ") for line in lines] == [
        f"0 cases found in {tmp_path / 's'}, 6 cut", f"6 cases found in {tmp_path / 's'}, 0 cut"]


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
        own_pairs: BoxCohort, filled: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str], change: Callable[[BoxCohort], None], expected: list[str]) -> None:
    change(own_pairs)
    assert cut_again(own_pairs, filled, monkeypatch) == expected
    assert "MB of other volumes or flags lie there too" in capsys.readouterr().out


def test_flags_have_slices_of_their_own(own_pairs: BoxCohort, tmp_path: Path) -> None:
    change_grade(own_pairs)
    cutter = cutter_of(own_pairs)
    flags = ({}, {"plane": "coronal"}, {"crop_cols": 64}, {"heatmaps": None}, {"fractured": {}})
    for flag in flags:
        one = replace(cutter, **flag)
        read = read_stored(["p0_20"], one, tmp_path / "s", jobs=1)
        assert_same(read.vertebrae["p0_20"], one.cut("p0_20"))
    assert len(list((tmp_path / "s").iterdir())) == len(flags)


def flip_a_byte(path: Path) -> None:
    """Change one byte of an image."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_a_byte, lambda path: path.write_bytes(path.read_bytes()[:-1]),
                                    lambda path: path.write_bytes(b""), lambda path: path.unlink()])
def test_a_damaged_file_is_noticed_and_mended(pairs: BoxCohort, filled: Path,
                                              monkeypatch: pytest.MonkeyPatch,
                                              damage: Callable[[Path], None]) -> None:
    path = cutter_of(pairs).file(filled, "p1_20")
    before = path.read_bytes()
    damage(path)
    assert cut_again(pairs, filled, monkeypatch) == ["p1_20"]
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
