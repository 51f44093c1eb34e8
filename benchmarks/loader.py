"""Serving slices to training: the slice store against volumes that are read for every slice.

    python benchmarks/loader.py

The plain loop does what the published loader does: for each slice it unpacks the case's three gzipped
volumes (CT, label, heatmap) as float64, and cuts the one slice. The fast path gathers batches from the store.
Both serve what training draws, in the same channels.
"""

import resource
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.comparison import Row, Settings, alternate, run_benchmark
from benchmarks.phantom_data import PhantomData, phantom_data
from util.cli import run_script
from util.vertebrae import read_cohort, split_case

if TYPE_CHECKING:
    from data.aligned_dataset import Draw, VertebraSlices
    from data.slice_cache import SliceStore
    from data.slice_files import SliceCutter

BATCH_SIZE = 16
BATCHES = 64         # that the store serves in a round
PLAIN_SLICES = 16    # that the plain loop serves in a round
CROP_COLS = 128
CHANNELS = ("ct", "body", "neighbours", "heatmap")


def measure(settings: Settings) -> list[Row]:
    """Time both sides: with the store mapped into memory and, on a GPU, with all slices held there too."""
    from data.slice_cache import SliceStore

    data = phantom_data(settings.scratch, settings.jobs)
    cutter = cutter_of(data)
    healthy = [case for case, grade in read_cohort(data.cohort).grades.items() if grade == 0]
    vertebrae, building = build(healthy, cutter, settings)
    if settings.device == "cpu":
        stores = {"loader": SliceStore(vertebrae)}
    else:
        stores = {"loader_gpu": SliceStore(vertebrae, settings.device, on_device=True),
                  "loader_gpu_from_memory": SliceStore(vertebrae, settings.device)}
    return [compare(stage, store, cutter, settings, building) for stage, store in stores.items()]


def cutter_of(data: PhantomData) -> "SliceCutter":
    """Return how training cuts the cohort with its own flags."""
    from data.slice_files import SliceCutter

    fractured = read_cohort(data.cohort).fractured()
    return SliceCutter(data.dataroot, data.heatmaps, "sagittal", CROP_COLS, fractured)


def build(cases: list[str], cutter: "SliceCutter",
          settings: Settings) -> tuple[list["VertebraSlices"], dict[str, Any]]:
    """Build a store anew, then find all of it; return the vertebrae and what it took."""
    from data.slice_reading import read_stored

    folder = settings.scratch / "loader_slices"
    shutil.rmtree(folder, ignore_errors=True)
    begun = time.perf_counter()
    read_stored(cases, cutter, folder, settings.jobs)
    built = time.perf_counter()
    vertebrae = list(read_stored(cases, cutter, folder, settings.jobs).vertebrae.values())
    found = time.perf_counter()
    return vertebrae, {
        "vertebrae": len(vertebrae),
        "jobs": settings.jobs,
        "build_seconds_per_vertebra": rounded((built - begun) / len(vertebrae)),
        "find_seconds_per_vertebra": rounded((found - built) / len(vertebrae)),
        "disk_megabytes_per_vertebra": rounded(megabytes(folder.iterdir()) / len(vertebrae)),
        "volumes_megabytes_per_vertebra": rounded(megabytes(
            path for vertebra in vertebrae for path in cutter.volumes(vertebra.case)) / len(vertebrae)),
        "memory_megabytes_per_vertebra": rounded(
            sum(vertebra.images.nbytes for vertebra in vertebrae) / 1e6 / len(vertebrae)),
    }


def compare(stage: str, store: "SliceStore", cutter: "SliceCutter", settings: Settings,
            building: dict[str, Any]) -> Row:
    """Time both sides on training's own draws, and compare what they serve."""
    import torch

    draws = list(islice(training_draws(store), BATCHES))
    served = sum(len(draw.place) for draw in draws)
    few = draws[0].at(torch.arange(PLAIN_SLICES))
    plain, fast = alternate(lambda: plain_slices(store, few, cutter),
                            lambda: [store.gather(draw) for draw in draws], settings.rounds, settings.device)
    expected, raw = plain_slices(store, few, cutter), store.gather(few)
    different = sum(int((getattr(raw, name).cpu().numpy()[:, 0] != expected[:, place]).sum())
                    for place, name in enumerate(CHANNELS))
    plain, fast = plain / len(few.place), fast / served
    return Row(stage, plain, fast, "slice", different == 0, f"{different} bytes differ", building | {
        "plain_slices_per_second": rounded(1 / plain), "fast_slices_per_second": rounded(1 / fast),
        "batch_size": BATCH_SIZE, "peak_memory_megabytes": peak_memory_megabytes()})


def training_draws(store: "SliceStore") -> Iterator["Draw"]:
    """Yield the draws of training, epoch after epoch."""
    from data.aligned_dataset import epoch_batches

    for epoch in count():
        yield from epoch_batches(store, BATCH_SIZE, seed=0, epoch=epoch)


def plain_slices(store: "SliceStore", draw: "Draw", cutter: "SliceCutter") -> np.ndarray:
    """Return the slices of a draw, (B, 4, R, C) uint8 as CHANNELS, reading every volume for each of them."""
    pairs = zip(draw.vertebra.tolist(), draw.place.tolist(), strict=True)
    return np.stack([plain_slice(store.cases[vertebra], place, cutter) for vertebra, place in pairs])


def plain_slice(case: str, place: int, cutter: "SliceCutter") -> np.ndarray:
    """Return one slice of a case, (4, R, C) uint8."""
    import nibabel as nib

    images: list[Any] = [nib.load(path) for path in cutter.volumes(case)]
    ct, label, heat = (image.get_fdata() for image in images)                             # float64
    target = split_case(case)[1]
    first = np.flatnonzero((label == target).any(axis=(0, 1)))[0]
    edge = (label.shape[1] - CROP_COLS) // 2
    ct, label, heat = (volume[:, edge:edge + CROP_COLS, first + place] for volume in (ct, label, heat))
    others = np.isin(label, list(cutter.healthy(case) - {target}))
    return np.stack([ct, label == target, others, np.rint(np.float32(heat) * 255.0)]).astype(np.uint8)


def megabytes(files: Iterable[Path]) -> float:
    """Return the size of files."""
    return sum(file.stat().st_size for file in files) / 1e6


def peak_memory_megabytes() -> float:
    """Return the most memory that this process has held so far, mapped files included."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def rounded(value: float) -> float:
    """Return a figure to three digits."""
    return float(f"{value:.3g}")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write `<scratch>/loader.json`; return 0, or 1 where the two sides differ."""
    return run_benchmark(argv, __doc__, "loader", measure)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
