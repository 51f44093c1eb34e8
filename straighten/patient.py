"""Straightening one patient: what is asked for, what is complete, and the work itself."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from straighten.bodies import Body, fit_curve, label_boxes
from straighten.centroids import read_centroids
from straighten.curve import Curve, Geometry, save_geometry
from straighten.sampling import COLUMNS, CURVE_COLUMN, CURVE_SLICE, HALF_ROWS, SLICES, sample_grey, thinned
from util.errors import InputError
from util.paths import (
    geometry_path,
    is_up_to_date,
    raw_centroids,
    raw_ct,
    raw_mask,
    read_json,
    straightened_ct,
    straightened_label,
    visible,
)
from util.vertebrae import LABELS, case_name, label_name, read_cohort, split_case
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


def raw_patients(raw: str | Path, cohort: str | Path | None) -> list[str]:
    """Return the patients of a cohort, or those of the raw folder that have a mask.

    Raises:
        InputError: the folder holds none.
    """
    if cohort is not None:
        return read_cohort(cohort).patients()
    folders = [folder.name for folder in visible(raw, "*") if folder.is_dir()]
    patients = [name for name in folders if raw_mask(raw, name).is_file()]
    if not patients:
        raise InputError(f"--raw {raw}: expected folders <p>/ with <p>_msk.nii.gz, found none; "
                         f"check the path or make a cohort with phantom/make_cohort.py")
    return patients


@dataclass(frozen=True)
class Request:
    """What to straighten.

    Attributes:
        raw, out: folders.
        cohort_labels: labels that a cohort names, by patient; None without a cohort.
        labels: only these; None for all.
        labels_only: there is no CT.
    """

    raw: str
    out: str
    cohort_labels: dict[str, set[int]] | None
    labels: Collection[int] | None
    labels_only: bool

    @property
    def patients(self) -> list[str]:
        """Return the patients asked for.

        Raises:
            InputError: there is none.
        """
        if self.cohort_labels is None:
            return raw_patients(self.raw, None)
        demanding = [patient for patient in self.cohort_labels if self.demanded(patient)]
        if not demanding:
            raise InputError(f"--labels {' '.join(map(str, self.labels or ()))}: expected labels of cases in "
                             f"--cohort, found none of them there; choose others")
        return demanding

    def demanded(self, patient: str) -> set[int]:
        """Return the labels that must be there: those that the cohort names."""
        named = (self.cohort_labels or {}).get(patient, set())
        return named if self.labels is None else named & set(self.labels)

    def chosen(self, patient: str, located: Collection[int]) -> set[int]:
        """Return the labels to straighten, given those with a centroid."""
        if self.cohort_labels is not None:
            return self.demanded(patient)
        return set(located) if self.labels is None else set(located) & set(self.labels)


def cohort_labels(cohort: str | Path | None) -> dict[str, set[int]] | None:
    """Return the labels that a cohort file names, by patient; None without a file."""
    if cohort is None:
        return None
    labels: dict[str, set[int]] = {}
    for case in read_cohort(cohort).cases():
        patient, label = split_case(case)
        labels.setdefault(patient, set()).add(label)
    return labels


def is_complete(request: Request, patient: str) -> bool:
    """Tell whether everything asked for of a patient is written, and none of it older than the scan."""
    centroids = raw_centroids(request.raw, patient)
    if not centroids.is_file():
        return False
    try:
        located = {entry.get("label") for entry in read_json(centroids)}
    except (InputError, AttributeError, TypeError):
        return False  # the work itself says what is wrong
    cases = [case_name(patient, label) for label in request.chosen(patient, located & set(LABELS))]
    made = [straightened_label(request.out, case) for case in cases]
    made += [] if request.labels_only else [straightened_ct(request.out, case) for case in cases]
    sources = [centroids, raw_mask(request.raw, patient)]
    sources += [] if request.labels_only else [raw_ct(request.raw, patient)]
    return is_up_to_date([*made, geometry_path(request.out, patient)], sources)


def straighten_patient(request: Request, patient: str) -> str | None:
    """Write the straightened volumes of a patient's vertebrae and the geometry; return remarks.

    Raises:
        InputError: a file cannot be used, or a demanded vertebra is not there (the others are written).
    """
    ct, mask = _read(request, patient)
    centres_mm = read_centroids(raw_centroids(request.raw, patient), mask)
    labels = thinned(mask)
    boxes = label_boxes(labels)
    usable = {label: centre for label, centre in centres_mm.items() if label in boxes}
    if not usable:
        raise InputError(f"{raw_mask(request.raw, patient)}: expected the labels of the centroid file "
                         f"{sorted(centres_mm)}, found {sorted(boxes)}; do the files belong together?")
    curve, bodies = fit_curve(labels, boxes, usable)
    chosen = request.chosen(patient, centres_mm)
    targets = sorted(chosen & set(bodies))
    if targets:
        _write_cases(request, patient, targets, straighten(ct, curve, bodies, targets))
        save_geometry(geometry_path(request.out, patient), Geometry(curve, mask.affine, mask.array.shape))
    missing = sorted(chosen - set(bodies))
    if missing and request.cohort_labels is not None:
        raise InputError("; ".join(_missing(request, patient, label, centres_mm, boxes) for label in missing))
    if not chosen:
        return "none of --labels has a centroid, so nothing was written"
    return f"no body in the mask for {', '.join(map(label_name, missing))}" if missing else None


def _read(request: Request, patient: str) -> tuple[Volume | None, Volume]:
    """Read a patient's CT (unless labels are enough) and mask."""
    ct_path, mask_path = raw_ct(request.raw, patient), raw_mask(request.raw, patient)
    if request.labels_only:
        return None, read_mask(mask_path)
    if mask_path.is_file() and not ct_path.is_file():
        raise InputError(f"{ct_path}: expected the CT beside the mask, found none; "
                         f"add it, or straighten masks alone with --labels_only")
    return read_ct_and_mask(ct_path, mask_path)


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
