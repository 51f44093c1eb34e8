"""One case from file to file: read it, synthesize, write CT_fake, label_fake and a record of the heights."""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from models import synthesis_records as records
from util.device import MOST_STEP_THREADS, host_threads, use_full_precision
from util.errors import InputError
from util.lookahead import ahead, delayed
from util.nifti_file import is_whole
from util.origin_records import ingredients_of, is_made_of, named_weights, recipe_of, recorded
from util.paths import (
    FileVersion,
    fake_ct,
    fake_label,
    file_version,
    heatmap_path,
    straightened_ct,
    straightened_label,
)
from util.vertebrae import split_case
from util.volume import STRAIGHTENED_SHAPE, Volume, pad_columns, write_volume

if TYPE_CHECKING:  # PyTorch takes seconds to import and the parser does not need it
    from models.height_prior import HeightPrior
    from models.iterative_inference import Synthesis
    from models.plane_model import PlaneModel
    from models.shared_passes import Steps
    from models.slice_generation import Scan

BATCH_SLICES = {"cpu": 16, "cuda": 256}  # a GPU is filled by several vertebrae, caches by half a one
AHEAD, BEHIND = 2, 2     # cases per thread that are read before their turn, or still being written


@dataclass(frozen=True)
class SynthesisSettings:
    """Where cases come from and go to, and how they are made; picklable."""

    dataroot: Path
    output: Path
    checkpoints: tuple[Path, ...]          # one per plane
    heatmaps: Path
    iterative: str = "adjacent"            # adjacent, fractured or none
    fractured: Mapping[str, set[int]] = field(default_factory=dict)  # labels by patient
    heights: str = "agreed"                # agreed, head or drawn
    device: str = "cpu"                    # auto, cpu, cuda or cuda:<number>
    batch_slices: int | None = None        # None for what suits the device
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
    """Return a short digest of what makes the results of all cases alike: weights and method."""
    return recipe_of(f"{settings.iterative} {settings.heights}", settings.checkpoints)


def ingredients(settings: SynthesisSettings, case: str) -> str:
    """Return a short digest of what else decides a case's result: its files as they are now, and precision.

    Where fractured neighbours alone are restored, also which vertebrae of the patient are fractured.
    """
    sources = (straightened_ct(settings.dataroot, case), straightened_label(settings.dataroot, case),
               heatmap_path(settings.heatmaps, case))
    return ingredients_of(sources, settings.amp, sorted(_restorable(settings, case) or ()))


def _restorable(settings: SynthesisSettings, case: str) -> set[int] | None:
    """Return the labels that may be restored beside a case's own; None for any."""
    patient, _ = split_case(case)
    return settings.fractured.get(patient, set()) if settings.iterative == "fractured" else None


def load_models(checkpoints: tuple[Path, ...], device: str, amp: bool) -> Models:
    """Load one generator per plane; a process keeps them until other ones, or other files, are asked for.

    From then on it computes in full precision (`use_full_precision`).

    Raises:
        InputError: a checkpoint is missing or foreign, or the planes or columns of two do not fit together.
    """
    use_full_precision()
    return _load_models(tuple(map(file_version, checkpoints)), device, amp)


@lru_cache(maxsize=1)
def _load_models(versions: tuple[FileVersion, ...], device: str, amp: bool) -> Models:
    """Load these versions."""
    import torch

    from data.slice_input import CONVENTIONS
    from models.checkpoint import load_generator
    from models.height_prior import HeightPrior
    from models.plane_model import PlaneModel, prepare_for_inference
    from util.device import choose_device

    place = torch.device(choose_device(device))
    checkpoints = [version.path for version in versions]
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


def check_models(settings: SynthesisSettings, *, here: bool) -> None:
    """Load the generators before the first case: where the cases are done, if `here`, else on the CPU.

    Raises:
        InputError: as `load_models`.
    """
    models = load_models(settings.checkpoints, settings.device if here else "cpu", settings.amp)
    if settings.heights == "agreed" and models.prior is None:
        print("heights: as the height heads predict, since no checkpoint holds a height prior; train on five "
              "patients or more with this version to get one")


class Begun(NamedTuple):
    """A case that waits for its first pass."""

    steps: "Steps[Synthesis]"
    affine: np.ndarray  # 4x4, of the straightened volume
    made_of: str        # see `ingredients`


def synthesize_case(settings: SynthesisSettings, digest: str, case: str) -> str | None:
    """Synthesize one case and write its volumes and record; return what there is to say about it."""
    [(_, written)] = synthesize_cases(settings, digest, [case])
    return written.result()


