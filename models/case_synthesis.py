"""One case from file to file: read it, synthesize, write CT_fake, label_fake and a record of the heights."""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from util.body_heights import THIRDS
from util.errors import InputError
from util.paths import (
    atomic_path,
    fake_ct,
    fake_label,
    heatmap_path,
    is_up_to_date,
    read_json,
    straightened_ct,
    straightened_label,
    write_json,
)
from util.vertebrae import ANATOMICAL_ORDER, label_name, split_case
from util.volume import STRAIGHTENED_SHAPE, Volume, pad_columns, write_volume

if TYPE_CHECKING:  # PyTorch takes seconds to import and the parser does not need it
    from models.height_prior import HeightPrior
    from models.iterative_inference import Restoration, Synthesis
    from models.slice_generation import PlaneModel

STEPS = ("", "upper_", "lower_")  # prefixes of the table's columns: the target's own, then its neighbours'
STEP_COLUMNS = ("vertebra", "height_mm", "spread_mm", "original_height_mm", "sagittal_height_mm",
                "coronal_height_mm", *(f"agreed_{third}_mm" for third in THIRDS))


@dataclass(frozen=True)
class SynthesisSettings:
    """Where cases come from and go to, and how they are made; picklable."""

    dataroot: Path
    output: Path
    checkpoints: tuple[Path, ...]          # one per plane
    heatmaps: Path
    iterative: str = "adjacent"            # adjacent, fractured or none
    grades: dict[str, int] = field(default_factory=dict)
    heights: str = "agreed"                # agreed, head or drawn
    device: str = "cpu"                    # auto, cpu, cuda or cuda:<number>
    batch_slices: int = 8
    amp: bool = False
    threads: int | None = None             # of this process; None for the library's choice


@dataclass(frozen=True)
class Models:
    """Generators ready for inference and what they expect."""

    planes: tuple["PlaneModel", ...]
    columns: int
    takes_heatmap: bool
    prior: "HeightPrior | None"


def recipe(settings: SynthesisSettings) -> str:
    """Return a short digest of what decides the result, weights and method."""
    digest = hashlib.sha256(f"{settings.iterative} {settings.heights}".encode())
    for path in settings.checkpoints:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=1)
def load_models(checkpoints: tuple[Path, ...], device: str, amp: bool) -> Models:
    """Load one generator per plane, once per process.

    Raises:
        InputError: a checkpoint is missing or foreign, or the planes or columns of two do not fit together.
    """
    import torch

    from data.slice_input import CONVENTIONS
    from models.checkpoint import load_generator
    from models.height_prior import HeightPrior
    from models.slice_generation import PlaneModel, prepare_for_inference
    from util.device import choose_device

    place = torch.device(choose_device(device))
    loaded = [load_generator(path, place) for path in checkpoints]
    priors = [settings["height_prior"] for _, settings in loaded if settings["height_prior"]]
    prior = HeightPrior.from_json(priors[0]) if priors else None
    planes = tuple(PlaneModel(prepare_for_inference(generator), settings["plane"], place, amp,
                              CONVENTIONS[settings["convention"]], head_doubt(settings["training"], prior))
                   for generator, settings in loaded)
    names = [model.plane for model in planes]
    columns = {int(settings["crop_cols"]) for _, settings in loaded}
    if len(set(names)) != len(names) or len(columns) != 1:
        raise InputError(f"{checkpoints[-1]}: expected the other plane than {checkpoints[0]}, and its "
                         f"columns, found {' and '.join(names)}, {sorted(columns)} columns; choose others")
    takes_heatmap = any(settings["attention"] != "none" for _, settings in loaded)
    return Models(planes, columns.pop(), takes_heatmap, prior)


def head_doubt(training: dict[str, Any], prior: "HeightPrior | None") -> float:
    """Return what a checkpoint's validation left open of its height head; infinite where it says nothing."""
    error_percent = training.get("metrics", {}).get("height_error_percent")
    return prior.doubt(error_percent / 100) if prior and error_percent else math.inf


