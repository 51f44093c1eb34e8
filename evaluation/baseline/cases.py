"""Baselines from file to file: measure cases for the fit, write masks and records, make the table."""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data.straightened import read_straightened
from evaluation.baseline.body_shape import BodyShape
from evaluation.baseline.models import MASK_METHODS, METHODS, Baselines, load_baselines
from evaluation.baseline.reference import Reference
from evaluation.baseline.surroundings import MeasuredBody, Surroundings, read_surroundings, surroundings_of
from evaluation.heights import relative_loss
from evaluation.rhlv.table import PARTS
from util.errors import InputError
from util.paths import (
    FileVersion,
    atomic_path,
    fake_label,
    file_version,
    is_up_to_date,
    read_json,
    straightened_ct,
    straightened_label,
    write_json,
)
from util.vertebrae import LABELS, Cohort, healthy_labels, label_name, split_case
from util.volume import Volume, write_volume

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class BaselineSettings:
    """Where cases are read, results go, and by which model; picklable."""

    dataroot: Path
    output: Path
    cohort: Cohort
    model: Path

    def measured(self, case: str) -> Path:
        """Bodies of a case, measured for the fit."""
        return self.output / "measured" / f"{case}.npz"

    def record(self, case: str) -> Path:
        """Reference heights and losses of a case by every method."""
        return self.output / "cases" / f"{case}.json"


def measure_case(settings: BaselineSettings, case: str) -> str | None:
    """Measure target and surroundings of one case and keep the numbers; return why the target has none."""
    found = read_surroundings(settings.dataroot, case, settings.cohort)
    bodies = list(found.bodies.values())
    with atomic_path(settings.measured(case)) as temporary:
        np.savez_compressed(temporary, reason=np.array(found.own_reason),
                            labels=np.array(list(found.bodies), int),
                            heights=[body.heights_mm for body in bodies],
                            values=[body.shape.values for body in bodies],
                            centres=[body.shape.centre for body in bodies],
                            middles=[body.shape.middle_mm for body in bodies])
    return found.own_reason or None


def load_measured(settings: BaselineSettings, case: str) -> Surroundings:
    """Return what `measure_case` kept, without the volume; healthy is what the cohort says now."""
    with np.load(settings.measured(case)) as kept:
        shapes = map(BodyShape, kept["values"], kept["centres"], kept["middles"])
        bodies = dict(zip(kept["labels"].tolist(), map(MeasuredBody, kept["heights"], shapes), strict=True))
        reason = str(kept["reason"])
    patient, label = split_case(case)
    healthy = healthy_labels(settings.cohort, patient, bodies) - {label}
    return Surroundings(label, bodies, frozenset(healthy), reason)


def is_measured(settings: BaselineSettings, case: str) -> bool:
    """Tell whether a case's measures are there and younger than its volumes."""
    return _is_younger(settings.measured(case), settings, case)


def _is_younger(path: Path, settings: BaselineSettings, case: str) -> bool:
    """Tell whether a file is there and younger than a case's volumes."""
    sources = straightened_ct(settings.dataroot, case), straightened_label(settings.dataroot, case)
    return all(source.is_file() for source in sources) and is_up_to_date([path], sources)


@lru_cache(maxsize=1)
def _model(version: FileVersion) -> Baselines:
    """Read the fitted baselines, once per process."""
    return load_baselines(version.path)


def recipe(settings: BaselineSettings, case: str) -> str:
    """Return a digest of what decides a case's result beside its volumes: the model, the patient's grades."""
    patient, _ = split_case(case)
    healthy = sorted(healthy_labels(settings.cohort, patient, LABELS))
    return hashlib.sha256(settings.model.read_bytes() + json.dumps(healthy).encode()).hexdigest()[:16]


def reference_case(settings: BaselineSettings, case: str) -> str | None:
    """Give one case's references by every method and write them; return which are undefined and why."""
    ct, labels = read_straightened(settings.dataroot, case)
    surroundings = surroundings_of(case, ct, labels, settings.cohort)
    record: dict[str, Any] = {"recipe": recipe(settings, case), "methods": {}}
    for baseline in _model(file_version(settings.model)).methods:
        reference = baseline.reference(surroundings)
        path = fake_label(settings.output / baseline.name, case)
        if reference.mask is None:
            path.unlink(missing_ok=True)  # of an earlier model that had one
        else:
            write_volume(path, Volume(reference.mask, labels.affine))
        record["methods"][baseline.name] = _numbers(reference, surroundings)
    write_json(settings.record(case), record)
    undefined = [f"{name}: {numbers['reason']}" for name, numbers in record["methods"].items()
                 if None in numbers["height_reference_mm"]]
    return "; ".join(undefined) or None


def _numbers(reference: Reference, surroundings: Surroundings) -> dict[str, Any]:
    """Return heights, the target's loss against them, and the reason, as JSON; undefined is null."""
    rhlv = relative_loss(reference.heights_mm, surroundings.own_heights_mm)
    reasons = dict.fromkeys(filter(None, (reference.reason, surroundings.own_reason)))
    return {"height_reference_mm": _listed(reference.heights_mm), "rhlv": _listed(rhlv),
            "reason": "; ".join(reasons)}


def _listed(values: np.ndarray) -> list[float | None]:
    """Return numbers as JSON has them, null for NaN."""
    return [float(value) if math.isfinite(value) else None for value in values]


def is_complete(settings: BaselineSettings, case: str) -> bool:
    """Tell whether a case's record and masks are there, of this model, and younger than its volumes."""
    path = settings.record(case)
    if not _is_younger(path, settings, case):
        return False
    try:
        record = read_json(path)
        masks = [fake_label(settings.output / name, case) for name in MASK_METHODS
                 if None not in record["methods"][name]["height_reference_mm"]]
        return record["recipe"] == recipe(settings, case) and all(mask.is_file() for mask in masks)
    except (InputError, KeyError, TypeError):
        return False  # no record of ours: made anew


def write_table(settings: BaselineSettings, cases: list[str]) -> "pd.DataFrame":
    """Write `baselines.csv`, a row per method and case, and return it."""
    import pandas as pd

    records = {case: read_json(settings.record(case))["methods"] for case in cases}
    table = pd.DataFrame([_row(settings.cohort, name, case, record[name])
                          for name in METHODS for case, record in records.items()])
    with atomic_path(settings.output / "baselines.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    return table


def _row(cohort: Cohort, method: str, case: str, numbers: dict[str, Any]) -> dict[str, Any]:
    """Return the table's row of a case by one method."""
    patient, label = split_case(case)
    row: dict[str, Any] = {"method": method, "case": case, "patient": patient, "level": label_name(label),
                           "split": cohort.split_of(case), "grade": cohort.grades[case]}
    heights = [math.nan if value is None else value for value in numbers["height_reference_mm"]]
    losses = [math.nan if value is None else value for value in numbers["rhlv"]]
    row |= {f"height_reference_{part}_mm": value for part, value in zip(PARTS, heights, strict=True)}
    row |= {f"rhlv_{part}": value for part, value in zip(PARTS, losses, strict=True)}
    return row | {"reason": numbers["reason"]}
