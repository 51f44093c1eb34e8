"""Straightening: a spine once, whole arrays at a time, against each vertebra anew, plane by plane.

    python benchmarks/straightening.py

The plain loop unpacks CT and mask as float64 for every vertebra, and for each plane of its volume places the
samples and interpolates. It is given the curve, which the fast side finds. Its labels are defined alike: the
signed distance to a vertebra's surface, plane by plane, for every vertebra that shows in the volume, and of
that the body; both sides share the code for these two steps. The fast side is a patient as the stage does it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparison import Row, Settings, alternate, run_benchmark
from benchmarks.phantom_data import phantom_data
from straighten.curve import Curve, load_geometry
from util.cli import run_script
from util.paths import geometry_path, make_folder, raw_ct, raw_mask, straightened_ct, straightened_label
from util.vertebrae import case_name
from util.volume import (
    CONTENT_COLUMNS,
    STRAIGHTENED_CENTRE,
    STRAIGHTENED_SHAPE,
    Volume,
    crop_columns,
    hu_to_uint8,
    read_volume,
    write_volume,
)

PLAIN_VERTEBRAE = 2    # each costs the plain loop the same
GREY_LEVELS = 1        # of 255, by which float32 coordinates may move a voxel
LABEL_SHARE = 1e-3     # of the labels' voxels, which they may move over the surface


def measure(settings: Settings) -> list[Row]:
    """Time both sides on one patient and compare the volumes that both wrote."""
    from straighten.patient import straighten_patient
    from straighten.request import Request, cohort_labels

    data = phantom_data(settings.scratch, settings.jobs)
    labels = cohort_labels(data.cohort)
    assert labels
    patient, targets = next((patient, sorted(found)) for patient, found in labels.items())
    chosen = targets[::len(targets) // PLAIN_VERTEBRAE][:PLAIN_VERTEBRAE]
    fast, plain = (make_folder(settings.scratch / name) for name in ("straighten", "straighten_plain"))
    request = Request(str(data.raw), str(fast), labels, None, labels_only=False)

    def plain_vertebrae() -> None:
        for target in chosen:
            plain_vertebra(data.raw, fast, plain, patient, target)

    plain_s, fast_s = alternate(plain_vertebrae, lambda: straighten_patient(request, patient),
                                settings.rounds)
    grey, share = differences(fast, plain, [case_name(patient, target) for target in chosen])
    return [Row("straighten", plain_s / len(chosen), fast_s / len(targets), "vertebra",
                grey <= GREY_LEVELS and share <= LABEL_SHARE,
                f"CT within {grey} of 255 grey levels, {share:.0e} of the labels' voxels differ",
                {"vertebrae_of_the_patient": len(targets), "seconds_per_patient": fast_s})]


def plain_vertebra(raw: Path, geometry: Path, out: Path, patient: str, target: int) -> None:
    """Straighten one vertebra of a patient and write both volumes."""
    import nibabel as nib
    from scipy.ndimage import map_coordinates

    curve = load_geometry(geometry_path(geometry, patient)).curve
    image: Any = nib.load(raw_ct(raw, patient))
    ct = image.get_fdata()
    row, posterior_mm, left_mm = curve.target_point(target)
    planes = Planes(curve, image.affine, np.arange(CONTENT_COLUMNS) - CONTENT_COLUMNS / 2 + posterior_mm,
                    np.arange(STRAIGHTENED_SHAPE[2]) - STRAIGHTENED_CENTRE[2] + left_mm)
    grey = np.zeros(STRAIGHTENED_SHAPE, np.uint8)
    for index in range(STRAIGHTENED_SHAPE[0]):
        voxels = planes.voxels(row - STRAIGHTENED_CENTRE[0] + index)
        hu = map_coordinates(ct, voxels, order=1, mode="constant", cval=-1000.0)
        crop_columns(grey, CONTENT_COLUMNS)[index] = hu_to_uint8(hu)
    affine, case = curve.target_affine(target, STRAIGHTENED_CENTRE), case_name(patient, target)
    write_volume(straightened_ct(out, case), Volume(grey, affine))
    write_volume(straightened_label(out, case), Volume(plain_label(raw, patient, target, curve), affine))


@dataclass(frozen=True)
class Planes:
    """The planes across a curve, with samples at some offsets in mm from it, in a volume of this affine."""

    curve: Curve
    affine: np.ndarray
    posterior_mm: np.ndarray
    left_mm: np.ndarray

    def voxels(self, row: int) -> np.ndarray:
        """Return the voxel coordinates of a plane's samples, (3, columns, slices) float64."""
        frame = self.curve.frames[row]
        world = (self.curve.positions_mm[row] + self.posterior_mm[:, None, None] * frame[:, 1]
                 + self.left_mm[None, :, None] * frame[:, 2])
        to_voxel = np.linalg.inv(self.affine)
        return np.moveaxis(world @ to_voxel[:3, :3].T + to_voxel[:3, 3], -1, 0)