def synthesize_cases(settings: SynthesisSettings, digest: str,
                     cases: Sequence[str]) -> Iterator[tuple[str, "Future[str | None]"]]:
    """Synthesize cases side by side: they share the networks' passes, while others are read and written.

    Args:
        settings: what to do. As many cases are in hand as fill a pass of `batch_slices`, beside a GPU twice
            as many; those that were read ahead or are being written come on top.
        digest: see `recipe`.
        cases: taken from one by one.

    Yields:
        Each case with what there is to say about it, or the error that it failed with, once it is written.

    Raises:
        InputError: as `load_models`, or the weights are not those of the digest.
    """
    import torch

    from models.shared_passes import run_together

    models = load_models(settings.checkpoints, settings.device, settings.amp)
    if recipe(settings) != digest:
        raise InputError(f"{settings.checkpoints[0]}: expected the weights that this run began with, found "
                         f"others; run it again")
    kind, usual = models.planes[0].device.type, torch.get_num_threads()
    count = host_threads(kind, settings.threads) if len(cases) > 1 else 1
    batch_slices = settings.batch_slices or BATCH_SLICES[kind]
    with ThreadPoolExecutor(count) as reader, ThreadPoolExecutor(count) as writer, \
            ThreadPoolExecutor(min(count, MOST_STEP_THREADS)) as pool:
        torch.set_num_threads(1 if count > 1 else settings.threads or usual)
        loaded = ahead(reader, partial(_begin, settings, models), cases, AHEAD * count)
        tasks = ((case, _steps(reading)) for case, reading in loaded)
        results = run_together(tasks, batch_slices, pool if count > 1 else None)
        written = ((case, writer.submit(_write, settings, digest, case, result))
                   for case, result in results)
        try:
            yield from delayed(written, BEHIND * count)
        finally:
            torch.set_num_threads(usual)


def _begin(settings: SynthesisSettings, models: Models, case: str) -> "Begun":
    """Read a case and do what there is to do before its first pass."""
    from models.iterative_inference import synthesize
    from models.shared_passes import begun

    made_of = ingredients(settings, case)
    scan, affine = _load(settings, models, case)
    steps = synthesize(scan, split_case(case)[1], models.planes, iterative=settings.iterative != "none",
                       restorable=_restorable(settings, case), heights=settings.heights, prior=models.prior)
    return Begun(begun(steps), affine, made_of)


def _load(settings: SynthesisSettings, models: Models, case: str) -> tuple["Scan", np.ndarray]:
    """Read a case and its affine (4, 4)."""
    from data.aligned_dataset import load_case
    from models.slice_generation import Scan

    heatmaps = settings.heatmaps if models.takes_heatmap else None
    volumes = load_case(settings.dataroot, case, heatmaps, models.columns)
    heatmap = np.zeros_like(volumes.ct) if volumes.heatmap is None else volumes.heatmap
    return Scan(volumes.ct, volumes.label, heatmap), volumes.affine


class Finished(NamedTuple):
    """A case that waits to be written."""

    synthesis: "Synthesis"
    affine: np.ndarray
    made_of: str


def _steps(reading: "Future[Begun]") -> "Steps[Finished]":
    """Synthesize a case that is being read."""
    begun = reading.result()
    synthesis = yield from begun.steps
    return Finished(synthesis, begun.affine, begun.made_of)


def _write(settings: SynthesisSettings, digest: str, case: str, result: "Future[Finished]") -> str | None:
    """Write a case's volumes, then its record; return what there is to say about it."""
    from data.volume_layout import file_order

    synthesis, affine, made_of = result.result()
    with recorded(records.record_path(settings.output, case), digest, made_of,
                  weights=named_weights(settings.checkpoints), **records.record_of(case, synthesis)):
        for path, array in ((fake_ct(settings.output, case), synthesis.scan.ct),
                            (fake_label(settings.output, case), synthesis.scan.label)):
            write_volume(path, Volume(pad_columns(file_order(array), STRAIGHTENED_SHAPE[1]), affine))
    return records.remark(synthesis)


def is_complete(settings: SynthesisSettings, digest: str, case: str) -> bool:
    """Tell whether a case was made by the same weights and method, and from its files as they are now.

    And whether its volumes are there to their ends, which a copy that broke off is not.
    """
    volumes = fake_ct(settings.output, case), fake_label(settings.output, case)
    if not all(is_whole(path, STRAIGHTENED_SHAPE) for path in volumes):
        return False
    return is_made_of(records.record_path(settings.output, case), digest, ingredients(settings, case))


def chosen_cases(cases: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Return the chosen cases, or all where none is chosen.

    Raises:
        InputError: a chosen case is not among `cases`.
    """
    unknown = sorted(set(chosen) - set(cases))
    if unknown:
        raise InputError(f"--cases: expected cases of --cohort and --split, found {', '.join(unknown)}")
    return list(chosen) or list(cases)
