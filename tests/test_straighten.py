"""Straightening: from the scanner's files to body-only labels of true height, and back."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import label as label_components

from phantom.make_cohort import main as make_cohort
from straighten.bodies import label_boxes
from straighten.curve import load_geometry
from straighten.location_json_local import main as locate
from straighten.sampling import sample_label
from straighten.straighten_mask_3d import main as straighten
from straighten.unstraighten import main as unstraighten
from straighten.vertebral_body import extract_body
from util.paths import (
    geometry_path,
    raw_centroids,
    raw_ct,
    raw_mask,
    read_json,
    straightened_ct,
    straightened_label,
    write_json,
)
from util.volume import (
    CONTENT_COLUMNS,
    STRAIGHTENED_CENTRE,
    STRAIGHTENED_SHAPE,
    Volume,
    pad_columns,
    read_mask,
    read_volume,
    write_volume,
)

PATIENT, BODY_ONLY = "phantom-s31-000", "bodies"
LABELS = range(15, 25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A phantom straightened twice: with its mask, arch and all, and with a mask of the true bodies alone."""
    root = tmp_path_factory.mktemp("straighten")
    raw = root / "raw"
    assert make_cohort(["--patients", "1", "--seed", "31", "--out", str(raw),
                        "--cohort", str(root / "cohort.json")]) == 0
    assert locate(["--raw", str(raw)]) == 0
    (raw / BODY_ONLY).mkdir()
    for source, target in ((raw_ct(raw, PATIENT), raw_ct(raw, BODY_ONLY)),
                           (raw / PATIENT / "truth" / "body.nii.gz", raw_mask(raw, BODY_ONLY)),
                           (raw_centroids(raw, PATIENT), raw_centroids(raw, BODY_ONLY))):
        shutil.copy(source, target)
    assert straighten(["--raw", str(raw), "--out", str(root / "straightened")]) == 0
    return root


def label_of(root: Path, patient: str, label: int) -> np.ndarray:
    return read_volume(straightened_label(root / "straightened", f"{patient}_{label}")).array


@pytest.mark.parametrize("label", LABELS)
def test_only_the_body_stays(folder, label):
    """The arch goes, the body stays: against the true body on the same straightened grid."""
    curve = load_geometry(geometry_path(folder / "straightened", PATIENT)).curve
    whole, true = (read_mask(raw_mask(folder / "raw", patient)) for patient in (PATIENT, BODY_ONLY))
    row = int(curve.target_point(label)[0])
    on_grid = [sample_label(mask, label_boxes(mask)[label], label, curve, slice(row - 50, row + 50))
               for mask in (whole, true)]
    body, true_body = extract_body(on_grid[0]), on_grid[1]
    assert on_grid[0].sum() > 1.2 * true_body.sum()  # there is an arch to take away
    assert 2 * (body & true_body).sum() / (body.sum() + true_body.sum()) >= 0.97
    assert label_components(body)[1] == 1            # no island
    unchanged = extract_body(true_body)              # a mask that holds the body alone already
    assert 2 * (unchanged & true_body).sum() / (unchanged.sum() + true_body.sum()) >= 0.99


@pytest.mark.filterwarnings("error")
def test_a_fragment_that_fills_its_box_is_all_body():
    """So is what the scan's border leaves of a vertebra: nothing lies before its core."""
    fragment = np.zeros((20, 20, 20), bool)
    fragment[4:16, 5:11, 6:15] = True
    assert (extract_body(fragment) == fragment).all()


@pytest.mark.parametrize("label", LABELS)
def test_heights_are_true(folder, label):
    from util.body_heights import measure_body, own_body, third_heights_mm

    record = read_json(folder / "raw" / PATIENT / "truth" / "truth.json")["vertebrae"][str(label)]
    measured = third_heights_mm(measure_body(own_body(label_of(folder, PATIENT, label), label)))[:3]
    assert np.abs(measured - record["height_after_mm"]).max() < 1.6     # slices are up to 3 mm thick
    assert np.abs(measured - record["height_after_mm"]).mean() < 0.9


def test_volumes_keep_the_convention(folder):
    for label in LABELS:
        ct = read_volume(straightened_ct(folder / "straightened", f"{PATIENT}_{label}"))
        body = label_of(folder, PATIENT, label)
        assert ct.array.shape == body.shape == STRAIGHTENED_SHAPE
        assert ct.array.dtype == body.dtype == np.uint8
        outside = np.ones(STRAIGHTENED_SHAPE[1], bool)
        outside[pad_columns(np.ones((1, CONTENT_COLUMNS), bool), STRAIGHTENED_SHAPE[1])[0]] = False
        assert not ct.array[:, outside].any() and not body[:, outside].any()
        centre = np.argwhere(body == label).mean(axis=0)
        assert np.abs(centre - STRAIGHTENED_CENTRE).max() < 2.5
        assert np.allclose(ct.spacing_mm, 1.0)


def test_a_straightened_body_returns_to_where_it_was(folder, tmp_path):
    """Scanner space, straightened, scanner space: the centre within half a voxel."""
    labels = folder / "straightened" / "label"
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    shutil.copy(labels / f"{BODY_ONLY}_20.nii.gz", chosen)
    assert unstraighten(["--volumes", str(chosen), "--dataroot", str(folder / "straightened"),
                         "--out", str(tmp_path / "back"), "--kind", "label"]) == 0
    back, original = (read_mask(path) for path in (next((tmp_path / "back").iterdir()),
                                                   raw_mask(folder / "raw", BODY_ONLY)))
    assert back.array.shape == original.array.shape
    centres = [np.argwhere(volume.array == 20).mean(axis=0) for volume in (back, original)]
    assert np.abs(centres[0] - centres[1]).max() < 0.5
    shared = ((back.array == 20) & (original.array == 20)).sum()
    assert 2 * shared / ((back.array == 20).sum() + (original.array == 20).sum()) > 0.9


