"""Straightening one patient."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from data.straightened import faces_caudal
from straighten.bodies import Body, fit_curve, label_boxes
from straighten.centroids import read_centroids
from straighten.curve import Curve, Geometry, save_geometry
from straighten.request import Request
from straighten.sampling import COLUMNS, CURVE_COLUMN, CURVE_SLICE, HALF_ROWS, SLICES, sample_grey, thinned
from straighten.scan_check import check_hu, check_mask_order, check_order
from util.errors import InputError
from util.paths import geometry_path, raw_centroids, raw_ct, raw_mask, straightened_ct, straightened_label
from util.vertebrae import case_name, label_name
from util.volume import (
    CONTENT_COLUMNS,
    STRAIGHTENED_CENTRE,
    STRAIGHTENED_SHAPE,
    Volume,
    pad_columns,
    read_ct_and_mask,
    read_mask,
    write_volume,
)


def straighten_patient(request: Request, patient: str) -> str | None:
    """Write the straightened volumes of a patient's vertebrae and the geometry; return remarks.

    Raises:
        InputError: a file cannot be used, or a demanded vertebra is not there, or none that was asked for, or
            no later stage would take one (the others are written).
    """
    ct, mask = _read(request, patient)
    labels = thinned(mask)
    boxes = label_boxes(labels)
    centres_mm = read_centroids(raw_centroids(request.raw, patient), mask)
    curve, bodies = fit_curve(labels, boxes, _usable(request, patient, centres_mm, boxes))
    chosen = request.chosen(patient, centres_mm)
    volumes = straighten(ct, curve, bodies, chosen & set(bodies)) if chosen & set(bodies) else {}
    faults = _refused(patient, volumes)
    if len(faults) < len(volumes):
        _write_cases(request, patient, sorted(set(volumes) - set(faults)), volumes)
        save_geometry(geometry_path(request.out, patient), Geometry(curve, mask.affine, mask.array.shape))
    missing = sorted(chosen - set(bodies))
    if request.cohort_labels is not None or not volumes:
        faults |= {label: _missing(request, patient, label, centres_mm, boxes) for label in missing}
    if faults:
        raise InputError("; ".join(faults.values()))
    return f"no body in the mask for {', '.join(map(label_name, missing))}" if missing else None


def _read(request: Request, patient: str) -> tuple[Volume | None, Volume]:
    """Read a patient's CT (unless labels are enough) and mask, and check what is in them."""
    ct_path, mask_path = raw_ct(request.raw, patient), raw_mask(request.raw, patient)
    if request.labels_only:
        ct, mask = None, read_mask(mask_path)
    elif mask_path.is_file() and not ct_path.is_file():
        raise InputError(f"{ct_path}: expected the CT beside the mask, found none; "
                         f"add it, or straighten masks alone with --labels_only")
    else:
        ct, mask = read_ct_and_mask(ct_path, mask_path)
        check_hu(ct, ct_path, mask)
    check_mask_order(mask, mask_path)
    return ct, mask


def _usable(request: Request, patient: str, centres_mm: Mapping[int, np.ndarray],
            boxes: Collection[int]) -> dict[int, np.ndarray]:
    """Return the centres (3,) in mm of labels that the mask has.

    Raises:
        InputError: there are none, or they lie in another order than their vertebrae.
    """
    path = raw_centroids(request.raw, patient)
    usable = {label: centre for label, centre in centres_mm.items() if label in boxes}
    if not usable:
        raise InputError(f"{raw_mask(request.raw, patient)}: expected the labels of the centroid file "
                         f"{sorted(centres_mm)}, found {sorted(boxes)}; do the files belong together?")
    check_order(usable, path, "correct it, or find the centres anew: "
                "python straighten/location_json_local.py --overwrite")
    return usable


