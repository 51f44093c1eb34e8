"""Virtual fractures: what is commanded is what the project measures, on boxes that can be counted by hand."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bad_input import told
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from phantom.fracture import main as fracture_main
from phantom.measured_spine import measure_spine
from phantom.press_weights import LEAST_SLOPE, monotone
from phantom.virtual_fracture import Manner, Wanted, deformation_of, fracture
from util.errors import InputError
from util.paths import raw_centroids, raw_ct, raw_mask, read_json, write_json
from util.volume import Volume, read_ct, read_mask, reorient, write_volume

ROWS, DISC = 30, 8
TOPS = {19: 14, 20: 14 + ROWS + DISC, 21: 14 + 2 * (ROWS + DISC)}
AFFINE = np.array([[0, 0, -1, 34], [0, -1, 0, 30], [-1, 0, 0, 75], [0, 0, 0, 1]], float)  # axes I-P-L
WHOLE = Manner(kyphosis=0.0)
BONE_HU, DISC_HU = 200, 80


def box_scan() -> tuple[Volume, Volume]:
    """Three bodies of 30 rows on a line, round as drums are, each with an arch of boxes behind it."""
    column, side = np.mgrid[:84, :68]
    drum = np.abs((column - 29.5) / 16.2) ** 3 + np.abs((side - 33.5) / 20.2) ** 3 <= 1.0
    mask = np.zeros((138, 84, 68), np.uint8)
    ct = np.full(mask.shape, DISC_HU, np.int16)
    for label, top in TOPS.items():
        mask[top:top + ROWS, drum] = label
        mask[top + 4:top + 16, 46:62, 16:24] = label                   # pedicles, either side of the canal
        mask[top + 4:top + 16, 46:62, 44:52] = label
        mask[top + 4:top + 16, 60:66, 16:52] = label                   # lamina
        mask[top + 6:top + 18, 62:78, 31:37] = label                   # spinous process
    ct[mask > 0] = BONE_HU
    return Volume(ct, AFFINE), Volume(mask, AFFINE)


@pytest.fixture(scope="module", autouse=True)
def lattice_of_the_scan() -> Iterator[None]:
    """Weights are found within the scan alone: it ends sooner than a person does."""
    with pytest.MonkeyPatch.context() as patch:
        for side, millimetres in (("FRONT", 16), ("BACK", 40), ("ASIDE", 36)):
            patch.setattr(f"phantom.press_weights.{side}_MM", millimetres)
        yield


@pytest.fixture
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Press once, as near to the commanded loss as that comes."""
    monkeypatch.setattr("phantom.measured_press.ROUNDS", 1)


@pytest.fixture(scope="module")
def scan():
    return box_scan()


@pytest.fixture(scope="module")
def crushed(scan):
    return fracture(*scan, [Wanted(20, "crush", 0.30)], manner=WHOLE)


def central_rows(mask: np.ndarray, label: int) -> np.ndarray:
    """Rows of the label on each of the body's 32 columns, mean over the central slices, (32,)."""
    return (mask[:, 14:46, 30:38] == label).sum(axis=0).mean(axis=1)


def test_a_box_of_30_rows_pressed_to_21_has_lost_30_per_cent(scan, crushed):
    """Counted by hand in the mask, and as the pipeline measures it."""
    assert (central_rows(scan[1].array, 20) == ROWS).all()
    counted = central_rows(crushed.mask.array, 20)
    thirds = np.array([part.mean() for part in np.array_split(counted[1:31], 3)])
    assert thirds.min() == pytest.approx(21.0, abs=0.5)
    measured = measure_spine(crushed.mask).heights_mm(20)
    losses = 1.0 - measured / measure_spine(scan[1]).heights_mm(20)
    record = crushed.truth["vertebrae"]["20"]
    assert losses.max() == pytest.approx(0.30, abs=0.01)
    assert losses == pytest.approx(np.array(record["loss_by_third"]), abs=0.02)  # half a row is 0.017
    assert record["loss"] == pytest.approx(0.30, abs=1e-5) and record["grade"] == 2


@pytest.fixture(scope="module")
def wedged(scan):
    return fracture(*scan, [Wanted(20, "wedge", 0.60)], manner=WHOLE)


def test_a_severe_wedge_measures_as_commanded_and_as_the_truth_says(scan, wedged):
    """Were its front edge pressed as low as it could be, measuring would drop it as rim and find 0.56."""
    before, after = (measure_spine(mask).heights_mm(20) for mask in (scan[1], wedged.mask))
    record = wedged.truth["vertebrae"]["20"]
    assert (1.0 - after / before).max() == pytest.approx(0.60, abs=0.01)
    assert record["loss"] == 0.60 and record["grade"] == 3 and not wedged.remarks
    assert record["loss_by_third"] == pytest.approx(1.0 - after / before, abs=1e-9)
    assert record["height_after_mm"] == pytest.approx(after, abs=1e-9)
    assert record["pressed_by_third"] == pytest.approx(record["loss_by_third"], abs=0.02)