def share_cores(jobs: int, threads: int | None) -> int | None:
    """Return the threads of each job, `threads` where given, and make this process safe to fork for several.

    Neither OpenMP's threads nor CUDA outlive a fork: until then there is one thread, and CUDA devices are
    counted through NVML, which does not start CUDA.
    """
    if jobs == 1:
        return threads
    import torch

    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    torch.set_num_threads(1)
    return threads or max(1, len(os.sched_getaffinity(0)) // jobs)


def check_models(settings: SynthesisSettings, *, here: bool) -> None:
    """Load the generators before the first case: where the cases are done, if `here`, else on the CPU.

    Raises:
        InputError: as `load_models`.
    """
    models = load_models(settings.checkpoints, settings.device if here else "cpu", settings.amp)
    if settings.heights == "agreed" and models.prior is None:
        print("heights: as the height heads predict, since no checkpoint holds a height prior; train on five "
              "patients or more with this version to get one")


def synthesize_case(settings: SynthesisSettings, digest: str, case: str) -> str | None:
    """Synthesize one case and write its volumes and record; return what there is to say about it."""
    import torch

    from data.aligned_dataset import load_case
    from models.iterative_inference import synthesize
    from models.slice_generation import Scan

    if settings.threads:
        torch.set_num_threads(settings.threads)
    models = load_models(settings.checkpoints, settings.device, settings.amp)
    heatmaps = settings.heatmaps if models.takes_heatmap else None
    volumes = load_case(settings.dataroot, case, heatmaps, models.columns)
    heatmap = np.zeros_like(volumes.ct) if volumes.heatmap is None else volumes.heatmap
    patient, label = split_case(case)
    fractured = {split_case(other)[1] for other, grade in settings.grades.items()
                 if grade > 0 and split_case(other)[0] == patient}
    scan = Scan(volumes.ct, volumes.label, heatmap)
    result = synthesize(scan, label, models.planes, iterative=settings.iterative != "none",
                        restorable=fractured if settings.iterative == "fractured" else None,
                        heights=settings.heights, prior=models.prior, batch_slices=settings.batch_slices)
    for path, array in ((fake_ct(settings.output, case), result.scan.ct),
                        (fake_label(settings.output, case), result.scan.label)):
        write_volume(path, Volume(pad_columns(array, STRAIGHTENED_SHAPE[1]), volumes.affine))
    write_json(record_path(settings.output, case), {"recipe": digest} | _record(case, label, result))
    return _remark(result)


def _record(case: str, label: int, result: "Synthesis") -> dict[str, Any]:
    """Return the row of the table that one case makes."""
    record: dict[str, Any] = {"case": case}
    for step in reversed(result.passes):
        order = ANATOMICAL_ORDER.index(step.label) - ANATOMICAL_ORDER.index(label)
        prefix = STEPS[0] if order == 0 else STEPS[1] if order < 0 else STEPS[2]
        record |= {prefix + key: value for key, value in _step_values(step).items()}
    if result.direct_height_mm is not None:
        record["direct_height_mm"] = round(result.direct_height_mm, 3)
    return record


def _step_values(step: "Restoration") -> dict[str, Any]:
    """Return one pass as values of the columns `STEP_COLUMNS`."""
    planes = {f"{plane}_height_mm": round(height, 3) for plane, height in step.plane_heights_mm.items()}
    agreed = {f"agreed_{third}_mm": round(height, 3)
              for third, height in zip(THIRDS, step.agreed_mm, strict=False)}  # none without a prior
    values = {"vertebra": label_name(step.label), "height_mm": round(step.height_mm, 3),
              "spread_mm": round(step.spread_mm, 3), "original_height_mm": step.original_height_mm}
    return values | planes | agreed


def _remark(result: "Synthesis") -> str | None:
    """Return a warning where a generator drew no body."""
    undrawn = [label_name(step.label) for step in result.passes if not step.voxels]
    return f"no body drawn for {', '.join(undrawn)}; the generator needs more training" if undrawn else None


def record_path(output: Path, case: str) -> Path:
    """Return the path of a case's record."""
    return output / "synthesis" / f"{case}.json"


def is_complete(settings: SynthesisSettings, digest: str, case: str) -> bool:
    """Tell whether a case was made by the same weights and method, and from what its files hold now."""
    record = record_path(settings.output, case)
    sources = (straightened_ct(settings.dataroot, case), straightened_label(settings.dataroot, case),
               heatmap_path(settings.heatmaps, case))
    made = fake_ct(settings.output, case), fake_label(settings.output, case), record
    if not is_up_to_date(made, sources):
        return False
    try:
        return read_json(record).get("recipe") == digest
    except InputError:
        return False


def write_table(output: Path) -> Path:
    """Write `synthesis.csv`: one row per case that has a record, by name.

    Columns: case; then vertebra, predicted height, its standard deviation over slices, the height of the
    extent before, each plane's height, and the heights of the thirds that were agreed on, all in mm, for the
    target and (prefixes `upper_`, `lower_`) for the neighbours' passes. What was not made or not agreed upon
    leaves its cells empty. Last, `direct_height_mm`: the target's height as predicted before the neighbours
    were restored.
    """
    import csv

    columns = ["case", *(prefix + column for prefix in STEPS for column in STEP_COLUMNS), "direct_height_mm"]
    records = [read_json(path) for path in sorted((output / "synthesis").glob("*.json"))]
    with atomic_path(output / "synthesis.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(records)
    return output / "synthesis.csv"


def chosen_cases(cases: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Return the chosen cases, or all where none is chosen.

    Raises:
        InputError: a chosen case is not among `cases`.
    """
    unknown = sorted(set(chosen) - set(cases))
    if unknown:
        raise InputError(f"--cases: expected cases of --cohort and --split, found {', '.join(unknown)}")
    return list(chosen) or list(cases)