def test_what_is_older_than_its_sources_is_carried_back_anew(folder, tmp_path, monkeypatch, capsys):
    """Each kind into a folder of its own, so that no kind is taken for another."""
    name, geometry = f"{PATIENT}_20.nii.gz", geometry_path(tmp_path / "data", PATIENT)
    volume, made = tmp_path / "volumes" / name, tmp_path / "output" / "scanner_label" / name
    for path, source in ((volume, folder / "straightened" / "label" / name),
                         (geometry, geometry_path(folder / "straightened", PATIENT))):
        path.parent.mkdir(parents=True)
        shutil.copy(source, path)
    (volume.parent / f".0123.{name}").write_bytes(b"what a killed write left")
    monkeypatch.chdir(tmp_path)

    def carry(kind: str) -> str:
        assert unstraighten(["--volumes", "volumes", "--dataroot", "data", "--kind", kind]) == 0
        return capsys.readouterr().out

    assert "1 done, 0 skipped" in carry("map") and "1 done, 0 skipped" in carry("label")
    assert set(np.unique(read_mask(made).array)) <= {0, *LABELS}
    assert "0 done, 1 skipped" in carry("label")
    for source in (volume, geometry):
        make_newer(made, than=source)
        make_newer(source, than=made)
        assert "1 done, 0 skipped" in carry("label"), source
        os.utime(source, (0, 0))


def cut_patient(root: Path) -> Path:
    """A mask of three boxes, the lowest cut off by the end of the scan; no CT."""
    array = np.zeros((110, 80, 60), np.uint8)
    for label, first, last in ((19, 15, 40), (20, 50, 75), (21, 85, 110)):
        array[first:last, 20:54, 10:50] = label
    affine = np.array([[0, 0, -1, 0], [0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1.0]])  # axes I-P-L
    write_volume(raw_mask(root, "cut"), Volume(array, affine))
    return root


def test_a_vertebra_that_the_scan_cuts_off_is_left_out_and_named(tmp_path, capsys):
    assert locate(["--raw", str(cut_patient(tmp_path / "raw"))]) == 0
    assert "L2 (label 21): cut off" in capsys.readouterr().err
    entries = read_json(raw_centroids(tmp_path / "raw", "cut"))
    assert entries[0] == {"direction": ["I", "P", "L"]}
    assert [entry["label"] for entry in entries[1:]] == [19, 20]
    assert entries[2]["X"] == pytest.approx(62, abs=1.0) and entries[2]["Z"] == pytest.approx(29.5, abs=1.0)


def make_newer(path: Path, than: Path) -> None:
    """Set a file's time a minute after another's."""
    later = than.stat().st_mtime + 60
    os.utime(path, (later, later))


def test_centres_are_found_anew_where_the_mask_is_newer(tmp_path, capsys):
    root = cut_patient(tmp_path)
    centres, mask = raw_centroids(root, "cut"), raw_mask(root, "cut")
    assert locate(["--raw", str(root)]) == 0
    volume = read_mask(mask)
    write_volume(mask, Volume(np.where(volume.array == 19, 18, volume.array), volume.affine))
    make_newer(mask, than=centres)
    capsys.readouterr()
    assert locate(["--raw", str(root)]) == 0
    told = capsys.readouterr()
    assert "1 done, 0 skipped" in told.out and "kept" not in told.err
    assert [entry["label"] for entry in read_json(centres)[1:]] == [18, 20]


@pytest.mark.parametrize("change", [
    lambda text: json.dumps(json.loads(text)),  # as VerSe's lie
    lambda text: text.replace('"Z": ', '"Z": 0.0123, "z": '),
    lambda text: "{",
], ids=["one line", "further keys", "no JSON"])
def test_centres_that_the_user_brought_are_kept(tmp_path, capsys, change):
    root = cut_patient(tmp_path)
    centres, mask = raw_centroids(root, "cut"), raw_mask(root, "cut")
    assert locate(["--raw", str(root)]) == 0
    brought = change(centres.read_text())
    centres.write_text(brought)
    assert locate(["--raw", str(root)]) == 0
    assert "kept" not in capsys.readouterr().err       # they are no older than the mask
    make_newer(mask, than=centres)
    assert locate(["--raw", str(root)]) == 0
    told = capsys.readouterr()
    assert "0 done, 1 skipped" in told.out and told.err.count(f"cut: kept {centres}") == 1
    assert centres.read_text() == brought
    assert locate(["--raw", str(root), "--overwrite"]) == 0
    assert "kept" not in capsys.readouterr().err and centres.read_text() != brought


def test_centroids_without_a_direction_are_voxels_of_the_mask(tmp_path):
    """The published form: the list alone, counted in the mask's own array."""
    root = cut_patient(tmp_path / "raw")
    write_json(raw_centroids(root, "cut"), [{"label": 20, "X": 62.0, "Y": 36.5, "Z": 29.5}])
    assert straighten(["--raw", str(root), "--out", str(tmp_path / "out"), "--labels_only"]) == 0
    body = read_volume(straightened_label(tmp_path / "out", "cut_20")).array == 20
    rows = np.flatnonzero(body.any(axis=(1, 2)))
    assert abs(len(rows) - 25) <= 1


def test_a_mask_without_its_ct_is_a_failed_case(tmp_path, capsys):
    root = cut_patient(tmp_path / "raw")
    assert locate(["--raw", str(root)]) == 0
    assert straighten(["--raw", str(root), "--out", str(tmp_path / "out")]) == 1
    assert "cut.nii.gz" in capsys.readouterr().err
