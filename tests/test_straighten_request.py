"""What is asked of straightening: folders by flag or cohort, labels, kinds of volumes."""

from pathlib import Path

import numpy as np
import pytest
from bad_input import told, write_patient

from data.straightened import read_straightened
from straighten.location_json_local import main as locate
from straighten.straighten_mask_3d import main as straighten
from straighten.unstraighten import main as unstraighten
from util.errors import InputError
from util.paths import geometry_path, raw_centroids, straightened_ct, straightened_label, write_json
from util.volume import STRAIGHTENED_SHAPE, Volume, read_volume, write_volume


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two located patients with L1 and L2 in `raw/`, straightened in `straightened/`. Not to be changed."""
    root = tmp_path_factory.mktemp("patients")
    for name in ("a", "b"):
        write_patient(root / "raw", name)
    assert locate(["--raw", str(root / "raw")]) == 0
    assert straighten(["--raw", str(root / "raw"), "--out", str(root / "straightened")]) == 0
    return root


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to run in, with a patient in `scans/` and a cohort file that says so."""
    write_patient(tmp_path / "scans")
    write_json(tmp_path / "vertebra_data.json", {"paths": {"raw": "scans", "straightened": "straight"},
                                                 "train": {"p_20": 0}})
    (tmp_path / "vertebra_data.json").rename(tmp_path / "c.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name, flags", [("c.json", ["--cohort", "c.json"]), ("vertebra_data.json", [])])
def test_folders_are_those_of_the_cohort(apart: Path, name: str, flags: list[str]) -> None:
    (apart / "c.json").rename(apart / name)
    assert locate(flags) == 0 and raw_centroids("scans", "p").is_file()
    assert straighten(flags) == 0 and straightened_ct("straight", "p_20").is_file()
    assert unstraighten(["--volumes", "straight/CT", "--out", "back", *flags]) == 0
    assert not Path("dataset").exists()


def test_flags_override_the_cohort(apart: Path) -> None:
    Path("scans").rename("elsewhere")
    assert locate(["--cohort", "c.json", "--raw", "elsewhere"]) == 0
    assert straighten(["--cohort", "c.json", "--raw", "elsewhere", "--out", "made"]) == 0
    assert straightened_ct("made", "p_20").is_file() and not Path("straight").exists()


def test_without_any_cohort_folders_are_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_patient(tmp_path / "dataset" / "raw")
    assert locate([]) == 0 and straighten([]) == 0
    assert straightened_label("dataset/straightened", "p_21").is_file()


def test_labels_that_a_patient_lacks_are_told(patients: Path, tmp_path: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    write_patient(raw, "a")
    write_patient(raw, "b")
    assert locate(["--raw", str(raw)]) == 0
    write_json(raw_centroids(raw, "b"), [{"label": 21, "X": 43, "Y": 20, "Z": 20}])
    flags = ["--raw", str(raw), "--out", str(tmp_path / "out"), "--labels", "20", "3"]
    capsys.readouterr()
    assert straighten(flags) == 0
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert first.startswith("a: expected C3 (label 3) of --labels, found none in ")
    assert second.startswith("b: expected C3 (label 3), L1 (label 20) of --labels, found none in ")
    assert straighten(flags) == 0  # said again where all is complete
    again = capsys.readouterr()
    assert "b: expected C3" in again.err and "0 done, 1 skipped (complete), 0 failed" in again.out


def test_labels_that_nobody_has_are_refused(patients: Path, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--raw", patients / "raw", "--out", tmp_path / "out", "--labels"]
    assert "--labels 3: expected vertebrae located in" in told(capsys, straighten, *flags, 3)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="2"):
        straighten([*map(str, flags), "26"])
    assert "argument --labels: invalid choice: 26" in capsys.readouterr().err


def test_labels_that_the_cohort_lacks_are_told(patients: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "c.json", {"train": {"a_20": 0, "b_21": 0}})
    assert straighten(["--raw", str(patients / "raw"), "--out", str(tmp_path / "out"), "--labels", "20",
                       "--cohort", str(tmp_path / "c.json")]) == 0
    said = capsys.readouterr()
    assert "b: expected L1 (label 20) of --labels, found none in --cohort" in said.err
    assert "1 done" in said.out


@pytest.mark.parametrize("kind, folder, message", [
    ("label", "CT", "expected labels for --kind label, found values from 0 to "),
    ("ct", "label", "expected grey values up to 255 for --kind ct, found values from 0 to 21"),
    ("ct", "heat", "expected grey values up to 255 for --kind ct, found values from 0 to 0.5"),
    ("label", "heat", "expected labels for --kind label, found values from 0 to 0.5"),
])
def test_a_volume_of_another_kind_is_told(patients: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                          kind: str, folder: str, message: str) -> None:
    straightened = patients / "straightened"
    heat = np.where(read_volume(straightened_label(straightened, "a_20")).array > 0, 0.5, 0.0)
    volumes = straightened / folder if folder != "heat" else tmp_path / "heat"
    if folder == "heat":
        write_volume(volumes / "a_20.nii.gz", Volume(heat.astype(np.float32), np.eye(4)))
    flags = ["--volumes", str(volumes), "--dataroot", str(straightened), "--out", str(tmp_path / "back")]
    assert unstraighten([*flags, "--kind", kind]) == 1
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "back").iterdir())
    right = {"CT": "ct", "label": "label", "heat": "map"}[folder]
    assert unstraighten([*flags, "--kind", right]) == 0


def test_carrying_back_does_not_send_to_what_would_not_help(patients: Path, tmp_path: Path,
                                                            capsys: pytest.CaptureFixture[str]) -> None:
    """The scan was straightened without T12, and would be again."""
    write_volume(tmp_path / "ct" / "a_19.nii.gz", Volume(np.zeros(STRAIGHTENED_SHAPE, np.uint8), np.eye(4)))
    assert unstraighten(["--volumes", str(tmp_path / "ct"), "--out", str(tmp_path / "back"), "--dataroot",
                         str(geometry_path(patients / "straightened", "a").parents[1])]) == 1
    assert "take the file away" in capsys.readouterr().err


def test_advice_that_may_not_help_says_what_then(tmp_path: Path) -> None:
    for path in (straightened_ct(tmp_path, "p_20"), straightened_label(tmp_path, "p_20")):
        write_volume(path, Volume(np.zeros((4, 4, 4), np.int16), np.eye(4)))
    with pytest.raises(InputError, match="--overwrite; if that leaves the file as it is, leave the case out"):
        read_straightened(tmp_path, "p_20")
