"""Volumes: orientation and spacing by the affine, and errors that say what to do."""

import gzip

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.volume_layout import file_order, row_major
from util import nifti_file
from util.errors import InputError
from util.volume import (
    AXIS_CODES,
    Volume,
    crop_columns,
    hu_to_uint8,
    pad_columns,
    read_ct,
    read_ct_and_mask,
    read_mask,
    read_volume,
    reorient,
    resample,
    signed_to_uint8,
    uint8_to_signed,
    write_volume,
)

OBLIQUE = np.array([[0.9, 0.1, 0, -20.5], [-0.1, 0.9, 0.05, 3.25], [0.0, -0.05, 2.0, 7.5], [0, 0, 0, 1]])


def orthogonal(degrees: float, spacing=(0.7, 0.9, 2.0)) -> np.ndarray:
    """An affine turned about the third axis."""
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= spacing
    affine[:3, 3] = (-12.0, 5.0, 40.0)
    return affine


def world(volume: Volume, index) -> np.ndarray:
    return volume.affine[:3, :3] @ index + volume.affine[:3, 3]


@pytest.mark.parametrize("affine", [np.eye(4), orthogonal(20), OBLIQUE], ids=["ras", "turned", "sheared"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_written_volume_reads_back(tmp_path, affine, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_volume(tmp_path / "v.nii.gz", Volume(array, affine))
    again = read_volume(tmp_path / "v.nii.gz")
    assert again.array.dtype == dtype
    assert np.array_equal(again.array, array)
    assert np.allclose(again.affine, affine, atol=1e-5)


def test_same_content_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_volume(tmp_path / name, Volume(np.ones((4, 4, 4), np.uint8), np.eye(4)))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("at_once", [0, nifti_file.AT_ONCE_BYTES], ids=["in pieces", "at once"])
def test_files_are_those_of_nibabel_either_way(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(nifti_file, "AT_ONCE_BYTES", at_once)
    array = np.random.default_rng(0).integers(0, 99, (40, 30, 20)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, OBLIQUE), tmp_path / "nibabel.nii.gz")
    nifti_file.save_image(nib.Nifti1Image(array, OBLIQUE), tmp_path / "own.nii.gz")
    assert (tmp_path / "own.nii.gz").read_bytes() == (tmp_path / "nibabel.nii.gz").read_bytes()
    assert np.array_equal(read_volume(tmp_path / "own.nii.gz").array, array)


def test_unusual_files_are_read_too(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nib.save(nib.Nifti2Image(array, np.eye(4)), tmp_path / "second.nii.gz")
    nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "plain.nii")
    content = (tmp_path / "plain.nii").read_bytes()
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(content[:360]) + gzip.compress(content[360:]))
    for name in ("second.nii.gz", "plain.nii", "members.nii.gz"):
        assert np.array_equal(read_volume(tmp_path / name).array, array)


@given(st.sampled_from(["LPS", "RAS", "PIR", "IPL", "ASR", "SLP"]), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_reorienting_moves_no_voxel_in_the_world(codes, seed):
    array = np.random.default_rng(seed).integers(0, 9, (3, 4, 5))
    volume = reorient(Volume(array, orthogonal(10)), tuple(codes))
    ipl = reorient(volume)
    assert ipl.axis_codes == AXIS_CODES
    for index in np.ndindex(volume.array.shape):
        there = np.linalg.solve(ipl.affine, np.append(world(volume, np.array(index)), 1))[:3]
        assert ipl.array[tuple(np.rint(there).astype(int))] == volume.array[index]


def test_resampling_keeps_the_place_of_a_ball():
    affine = orthogonal(15)
    grid = np.stack(np.indices((60, 50, 24)), -1)
    centre_mm = world(Volume(np.zeros(1), affine), np.array([30, 25, 12]))
    apart = np.linalg.norm(grid @ affine[:3, :3].T + affine[:3, 3] - centre_mm, axis=-1)
    ball = resample(Volume((apart < 9).astype(np.uint8), affine), 1.0, nearest=True)
    assert np.allclose(ball.spacing_mm, 1.0)
    found = np.argwhere(ball.array).mean(0)
    assert np.abs(world(ball, found) - centre_mm).max() < 0.3
    assert abs(ball.array.sum() / (4 / 3 * np.pi * 9**3) - 1) < 0.05


def test_window_is_linear_and_clipped():
    hu = np.array([-2000, -300, 250, 800, 3000])
    assert hu_to_uint8(hu).tolist() == [0, 0, 128, 255, 255]


def test_signed_range_is_inverse_of_uint8():
    values = np.arange(256, dtype=np.uint8)
    assert uint8_to_signed(values).min() == -1 and uint8_to_signed(values).max() == 1
    assert np.array_equal(signed_to_uint8(uint8_to_signed(values)), values)


@given(st.integers(1, 12), st.integers(1, 12))
def test_padding_undoes_cropping(width, columns):
    array = np.ones((2, width, 2), np.uint8)
    cropped = crop_columns(array, columns)
    assert cropped.shape[1] == min(width, columns)
    assert pad_columns(cropped, width).shape == array.shape
    assert pad_columns(cropped, width).sum() == cropped.sum()


def damaged(tmp_path, name: str, content: bytes):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_broken_files_are_named(tmp_path):
    whole = tmp_path / "whole.nii.gz"
    noise = np.random.default_rng(0).integers(0, 99, (40, 40, 40)).astype(np.int16)
    write_volume(whole, Volume(noise, np.eye(4)))
    raw = gzip.decompress(whole.read_bytes())
    for path in (tmp_path / "missing.nii.gz", damaged(tmp_path, "empty.nii.gz", b""),
                 damaged(tmp_path, "text.nii.gz", b"not an image"),
                 damaged(tmp_path, "cut.nii.gz", whole.read_bytes()[: whole.stat().st_size // 2]),
                 damaged(tmp_path, "short.nii.gz", gzip.compress(raw[: len(raw) // 2]))):
        with pytest.raises(InputError, match=path.name) as caught:
            read_volume(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lacking", [1, 4, 5, 9, 12])
def test_a_file_cut_off_behind_its_last_voxel_is_refused(tmp_path, lacking):
    whole = tmp_path / "whole.nii.gz"
    noise = np.random.default_rng(0).integers(0, 99, (40, 40, 40)).astype(np.int16)
    write_volume(whole, Volume(noise, np.eye(4)))
    with pytest.raises(InputError, match="expected a complete NIfTI file"):
        read_volume(damaged(tmp_path, "cut.nii.gz", whole.read_bytes()[:-lacking]))


def test_four_dimensions_are_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 2), np.uint8), np.eye(4)), tmp_path / "v.nii.gz")
    with pytest.raises(InputError, match="three dimensions"):
        read_volume(tmp_path / "v.nii.gz")


def test_masks_hold_whole_verse_labels(tmp_path):
    path = tmp_path / "m.nii.gz"
    write_volume(path, Volume(np.full((2, 2, 2), 20.0, np.float32), np.eye(4)))
    assert read_mask(path).array.dtype == np.uint8
    write_volume(path, Volume(np.full((2, 2, 2), 20.5, np.float32), np.eye(4)))
    with pytest.raises(InputError, match="fractions"):
        read_mask(path)
    write_volume(path, Volume(np.full((2, 2, 2), 77, np.int16), np.eye(4)))
    with pytest.raises(InputError, match=r"\[77\]"):
        read_mask(path)


def test_ct_and_mask_share_a_grid(tmp_path):
    ct, mask = tmp_path / "ct.nii.gz", tmp_path / "msk.nii.gz"
    write_volume(ct, Volume(np.zeros((4, 4, 4), np.int16), np.eye(4)))
    write_volume(mask, Volume(np.zeros((4, 4, 5), np.uint8), np.eye(4)))
    with pytest.raises(InputError, match="expected the shape"):
        read_ct_and_mask(ct, mask)
    write_volume(mask, Volume(np.zeros((4, 4, 4), np.uint8), np.diag([1, 1, 1.1, 1])))
    with pytest.raises(InputError, match="expected the affine"):
        read_ct_and_mask(ct, mask)


def test_ct_without_numbers_is_refused(tmp_path):
    write_volume(tmp_path / "ct.nii.gz", Volume(np.full((2, 2, 2), np.nan, np.float32), np.eye(4)))
    with pytest.raises(InputError, match="finite"):
        read_ct(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("columns", [1, 7, 128])
def test_order_in_memory_changes_no_voxel(columns):
    by_rows = np.random.default_rng(0).integers(0, 256, (90, columns, 64)).astype(np.uint8)
    as_stored = file_order(by_rows)
    assert as_stored.flags.f_contiguous and np.array_equal(as_stored, by_rows)
    for array in (as_stored, by_rows, crop_columns(as_stored, 5)):
        again = row_major(array)
        assert again.flags.c_contiguous and np.array_equal(again, array)
