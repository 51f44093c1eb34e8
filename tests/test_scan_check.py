"""A CT that is not in HU and vertebrae numbered the wrong way are told; what real scans have passes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bad_input import AFFINE, boxes, write_patient

from data.straightened import faces_caudal
from straighten import patient as straightening
from straighten.location_json_local import main as locate
from straighten.scan_check import check_hu, check_mask_order, check_order
from straighten.straighten_mask_3d import main as straighten
from util.errors import InputError
from util.paths import raw_centroids, raw_ct, raw_mask, read_json, straightened_label, write_json
from util.volume import Volume, hu_to_uint8, read_ct, read_mask, write_volume


@pytest.fixture(scope="module")
def scan(phantoms: Path) -> tuple[Volume, Volume]:
    """CT in HU and mask of a phantom."""
    name = sorted(folder.name for folder in (phantoms / "raw").iterdir())[0]
    return read_ct(raw_ct(phantoms / "raw", name)), read_mask(raw_mask(phantoms / "raw", name))


def outside(mask: np.ndarray) -> np.ndarray:
    """What lies outside the box of the vertebrae, as padding does."""
    beyond = np.ones(mask.shape, bool)
    beyond[tuple(slice(index.min(), index.max() + 1) for index in np.nonzero(mask))] = False
    return beyond


@pytest.mark.parametrize("change", [
    hu_to_uint8,
    lambda hu: np.clip(hu.astype(int) + 1024, 0, None),
    lambda hu: np.clip(hu, 0, None),
    lambda hu: (np.clip(hu, -1000, 1000) / 1000).astype(np.float32),
], ids=["windowed", "no intercept", "cut at 0", "normalised"])
def test_a_ct_that_is_not_in_hu_is_told(scan: tuple[Volume, Volume], change: Callable) -> None:
    ct, mask = scan
    with pytest.raises(InputError, match=r"ct\.nii\.gz: expected a CT in HU .*found values from .*rescale"):
        check_hu(Volume(change(ct.array), ct.affine), "ct.nii.gz", mask)


def test_padding_below_a_ct_without_its_intercept_hides_nothing(scan: tuple[Volume, Volume]) -> None:
    ct, mask = scan
    stored = np.where(outside(mask.array), -2000, np.clip(ct.array.astype(int) + 1024, 0, None))
    with pytest.raises(InputError, match="expected a CT in HU"):
        check_hu(Volume(stored, ct.affine), "ct", mask)


def test_a_mask_in_the_air_is_told(scan: tuple[Volume, Volume]) -> None:
    ct, mask = scan
    with pytest.raises(InputError, match="expected bone where the mask has vertebrae, found a median of -"):
        check_hu(Volume(ct.array.astype(int) - 1024, ct.affine), "ct", mask)


@pytest.mark.parametrize("padding", [-2048, -1024, 0])
def test_padding_and_metal_pass(scan: tuple[Volume, Volume], padding: int) -> None:
    ct, mask = scan
    hu = np.where(outside(mask.array), padding, ct.array)
    hu[tuple(np.argwhere(mask.array == 20)[::5].T)] = 3071
    check_hu(Volume(hu, ct.affine), "ct", mask)
    check_hu(Volume(np.where(mask.array > 0, ct.array, padding), ct.affine), "ct", mask)  # bone alone
    check_hu(ct, "ct", Volume(np.zeros_like(mask.array), mask.affine))


def column(order: tuple[int, ...], affine: np.ndarray = AFFINE) -> Volume:
    """A mask of boxes, one below the other, labelled in this order."""
    mask = np.zeros((21 * len(order), 40, 40), np.uint8)
    for place, label in enumerate(order):
        mask[21 * place:21 * place + 15, 10:30, 10:30] = label
    return Volume(mask, affine)


@pytest.mark.parametrize("order", [(20,), (19, 28, 20), (24, 25), (1, 2, 3), (17, 18, 20, 21)],
                         ids=["alone", "T13", "L6", "neck", "one missing"])
def test_vertebrae_in_order_pass(order: tuple[int, ...]) -> None:
    check_mask_order(column(order), "m")


def test_the_tip_of_a_process_does_not_tell_where_its_vertebra_lies() -> None:
    mask = column((19, 20, 21))
    mask.array[27:33, 30:33, 18:22] = 18        # T11, cut off above, reaches down behind L1
    check_mask_order(mask, "m")


@pytest.mark.parametrize("order, message", [
    ((22, 21, 20), r"found L1 \(label 20\) 42 mm below and 0 mm beside L3 .*upside down"),
    ((19, 21, 20, 22), r"L1 \(label 20\) above L2 \(label 21\), found L1 .* 21 mm below"),
    ((20, 19, 28), r"found T12 \(label 19\) 21 mm below and 0 mm beside L1"),
])
def test_labels_out_of_order_are_told(order: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=rf"m\.nii\.gz: expected .*{message}.*correct the affine"):
        check_mask_order(column(order), "m.nii.gz")


def test_a_scan_on_its_side_is_told() -> None:
    aside = AFFINE[[2, 1, 0, 3]]
    with pytest.raises(InputError, match=r"0 mm above and 42 mm beside L3 .*on its side"):
        check_mask_order(column((20, 21, 22), aside), "m")


def test_nothing_to_order() -> None:
    check_order({}, "m", "")


def flipped(raw: Path) -> None:
    """Turn a patient upside down."""
    turned = np.diag([1, 1, -1, 1]) @ AFFINE
    write_volume(raw_mask(raw, "p"), Volume(boxes(), turned))
    write_volume(raw_ct(raw, "p"), Volume(read_ct(raw_ct(raw, "p")).array, turned))


def test_both_stages_name_the_case_and_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_patient(tmp_path, "good")
    write_patient(tmp_path)
    flags, out = ["--raw", str(tmp_path)], tmp_path / "out"
    assert locate(flags) == 0
    flipped(tmp_path)
    assert locate(flags) == 1
    assert straighten([*flags, "--out", str(out)]) == 1
    told = capsys.readouterr()
    assert "centroids: p failed:" in told.err and "straightening: p failed:" in told.err
    assert told.err.count("p_msk.nii.gz: expected vertebrae numbered from cranial to caudal") == 2
    assert "straightening: 1 done, 0 skipped (complete), 1 failed" in told.out
    assert not straightened_label(out, "p_20").exists()


def test_a_case_out_of_hu_is_a_failed_case(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ct_path, _ = write_patient(tmp_path)
    ct = read_ct(ct_path)
    write_volume(ct_path, Volume(hu_to_uint8(ct.array), ct.affine))
    assert locate(["--raw", str(tmp_path)]) == 0
    flags = ["--raw", str(tmp_path), "--out", str(tmp_path / "out")]
    assert straighten(flags) == 1
    assert "p.nii.gz: expected a CT in HU" in capsys.readouterr().err
    assert straighten([*flags, "--labels_only"]) == 0


def test_centroids_of_another_order_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_patient(tmp_path)
    assert locate(["--raw", str(tmp_path)]) == 0
    path = raw_centroids(tmp_path, "p")
    direction, first, second = read_json(path)
    write_json(path, [direction, first | {"label": 21}, second | {"label": 20}])
    assert straighten(["--raw", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "p.json: expected vertebrae numbered from cranial to caudal" in told
    assert "location_json_local.py --overwrite" in told


def test_what_no_later_stage_would_take_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """A later stage sends the user back here; there the reason is told, not the same file written again."""
    write_patient(tmp_path)
    assert locate(["--raw", str(tmp_path)]) == 0
    monkeypatch.setattr(straightening, "faces_caudal", lambda _: False)
    flags = ["--raw", str(tmp_path), "--out", str(tmp_path / "out"), "--overwrite"]
    assert straighten(flags) == 1
    assert "case p_20: expected a body that leans by less than 90 degrees" in capsys.readouterr().err
    assert not (tmp_path / "out" / "label").exists()


def test_a_volume_that_turns_round_does_not_face_caudal() -> None:
    assert faces_caudal(column((20,)))
    assert not faces_caudal(column((20,), np.diag([1, 1, -1, 1]) @ AFFINE))