def plain_label(raw: Path, patient: str, target: int, curve: Curve) -> np.ndarray:
    """Return the bodies around a target in its volume (256, 256, 64) uint8."""
    import nibabel as nib

    from straighten.sampling import CURVE_COLUMN, CURVE_SLICE
    from straighten.vertebral_body import extract_body

    image: Any = nib.load(raw_mask(raw, patient))
    mask = Volume(image.get_fdata(), image.affine)
    corner = curve.target_point(target) - np.array([STRAIGHTENED_CENTRE[0], CONTENT_COLUMNS // 2,
                                                    STRAIGHTENED_CENTRE[2]])
    label = np.zeros(STRAIGHTENED_SHAPE, np.uint8)
    for other in curve.centres:
        first, vertebra = plain_vertebra_mask(mask, other, curve)
        origin = np.array([first, -CURVE_COLUMN, -CURVE_SLICE])
        place = np.argwhere(extract_body(vertebra)) + origin - corner
        content = crop_columns(label, CONTENT_COLUMNS)
        shown = place[((place >= 0) & (place < content.shape)).all(axis=1)]
        content[tuple(shown.T)] = other
    return label


def plain_vertebra_mask(mask: Volume, label: int, curve: Curve) -> tuple[int, np.ndarray]:
    """Return the first row of a vertebra's window and the vertebra in it, (R, COLUMNS, SLICES) bool."""
    from scipy.ndimage import map_coordinates

    from straighten.bodies import WINDOW_ROWS
    from straighten.sampling import DISTANCE_LIMIT_MM, grid_mm, signed_distance

    voxels = np.argwhere(mask.array == label)
    first, second, third = (slice(int(low), int(high) + 1)
                            for low, high in zip(voxels.min(axis=0), voxels.max(axis=0), strict=True))
    distance_mm, corner = signed_distance(mask, (first, second, third), label)
    planes = Planes(curve, mask.affine, *(offsets.astype(float) for offsets in grid_mm()))
    row = int(curve.target_point(label)[0])
    inside = [map_coordinates(distance_mm, planes.voxels(each) - corner[:, None, None], order=1,
                              mode="constant", cval=DISTANCE_LIMIT_MM) < 0
              for each in range(row - WINDOW_ROWS, row + WINDOW_ROWS)]
    return row - WINDOW_ROWS, np.stack(inside)


def differences(fast: Path, plain: Path, cases: Sequence[str]) -> tuple[int, float]:
    """Return the greatest difference of grey, and the share of the labels' voxels that differ."""
    grey, moved, labelled = 0, 0, 0
    for case in cases:
        found, expected = (read_volume(straightened_ct(root, case)).array for root in (fast, plain))
        grey = max(grey, int(np.abs(found.astype(int) - expected).max()))
        found, expected = (read_volume(straightened_label(root, case)).array for root in (fast, plain))
        moved, labelled = moved + int((found != expected).sum()), labelled + int((expected > 0).sum())
    return grey, moved / labelled


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the figures; return 1 where both sides differ."""
    return run_benchmark(argv, __doc__, "straighten", measure)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
