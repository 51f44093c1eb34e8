"""Straightening: a patient's CT sampled once along the spine, against every vertebra for itself, row by row.

    python benchmarks/straightening.py

The plain loop samples a volume of 256 x 256 x 64 voxels for each vertebra, a plane at a time, from a CT and a
grid in float64. The fast side samples the spine once, its content alone, in float32, and cuts vertebrae out.
Curve and bodies are the same on both sides and not timed; the details hold what the whole stage takes.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.comparison import Row, Settings, alternate, run_benchmark, seconds
from benchmarks.phantom_data import phantom_data
from util.cli import run_script
from util.paths import raw_centroids, raw_ct, raw_mask
from util.volume import CONTENT_COLUMNS, STRAIGHTENED_CENTRE, STRAIGHTENED_SHAPE, Volume

if TYPE_CHECKING:
    from straighten.curve import Curve

GREY_LEVELS = 1        # of 255, by which float32 may round otherwise
BORDER_SHARE = 1e-6    # of voxels on the very border of the scan, which rounding may move in or out of it


def measure(settings: Settings) -> list[Row]:
    """Time both sides on one patient and compare every voxel."""
    from straighten.bodies import fit_curve, label_boxes
    from straighten.centroids import read_centroids
    from straighten.patient import Request, raw_patients, straighten, straighten_patient
    from straighten.sampling import thinned
    from util.volume import read_ct_and_mask

    data = phantom_data(settings.scratch, settings.jobs)
    patient = raw_patients(data.raw, None)[0]
    ct, mask = read_ct_and_mask(raw_ct(data.raw, patient), raw_mask(data.raw, patient))
    labels = thinned(mask)
    boxes = label_boxes(labels)
    centres_mm = read_centroids(raw_centroids(data.raw, patient), mask)
    curve, bodies = fit_curve(labels, boxes, {label: centre for label, centre in centres_mm.items()
                                              if label in boxes})

    def fast() -> dict[int, np.ndarray]:
        done = straighten(ct, curve, bodies, list(bodies))
        return {label: one.ct.array for label, one in done.items() if one.ct is not None}

    def plain() -> dict[int, np.ndarray]:
        return {label: plain_volume(ct, curve, label) for label in bodies}

    plain_s, fast_s = alternate(plain, fast, settings.rounds)
    expected, found = plain(), fast()
    apart = np.stack([np.abs(expected[label].astype(int) - found[label]) for label in bodies]) > GREY_LEVELS
    request = Request(str(data.raw), str(settings.scratch / "straightened_again"), None, None, False)
    whole_s = seconds(lambda: straighten_patient(request, patient))
    return [Row("straighten", plain_s / len(bodies), fast_s / len(bodies), "vertebra",
                bool(apart.mean() <= BORDER_SHARE),
                f"{apart.sum()} of {apart.size / 1e6:.0f} million voxels differ by more than a grey level",
                {"vertebrae": len(bodies), "whole_stage_seconds_per_vertebra": whole_s / len(bodies)})]


def plain_volume(ct: Volume, curve: "Curve", label: int) -> np.ndarray:
    """Sample one vertebra's volume plane by plane, (256, 256, 64) uint8."""
    from scipy.ndimage import map_coordinates

    from straighten.sampling import AIR_HU
    from util.volume import hu_to_uint8

    volume = ct.array.astype(np.float64)
    to_voxel = np.linalg.inv(ct.affine)
    row, posterior, left = curve.target_point(label)
    columns = np.arange(STRAIGHTENED_SHAPE[1]) - STRAIGHTENED_CENTRE[1] + posterior
    slices = np.arange(STRAIGHTENED_SHAPE[2]) - STRAIGHTENED_CENTRE[2] + left
    aside = np.stack(np.meshgrid(columns, slices, indexing="ij"), axis=-1)               # (256, 64, 2) mm
    sampled = np.empty(STRAIGHTENED_SHAPE)
    for place in range(STRAIGHTENED_SHAPE[0]):
        at = row - STRAIGHTENED_CENTRE[0] + place
        world = curve.positions_mm[at] + aside @ curve.frames[at][:, 1:].T               # (256, 64, 3)
        voxel = world @ to_voxel[:3, :3].T + to_voxel[:3, 3]
        sampled[place] = map_coordinates(volume, np.moveaxis(voxel, -1, 0), order=1, mode="constant",
                                         cval=AIR_HU)
    grey = hu_to_uint8(sampled)
    margin = (STRAIGHTENED_SHAPE[1] - CONTENT_COLUMNS) // 2
    grey[:, :margin], grey[:, -margin:] = 0, 0
    return grey


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the figures."""
    return run_benchmark(argv, __doc__, "straightening", measure)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
