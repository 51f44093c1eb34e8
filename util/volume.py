"""Volumes: one convention, enforced where a file is read.

Convention. A volume's array has axes I-P-L (nibabel's axis codes): axis 0 runs cranial to caudal, axis 1
anterior to posterior, axis 2 right to left. Its affine maps voxel indices to world coordinates in mm,
right-anterior-superior positive, as nibabel has it. What comes in is reoriented and resampled by its
affine, never assumed. A straightened volume is 256 x 256 x 64 voxels of 1 mm with the target body's
centre at voxel (128, 128, 32); its content fills the central 128 columns of axis 1, the rest is zero.
Straightened CT is uint8: the window -300..800 HU mapped linearly and clipped to 0..255. The networks
see the same as -1..1. A slice is (row, column): sagittal [:, :, z], coronal [:, y, :].
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from util.errors import InputError
from util.nifti_file import load_image, save_image
from util.paths import atomic_path
from util.vertebrae import LABELS

AXIS_CODES = ("I", "P", "L")
STRAIGHTENED_SHAPE = (256, 256, 64)
STRAIGHTENED_CENTRE = (128, 128, 32)
CONTENT_COLUMNS = 128
HU_WINDOW = (-300.0, 800.0)
AFFINE_TOLERANCE_MM = 0.01  # below any scanner's precision, above float32 rounding of a header
WORD = np.dtype(np.uint64)
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Volume:
    """A 3-D array and its voxel-to-world affine (4 x 4, mm, right-anterior-superior positive)."""

    array: np.ndarray
    affine: np.ndarray

    @property
    def spacing_mm(self) -> np.ndarray:
        """Voxel size along each axis in mm, (3,)."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def axis_codes(self) -> tuple[str, str, str]:
        """Anatomical direction in which each axis grows, e.g. ('I', 'P', 'L')."""
        return nib.aff2axcodes(self.affine)


def read_volume(path: str | Path) -> Volume:
    """Read a NIfTI file as it lies there, integers as integers.

    Read with nibabel: SimpleITK fills up a file that is cut off and turns NaN into 0, without a word.

    Raises:
        InputError: the file is missing, is no NIfTI, is cut off, holds colours or complex numbers, or is
            not three-dimensional.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: expected a NIfTI file, found none; check the path")
    try:
        image = load_image(path)
        array = np.asanyarray(image.dataobj)
    except Exception as error:  # nibabel raises its own, OSError, EOFError and zlib's for broken files
        raise InputError(f"{path}: expected a complete NIfTI file, found an empty, cut or damaged one "
                         f"({_one_line(error)}); copy or export it again") from error
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path}: expected one real number per voxel, found {array.dtype}; "
                         f"export it as grey values or labels")
    if array.ndim != 3:
        raise InputError(f"{path}: expected three dimensions, found {array.ndim} {array.shape}; "
                         f"export a single 3-D volume")
    if abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise InputError(f"{path}: expected an affine that maps voxels to mm, found a singular one; "
                         f"export it with its orientation")
    return Volume(array, image.affine)


def _one_line(error: Exception) -> str:
    """Return the first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def read_ct(path: str | Path) -> Volume:
    """Read a CT in HU as int16 or float32.

    Raises:
        InputError: as `read_volume`, or a voxel is not finite.
    """
    volume = read_volume(path)
    if np.issubdtype(volume.array.dtype, np.integer):
        return Volume(volume.array, volume.affine)
    array = volume.array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise InputError(f"{path}: expected finite HU, found NaN or infinity; export the CT again")
    return Volume(array, volume.affine)


def read_mask(path: str | Path) -> Volume:
    """Read a vertebra mask as uint8.

    Raises:
        InputError: as `read_volume`, or a voxel is no whole number or no VerSe label.
    """
    volume = read_volume(path)
    array = volume.array
    if not np.issubdtype(array.dtype, np.integer) and not np.array_equal(array, np.rint(array)):
        raise InputError(f"{path}: expected whole-number labels, found fractions "
                         f"or NaN; resample the mask with nearest neighbours")
    foreign = [label for label in present_labels(array) if label not in LABELS]
    if foreign:
        raise InputError(f"{path}: expected VerSe labels (1-25, 28), found {foreign[:8]}; relabel the mask")
    return Volume(array.astype(np.uint8, copy=False), volume.affine)


def present_labels(array: np.ndarray) -> list[int]:
    """Return the labels of a mask of whole numbers, background (0) left out, in rising order.

    Nearly all of a mask is background: of uint8 voxels, whole words of it are passed over at once.
    """
    if array.dtype != np.uint8:
        return [int(value) for value in np.unique(array) if value]
    voxels = array.ravel(order="K")
    whole = voxels.size - voxels.size % WORD.itemsize
    words, rest = voxels[:whole].view(WORD), voxels[whole:]
    present = np.zeros(256, bool)
    present[words[words != 0].view(np.uint8)] = True
    present[rest] = True
    return (np.flatnonzero(present[1:]) + 1).tolist()