def _refused(patient: str, volumes: Mapping[int, "Straightened"]) -> dict[int, str]:
    """Return, by label, why no later stage would take a volume; it would send the user back here for ever."""
    reasons = {}
    for label, volume in volumes.items():
        case = case_name(patient, label)
        if not faces_caudal(volume.label):
            reasons[label] = (f"case {case}: expected a body that leans by less than 90 degrees, found axes "
                              f"{'-'.join(volume.label.axis_codes)} along the curve; check the mask and the "
                              f"centroids, or leave it out")
        elif not (volume.label.array == label).any():
            reasons[label] = (f"case {case}: expected its body around its centroid, found none of it within "
                              f"the straightened volume; check the centroid, or leave it out")
    return reasons


def _missing(request: Request, patient: str, label: int, located: Collection[int],
             boxes: Collection[int]) -> str:
    """Return why a demanded vertebra could not be straightened."""
    case, mask_path = case_name(patient, label), raw_mask(request.raw, patient)
    if label not in boxes:
        return (f"case {case}: expected label {label} in {mask_path}, found {sorted(boxes)}; "
                f"correct the cohort")
    if label not in located:
        return (f"case {case}: expected label {label} in {raw_centroids(request.raw, patient)}, found "
                f"{sorted(located)}; the scan cuts it off: leave it out of the cohort, or add its centroid")
    return (f"case {case}: expected a vertebral body of label {label} in {mask_path}, found none; "
            f"check the mask")


@dataclass(frozen=True)
class Straightened:
    """One target's volumes; `ct` is None where there is none. Both uint8 256 x 256 x 64, with affine."""

    ct: Volume | None
    label: Volume


def straighten(ct: Volume | None, curve: Curve, bodies: dict[int, Body],
               targets: Collection[int]) -> dict[int, Straightened]:
    """Straighten a spine once and cut out a volume around each target.

    All of a patient's volumes are windows of one straightened spine, so they agree to the voxel.

    Args:
        ct: in HU, or None.
        curve: through the bodies.
        bodies: on the curve.
        targets: labels to cut out.
    """
    points = {target: curve.target_point(target) for target in targets}
    centres = [int(point[0]) for point in points.values()]
    rows = slice(min(centres) - HALF_ROWS, max(centres) + HALF_ROWS)
    spine = None if ct is None else sample_grey(ct, curve, rows)
    labels = _paint(bodies, rows)
    volumes = {}
    for target, point in points.items():
        affine = curve.target_affine(target, STRAIGHTENED_CENTRE)
        window = point - [rows.start, 0, 0]
        volumes[target] = Straightened(None if spine is None else Volume(_cut(spine, window), affine),
                                       Volume(_cut(labels, window), affine))
    return volumes


def _cut(spine: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Cut a target's volume (256, 256, 64) out of a whole spine; `centre` is (row, posterior, left)."""
    row, column, side = centre + np.array([0, CURVE_COLUMN, CURVE_SLICE])
    half_columns, half_slices = CONTENT_COLUMNS // 2, STRAIGHTENED_SHAPE[2] // 2
    content = spine[row - HALF_ROWS:row + HALF_ROWS, column - half_columns:column + half_columns,
                    side - half_slices:side + half_slices]
    return pad_columns(content, STRAIGHTENED_SHAPE[1])


def _paint(bodies: dict[int, Body], rows: slice) -> np.ndarray:
    """Return the labels of all bodies on some rows, (R, COLUMNS, SLICES) uint8."""
    labels: np.ndarray = np.zeros((rows.stop - rows.start, COLUMNS, SLICES), np.uint8, order="F")
    for label, body in bodies.items():
        start, stop = max(rows.start, body.rows.start), min(rows.stop, body.rows.stop)
        if start < stop:
            part = body.voxels[start - body.rows.start:stop - body.rows.start]
            labels[start - rows.start:stop - rows.start][part] = label
    return labels


def _write_cases(request: Request, patient: str, targets: Collection[int],
                 volumes: dict[int, Straightened]) -> None:
    """Write the volumes of a patient."""
    for target in targets:
        case = case_name(patient, target)
        ct = volumes[target].ct
        if ct is not None:
            write_volume(straightened_ct(request.out, case), ct)
        write_volume(straightened_label(request.out, case), volumes[target].label)