def test_a_press_is_corrected_by_what_is_missing_and_what_remains_is_told(scan, monkeypatch):
    """The outermost body stands midway between its endplates: pressed by 0.50 it measures less at first."""
    monkeypatch.setattr("phantom.measured_press.ROUNDS", 2)
    monkeypatch.setattr("phantom.virtual_fracture.AGREEMENT", 0.001)
    made = fracture(*scan, [Wanted(19, "wedge", 0.50)], manner=WHOLE)
    record = made.truth["vertebrae"]["19"]
    assert max(record["pressed_by_third"]) > 0.52
    assert record["loss"] == max(record["loss_by_third"]) == pytest.approx(0.50, abs=0.02)
    assert abs(record["loss"] - 0.50) > 0.001
    assert len(made.remarks) == 1 and "commanded a loss of 50.0 %" in made.remarks[0]


def test_a_loss_that_leaves_nothing_to_measure_is_refused(scan):
    with pytest.raises(InputError, match=r"--loss 0.75: expected a body of L1 .* found '\d\d% of its neigh"):
        fracture(*scan, [Wanted(20, "crush", 0.75)], manner=WHOLE)


def test_neighbours_keep_their_heights(scan, crushed):
    for label in (19, 21):
        assert (central_rows(scan[1].array, label) == ROWS).all()
        assert np.abs(central_rows(crushed.mask.array, label)[1:31] - ROWS).max() <= 0.5


def test_what_is_below_stays_and_what_is_above_comes_down(scan, crushed):
    bodies = (slice(TOPS[21], None), slice(0, 46))                      # behind, the arches make way
    before, after = (mask.array[bodies] == 21 for mask in (scan[1], crushed.mask))
    assert (before != after).sum() < 0.002 * before.sum()               # a few voxels of its sharp edges
    first = np.flatnonzero((crushed.mask.array == 19).any(axis=(1, 2)))[0]
    assert TOPS[19] + 5 <= first <= TOPS[19] + 9                        # 9 rows lost in front, less behind


def test_bone_grows_denser_and_the_disc_does_not(crushed):
    """As much bone in 0.7 of the height is 1 / 0.7 times as dense."""
    rows = np.flatnonzero(crushed.mask.array[:, 30, 34] == 20)
    inner = crushed.ct.array[rows[5]:rows[-5], 24:36, 28:40]
    assert 1.3 * BONE_HU < inner.mean() < 1.6 * BONE_HU
    assert abs(float(crushed.ct.array[rows[-1] + 4, 30, 34]) - DISC_HU) <= 1


def test_no_loss_is_no_change(scan):
    made = fracture(*scan, [Wanted(20, "wedge", 0.0)])
    assert np.array_equal(made.mask.array, scan[1].array)
    assert np.array_equal(made.ct.array, scan[0].array)
    assert made.truth["vertebrae"]["20"]["kind"] == "none"


def steps_down(scan: tuple[Volume, Volume], wanted: list[Wanted]) -> np.ndarray:
    """How far the source goes down, mm, where the scan goes down by a voxel; checks that its foot stays."""
    deformation = deformation_of(scan[1], wanted, manner=Manner(kyphosis=0.6, bulge_mm=2.0))
    index = np.stack(np.meshgrid(np.arange(138), np.arange(0, 84, 2), np.arange(0, 68, 2), indexing="ij"), -1)
    world = index.reshape(-1, 3) @ AFFINE[:3, :3].T + AFFINE[:3, 3]
    source = deformation.backward(world)[0].reshape(index.shape)
    assert np.abs(source[-1] - world.reshape(index.shape)[-1]).max() < 1e-6
    return -np.diff(source[..., 2], axis=0)


@pytest.mark.usefixtures("one_round")
def test_the_map_never_folds(scan):
    """Down every column of the scan the source goes down too, also where kyphosis opens the processes."""
    assert steps_down(scan, [Wanted(20, "wedge", 0.6)]).min() > 0.0


@pytest.mark.usefixtures("one_round")
def test_two_neighbours_collapse_in_one_map(scan):
    """The upper one's map is asked along slanted lines there, which may touch a step between two facets."""
    steps = steps_down(scan, [Wanted(20, "wedge", 0.6), Wanted(19, "crush", 0.4)])
    assert (steps <= 0.0).mean() < 1e-4 and steps.min() > -0.3


