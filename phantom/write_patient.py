"""One patient, from the seed to the files: the scan that a user would bring, and the truth beside it."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from phantom.background import Noises, draw_noises, paint_background
from phantom.bone import Canvas, paint_spine, trabecular_texture
from phantom.columns import column_table, genant_grade, third_heights
from phantom.grid import Grid
from phantom.patient import Order, Person, draw_person, fractured
from phantom.scanner import Scan, draw_noise, draw_scan, lay_grid, to_integer
from phantom.stack import Spine, centre_of, curve_points
from phantom.vertebra import Vertebra
from util.errors import InputError
from util.paths import atomic_path, raw_centroids, raw_ct, raw_mask, read_json, write_json
from util.vertebrae import label_name
from util.volume import Volume, write_volume

RAS_FROM_WORLD = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Patient:
    """All that is decided about a patient before a voxel is painted."""

    name: str
    person: Person
    spine: Spine  # with its fractures
    scan: Scan
    grid: Grid
    texture: np.ndarray
    noises: Noises
    noise_hu: np.ndarray


def draw_patient(seed: int, index: int, name: str, orders: list[Order], scanner: str = "varied") -> Patient:
    """Draw a patient from the cohort's seed and his number in it; `scanner` as in `draw_scan`."""
    shape, tissue, chance = (np.random.default_rng([seed, index, stream]) for stream in range(3))
    person = draw_person(shape, len(orders))
    spine = fractured(shape, person.healthy, orders)
    scan = draw_scan(chance, index, scanner)
    grid = lay_grid(scan, person.healthy, spine)
    return Patient(name, person, spine, scan, grid, trabecular_texture(tissue), draw_noises(tissue),
                   draw_noise(chance, grid, scan))


def truth_folder(root: str | Path, name: str) -> Path:
    """Return the folder of a patient's truth."""
    return Path(root) / name / "truth"


def scan_spine(patient: Patient, spine: Spine) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return CT (int16 HU), vertebra mask and body mask (uint8) of a spine in this patient."""
    hu = paint_background(patient.grid, spine, patient.person.tissue, patient.noises)
    canvas = Canvas(patient.grid, hu, np.zeros(hu.shape, np.uint8), np.zeros(hu.shape, np.uint8))
    paint_spine(canvas, spine, patient.person.tissue, patient.texture)
    return to_integer(canvas.hu, patient.noise_hu), canvas.mask, canvas.body


def write_patient(root: str | Path, patient: Patient) -> None:
    """Scan the spine before and after its fractures and write every file; the record of the truth comes last.

    That of an earlier patient of that name is taken away first, so that it never stands beside other volumes,
    and so are the centres that were found in his scan.
    """
    truth = truth_folder(root, patient.name)
    (truth / "truth.json").unlink(missing_ok=True)
    raw_centroids(root, patient.name).unlink(missing_ok=True)
    with ThreadPoolExecutor(2) as pool:
        healthy, now = pool.map(lambda spine: scan_spine(patient, spine),
                                (patient.person.healthy, patient.spine))
        files = [(truth / "healthy.nii.gz", healthy[0]), (raw_ct(root, patient.name), now[0]),
                 (truth / "healthy_body.nii.gz", healthy[2]), (truth / "body.nii.gz", now[2]),
                 (raw_mask(root, patient.name), now[1])]
        list(pool.map(lambda item: write_volume(item[0], Volume(item[1], patient.grid.affine)), files))
    write_columns(truth / "columns.npz", patient.spine)
    write_curve(truth / "curve.npz", patient)
    write_json(truth / "truth.json", truth_record(patient))


def is_written(root: str | Path, name: str, orders: list[Order]) -> bool:
    """Tell whether a patient is complete with these fractures: the record of the truth is written last."""
    record = truth_folder(root, name) / "truth.json"
    if not record.is_file() or not raw_ct(root, name).is_file() or not raw_mask(root, name).is_file():
        return False
    try:
        losses = {int(label): one["loss"] for label, one in read_json(record)["vertebrae"].items()}
    except (InputError, KeyError, TypeError, AttributeError):
        return False  # no record of ours: made anew
    planned = {order.label: order.loss for order in orders}
    return all(abs(loss - planned.get(label, 0.0)) < 1e-6 for label, loss in losses.items())


def truth_record(patient: Patient) -> dict[str, Any]:
    """Return what is true of a patient, for JSON. Heights in mm, front to back."""
    person = patient.person
    return {
        "patient": patient.name, "age_years": round(person.age_years, 1), "sex": person.sex,
        "trabecular_hu": round(person.tissue.trabecular_hu, 1), "axis_codes": patient.scan.codes,
        "noise_hu": round(patient.scan.noise_hu, 1), "spacing_mm": patient.scan.spacing_mm.tolist(),
        "vertebrae": {str(one.level.label): _vertebra_record(one)
                      for one in reversed(patient.spine.vertebrae) if one.level.label}}


def _vertebra_record(vertebra: Vertebra) -> dict[str, Any]:
    """Return the truth of one vertebra."""
    before, after = third_heights(vertebra)
    losses = 1.0 - after / before
    return {
        "name": label_name(vertebra.level.label), "grade": genant_grade(float(losses.max()) + 1e-9),
        "kind": vertebra.collapse.kind if vertebra.collapse else "none",
        "loss": float(losses.max()), "loss_by_third": losses.tolist(),
        "height_before_mm": before.tolist(), "height_after_mm": after.tolist()}


def write_columns(path: Path, spine: Spine) -> None:
    """Write the table of columns of every labelled vertebra: <label>_x, _y, _loss, _before, _after."""
    arrays: dict[str, np.ndarray] = {}
    for pose, vertebra in zip(spine.poses, spine.vertebrae, strict=True):
        label = vertebra.level.label
        if not label:
            continue
        table = column_table(vertebra)
        arrays |= {f"{label}_x_mm": table.x, f"{label}_y_mm": table.y, f"{label}_loss": table.loss,
                   f"{label}_before_mm": table.height_before, f"{label}_after_mm": table.height_after,
                   f"{label}_pose_ras": np.diag([*RAS_FROM_WORLD, 1.0]) @ pose}
    _write_arrays(path, arrays)


def write_curve(path: Path, patient: Patient) -> None:
    """Write the curves before and after (N, 3), RAS mm, and the bodies' middles (levels, 3) with labels."""
    arrays: dict[str, np.ndarray] = {}
    for name, spine in (("before", patient.person.healthy), ("after", patient.spine)):
        arrays[f"points_{name}_ras"] = curve_points(spine) * RAS_FROM_WORLD
        arrays[f"centres_{name}_ras"] = np.array(
            [centre_of(pose, one) for pose, one in zip(spine.poses, spine.vertebrae, strict=True)
             if one.level.label]) * RAS_FROM_WORLD
    labels = np.array([one.level.label for one in patient.spine.vertebrae if one.level.label])
    _write_arrays(path, arrays | {"labels": labels})


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed table atomically."""
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