def check_same_grid(first: Volume, first_path: str | Path, second: Volume, second_path: str | Path) -> None:
    """Check that two volumes lie on one voxel grid.

    Raises:
        InputError: shapes differ, or affines differ by more than 0.01 mm anywhere in the volume.
    """
    if first.array.shape != second.array.shape:
        raise InputError(f"{second_path}: expected the shape of {first_path} {first.array.shape}, found "
                         f"{second.array.shape}; resample one to the other")
    corner = np.array([*first.array.shape, 1.0])
    apart = max(np.abs((first.affine - second.affine) @ point).max() for point in (corner, np.eye(4)[3]))
    if apart > AFFINE_TOLERANCE_MM:
        raise InputError(f"{second_path}: expected the affine of {first_path}, found one {apart:.2f} mm "
                         f"away; resample one to the other")


def read_ct_and_mask(ct_path: str | Path, mask_path: str | Path) -> tuple[Volume, Volume]:
    """Read a CT and its mask, which must share a voxel grid.

    Raises:
        InputError: as `read_ct`, `read_mask` and `check_same_grid`.
    """
    ct, mask = read_ct(ct_path), read_mask(mask_path)
    check_same_grid(ct, ct_path, mask, mask_path)
    return ct, mask


def reorient(volume: Volume, axis_codes: tuple[str, str, str] = AXIS_CODES) -> Volume:
    """Flip and permute axes to the nearest anatomical directions; no interpolation, same world."""
    current = nib.orientations.io_orientation(volume.affine)
    transform = nib.orientations.ornt_transform(current, nib.orientations.axcodes2ornt(axis_codes))
    array = nib.orientations.apply_orientation(volume.array, transform)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(transform, volume.array.shape)
    return Volume(array, affine)


def resample(volume: Volume, spacing_mm: float = 1.0, *, nearest: bool) -> Volume:
    """Resample to cubic voxels along the volume's own axes, by physical geometry.

    Args:
        volume: orthogonal axes.
        spacing_mm: of the result.
        nearest: for labels; else linear.

    Returns:
        A volume over the same extent (rounded to whole voxels), same dtype.
    """
    import SimpleITK as sitk

    image = _to_itk(volume)
    size = np.maximum(np.rint(np.array(image.GetSize()) * image.GetSpacing() / spacing_mm), 1).astype(int)
    edge = (spacing_mm / np.array(image.GetSpacing()) - 1.0) / 2.0  # outer faces stay, centres move
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(size.tolist())
    resampler.SetOutputSpacing([spacing_mm] * 3)
    resampler.SetOutputDirection(image.GetDirection())
    resampler.SetOutputOrigin(image.TransformContinuousIndexToPhysicalPoint(edge.tolist()))
    resampler.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear)
    resampler.SetUseNearestNeighborExtrapolator(True)
    resampled = resampler.Execute(image)
    affine = volume.affine.copy()
    affine[:3, :3] *= spacing_mm / volume.spacing_mm
    affine[:3, 3] = volume.affine[:3, :3] @ edge + volume.affine[:3, 3]
    return Volume(sitk.GetArrayFromImage(resampled).T, affine)


def _to_itk(volume: Volume) -> Any:
    """Return the volume as a SimpleITK image, whose world is left-posterior-superior positive."""
    import SimpleITK as sitk

    affine = RAS_FROM_LPS @ volume.affine
    direction, _ = np.linalg.qr(affine[:3, :3] / volume.spacing_mm)
    direction *= np.sign(np.sum(direction * affine[:3, :3], axis=0))  # QR may flip columns
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array.T))
    image.SetSpacing(volume.spacing_mm.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write a gzipped NIfTI file atomically, in the array's own dtype; same content, same bytes."""
    image = nib.Nifti1Image(volume.array, volume.affine)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        save_image(image, temporary)


def hu_to_uint8(hu: np.ndarray) -> np.ndarray:
    """Map HU to uint8: -300 and below is 0, 800 and above is 255, linear between."""
    low, high = HU_WINDOW
    scaled = (np.clip(hu, low, high).astype(np.float32) - low) * np.float32(255.0 / (high - low))
    return np.rint(scaled).astype(np.uint8)


def uint8_to_signed(image: np.ndarray) -> np.ndarray:
    """Map 0..255 to float32 -1..1."""
    return image.astype(np.float32) / 127.5 - 1.0


def signed_to_uint8(image: np.ndarray) -> np.ndarray:
    """Map -1..1 (clipped) to 0..255, rounded."""
    return np.rint((np.clip(image, -1.0, 1.0) + 1.0) * 127.5).astype(np.uint8)


def crop_columns(array: np.ndarray, columns: int, axis: int = 1) -> np.ndarray:
    """Return the central `columns` along an axis (a view); all of them if there are no more."""
    width = min(columns, array.shape[axis])
    first = (array.shape[axis] - width) // 2
    window = [slice(None)] * array.ndim
    window[axis] = slice(first, first + width)
    return array[tuple(window)]


def pad_columns(array: np.ndarray, columns: int, axis: int = 1) -> np.ndarray:
    """Undo `crop_columns`: zeros on either side along an axis; in the order in which NIfTI stores voxels."""
    shape = list(array.shape)
    missing, shape[axis] = columns - shape[axis], columns
    inside = [slice(None)] * array.ndim
    inside[axis] = slice(missing // 2, missing // 2 + array.shape[axis])
    padded = np.zeros(shape, array.dtype, order="F")
    padded[tuple(inside)] = array
    return padded