@settings(max_examples=30, deadline=None)
@given(arrays(float, (12, 2, 2), elements=st.floats(-50, 50)))
def test_unfolding_makes_columns_rise_and_leaves_those_that_do(rows):
    risen = monotone(rows, 5)
    assert (np.diff(risen, axis=0) >= LEAST_SLOPE - 1e-9).all()
    assert (risen[5] == pytest.approx(rows[5])) and monotone(risen, 5) == pytest.approx(risen, abs=1e-9)


def test_any_order_of_the_axes_gives_the_same(scan, crushed):
    turned = [reorient(volume, ("L", "S", "A")) for volume in scan]
    made = fracture(turned[0], turned[1], [Wanted(20, "crush", 0.30)], manner=WHOLE)
    assert made.mask.axis_codes == ("L", "S", "A") and np.allclose(made.ct.affine, turned[0].affine)
    back = reorient(made.mask)
    assert (back.array != crushed.mask.array).mean() < 1e-4
    assert np.abs(reorient(made.ct).array.astype(int) - crushed.ct.array).mean() < 0.1


@pytest.fixture
def files(tmp_path, scan) -> tuple[Path, list[str]]:
    """CT and mask as files with a record of truth beside them, and the flags that name them."""
    ct, mask = tmp_path / "in" / "someone_ct.nii.gz", tmp_path / "in" / "someone_msk.nii.gz"
    write_volume(ct, scan[0])
    write_volume(mask, scan[1])
    write_json(tmp_path / "in" / "truth" / "truth.json",
               {"vertebrae": {"19": {"loss": 0.0}, "21": {"loss": 0.3}}})
    return tmp_path, [f"--ct={ct}", f"--mask={mask}", f"--out={tmp_path / 'raw'}"]


def test_the_script_writes_the_raw_layout(files, scan):
    folder, flags = files
    write_json(raw_centroids(folder / "raw", "someone-fractured"), [])  # an earlier one's centroids
    assert fracture_main([*flags, "--label", "20", "--kind", "wedge", "--loss", "0.35", "--overwrite"]) == 0
    raw, name = folder / "raw", "someone-fractured"
    assert not raw_centroids(raw, name).exists()
    truth = read_json(raw / name / "truth" / "truth.json")
    assert list(truth["vertebrae"]) == ["19", "20"] and truth["patient"] == name
    fractured, healthy = truth["vertebrae"]["20"], truth["vertebrae"]["19"]
    assert (fractured["kind"], fractured["grade"], healthy["kind"]) == ("wedge", 2, "none")
    assert healthy["height_before_mm"] == healthy["height_after_mm"] == pytest.approx([30] * 3, abs=0.3)
    assert np.array_equal(read_ct(raw / name / "truth" / "healthy.nii.gz").array, scan[0].array)
    bodies = read_mask(raw / name / "truth" / "healthy_body.nii.gz").array
    assert (bodies[:, 20:40, 34] == scan[1].array[:, 20:40, 34]).all() and not bodies[:, 56:].any()
    assert read_mask(raw_mask(raw, name)).array.shape == read_ct(raw_ct(raw, name)).array.shape


def test_bad_input_is_told_in_one_line(files, capsys):
    folder, flags = files
    one = [*flags, "--kind", "wedge", "--loss", "0.35"]
    assert "found [19, 20, 21]" in told(capsys, fracture_main, *one, "--label", 5)
    assert "--kind" in told(capsys, fracture_main, *flags, "--kind", "crush", "wedge", "--loss", 0.3,
                            "--label", 19, 20, 21)
    assert "20" in told(capsys, fracture_main, *one, "--label", 20, 20)
    (folder / "raw" / "someone-fractured").mkdir(parents=True)
    assert "--overwrite" in told(capsys, fracture_main, *one, "--label", 20)
    assert "plain name" in told(capsys, fracture_main, *one, "--label", 20, "--patient", "a/b")
    array = read_mask(folder / "in" / "someone_msk.nii.gz").array
    write_volume(folder / "in" / "someone_msk.nii.gz", Volume(array[:-1], AFFINE))
    assert "expected the shape" in told(capsys, fracture_main, *one, "--label", 20, "--overwrite")


def test_a_vertebra_that_the_scan_cuts_off_is_refused(scan):
    short = [Volume(volume.array[:110], AFFINE) for volume in scan]
    with pytest.raises(InputError, match="label 21: expected a whole vertebral body, found 'cut off"):
        fracture(short[0], short[1], [Wanted(21, "wedge", 0.3)])
    empty = Volume(np.zeros_like(scan[1].array), AFFINE)
    with pytest.raises(InputError, match="it is empty"):
        fracture(scan[0], empty, [Wanted(21, "wedge", 0.3)])
