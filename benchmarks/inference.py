"""Inference: several vertebrae a pass and reading beside it, against one slice after the other.

    python benchmarks/inference.py

The plain loop does what the published inference does: volumes are unpacked as float64, and in each pass of a
vertebra its slices go through the network one at a time. The network of `inference_cpu` is the published one
(256 columns, random weights: its cost does not depend on them), in the plain loop with its plain layers and
spectral norms that are worked out for every slice. That of `inference_default_cpu` is the shipped one, both
planes fused. Both sides share the code that turns what was drawn into volumes. The plain loop has all cores
for its one network; the fast side is eval_3d_sagittal_twostage.py with `--jobs`, on a GPU also with one
process and several threads. Neither side's start counts. `inference_cpu_amp`, `inference_gpu` and
`inference_gpu_jobs` are the published network with `--amp` against the plain loop in full precision.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from benchmarks.comparison import Row, Settings, run_benchmark, seconds
from benchmarks.phantom_data import PhantomData, phantom_data
from benchmarks.random_published import published_checkpoint
from util.cli import run_script
from util.paths import fake_ct, fake_label, heatmap_path, straightened_ct, straightened_label
from util.stage import run_stage
from util.steps import ROOT
from util.vertebrae import split_case
from util.volume import STRAIGHTENED_SHAPE, Volume, crop_columns, pad_columns, read_volume, write_volume
from util.workers import answers, local_workers

if TYPE_CHECKING:
    from models.case_synthesis import SynthesisSettings
    from models.plane_model import PlaneModel

GREY_LEVELS = 1      # of 255, by which rounding may move a voxel
LABEL_SHARE = 1e-3   # of the label's voxels, which rounding may move over its threshold
AMP_MEAN_GREY_LEVELS = 1.0  # of 255, by which bfloat16's eight bits may move a restored voxel on average
AMP_LABEL_SHARE = 1e-2


@dataclass(frozen=True)
class Network:
    """A generator to measure.

    Attributes:
        stage: name of its row, to which the device is added.
        checkpoints: one per plane.
        plain_vertebrae, fast_vertebrae: that each side works on, on the CPU; a GPU's fast side works on all.
        cpu_batch_slices: those of the published network overflow the caches sooner.
    """

    stage: str
    checkpoints: tuple[Path, ...]
    plain_vertebrae: int
    fast_vertebrae: int
    cpu_batch_slices: int
    is_published: bool

    def ways(self, kind: str, jobs: int) -> list["Way"]:
        """Return how its fast side is measured on a kind of device."""
        if kind == "cpu":
            return [Way("", False, jobs)] + [Way("_amp", True, jobs)] * self.is_published
        alone = Way("", self.is_published, 1)
        return [alone] + [Way("_jobs", alone.amp, jobs)] * (jobs > 1)


class Way(NamedTuple):
    """How a fast side is measured; its suffix is that of the row."""

    suffix: str
    amp: bool
    jobs: int


@dataclass(frozen=True)
class Difference:
    """By how much two results differ, at most in any case.

    Attributes:
        grey_levels: of any voxel.
        mean_grey_levels: of the voxels in the restored rows.
        label_share: of the label's voxels.
    """

    grey_levels: int
    mean_grey_levels: float
    label_share: float

    def judged(self, amp: bool) -> tuple[bool, str]:
        """Tell whether that is equal, in bfloat16 or in full precision, and in words how it was judged."""
        label = f"{self.label_share:.0e} of the label differ"
        mean = f"{self.mean_grey_levels:.1g} of 255 grey levels"
        if amp:
            return (self.mean_grey_levels <= AMP_MEAN_GREY_LEVELS and self.label_share <= AMP_LABEL_SHARE,
                    f"{mean} on average in the restored rows, {label}")
        return (self.grey_levels <= GREY_LEVELS and self.label_share <= LABEL_SHARE,
                f"at most {self.grey_levels} of 255 grey levels, {label}")


def measure(settings: Settings) -> list[Row]:
    """Time both sides for the published network and for the shipped ones."""
    data = phantom_data(settings.scratch, settings.jobs)
    shipped = tuple(ROOT / "weights" / f"phantom_{plane}.safetensors" for plane in ("sagittal", "coronal"))
    published = (published_checkpoint(settings.scratch),)
    return [row for network in (Network("inference", published, 1, 4, 1, True),
                                Network("inference_default", shipped, 6, 24, 16, False))
            for row in compare(network, data, settings)]


def compare(network: Network, data: PhantomData, settings: Settings) -> list[Row]:
    """Time both sides once, since each works for many seconds, and compare their volumes."""
    kind = "gpu" if settings.device.startswith("cuda") else "cpu"
    cases = data.cases()
    many = cases if kind == "gpu" else spread(cases, network.fast_vertebrae)
    few = spread(many, network.plain_vertebrae)
    plain = synthesis_settings(network, data, settings, "plain")
    planes = plain_models(network, settings.device)
    if kind == "gpu":
        run_plain(planes, plain, few[:1])  # what a GPU sets up once is not measured
    plain_s = seconds(lambda: run_plain(planes, plain, few), settings.device) / len(few)
    rows = []
    for way in network.ways(kind, settings.jobs):
        fast = replace(synthesis_settings(network, data, settings, f"fast{way.suffix}"), amp=way.amp)
        fast_s = jobs_seconds(fast, many, way.jobs) if way.jobs > 1 else script_seconds(fast, many)
        equal, equality = differences(plain.output, fast.output, few).judged(way.amp)
        details = {"vertebrae": len(many), "planes": len(planes), "jobs": way.jobs, "amp": way.amp,
                   "batch_slices": fast.batch_slices or "by device"}
        rows.append(Row(f"{network.stage}_{kind}{way.suffix}", plain_s, fast_s, "vertebra", equal, equality,
                        details))
    return rows


def script_seconds(fast: "SynthesisSettings", cases: Sequence[str]) -> float:
    """Time the script's own course in one process; what a GPU sets up once is not measured.

    Returns:
        Seconds per case.
    """
    from models.case_synthesis import recipe, synthesize_case, synthesize_cases

    digest = recipe(fast)

    def run() -> None:
        status = run_stage("inference", partial(synthesize_case, fast, digest), cases, lambda case: False,
                           together=partial(synthesize_cases, fast, digest))
        assert status == 0

    load(fast)
    if fast.device != "cpu":
        run()
    return seconds(run, fast.device) / len(cases)


def jobs_seconds(fast: "SynthesisSettings", cases: Sequence[str], jobs: int) -> float:
    """Time the processes of `--jobs`, once they have started, on a GPU also done each case once.

    Returns:
        Seconds per case.
    """
    from models.case_synthesis import recipe, synthesize_case

    work = partial(synthesize_case, fast, recipe(fast))
    with local_workers(min(jobs, len(cases))) as client:

        def run() -> None:
            assert not [failure for *_, failure in answers(client, work, cases) if failure]

        client.run(load, fast)
        if fast.device != "cpu":
            run()
        return seconds(run) / len(cases)


def load(settings: "SynthesisSettings") -> None:
    """Have this process load the networks, as the plain loop's are before it is timed."""
    from models.case_synthesis import load_models

    load_models(settings.checkpoints, settings.device, settings.amp)


def spread(cases: Sequence[str], count: int) -> list[str]:
    """Return so many of the cases, evenly spread; not the first, which lacks a neighbour and costs less."""
    return [cases[len(cases) * (2 * place + 1) // (2 * count)] for place in range(count)]


def synthesis_settings(network: Network, data: PhantomData, settings: Settings,
                       side: str) -> "SynthesisSettings":
    """Return what to synthesize, and where to."""
    from models.case_synthesis import SynthesisSettings

    output = settings.scratch / f"{network.stage}_{side}"
    on_cpu = settings.device == "cpu"
    return SynthesisSettings(data.dataroot, output, network.checkpoints, data.heatmaps,
                             heights="head" if network.is_published else "agreed", device=settings.device,
                             batch_slices=network.cpu_batch_slices if on_cpu else None)


def plain_models(network: Network, device: str) -> list["PlaneModel"]:
    """Return the networks as they are loaded: no norm is folded, no memory reordered."""
    from benchmarks.plain_generator import plain_generator
    from models.case_synthesis import load_models
    from models.checkpoint import load_generator

    models = load_models(network.checkpoints, device, amp=False)
    loaded = [load_generator(path, device)[0] for path in network.checkpoints]
    drawers = [partial(plain_generator, each) if network.is_published else each for each in loaded]
    return [replace(model, generator=drawer) for model, drawer in zip(models.planes, drawers, strict=True)]


def run_plain(planes: Sequence["PlaneModel"], settings: "SynthesisSettings", cases: Sequence[str]) -> None:
    """Read, synthesize and write one case after the other, one slice after the other."""
    from models.case_synthesis import load_models
    from models.iterative_inference import synthesize
    from models.shared_passes import run_alone
    from models.slice_generation import Scan

    models = load_models(settings.checkpoints, settings.device, settings.amp)
    for case in cases:
        ct, label, heatmap, affine = plain_volumes(settings, case, models.columns)
        steps = synthesize(Scan(ct, label, heatmap), split_case(case)[1], planes, heights=settings.heights,
                           prior=models.prior)
        scan = run_alone(steps, batch_slices=1).scan
        for path, array in ((fake_ct(settings.output, case), scan.ct),
                            (fake_label(settings.output, case), scan.label)):
            write_volume(path, Volume(pad_columns(array, STRAIGHTENED_SHAPE[1]), affine))


def plain_volumes(settings: "SynthesisSettings", case: str, columns: int) -> Any:
    """Unpack CT, label and heatmap as float64; return them as uint8, cropped, and the affine."""
    import nibabel as nib

    paths = (straightened_ct(settings.dataroot, case), straightened_label(settings.dataroot, case),
             heatmap_path(settings.heatmaps, case))
    images: list[Any] = [nib.load(path) for path in paths]
    ct, label, heat = (crop_columns(image.get_fdata(), columns) for image in images)
    return (*(np.ascontiguousarray(array, np.uint8) for array in (ct, label, np.rint(heat * 255))),
            images[0].affine)


def differences(first: Path, second: Path, cases: Sequence[str]) -> Difference:
    """Return by how much two results differ."""
    found = []
    for case in cases:
        labels, other_labels = (read_volume(fake_label(folder, case)).array for folder in (first, second))
        cts = (read_volume(fake_ct(folder, case)).array.astype(int) for folder in (first, second))
        apart = np.abs(np.subtract(*cts))
        restored = (labels == split_case(case)[1]).any(axis=(1, 2))
        share = (labels != other_labels).sum() / max((labels > 0).sum(), 1)
        found.append((apart.max(), apart[restored].mean() if restored.any() else 0.0, share))
    grey_levels, mean_grey_levels, label_share = np.max(found, axis=0).tolist()
    return Difference(int(grey_levels), mean_grey_levels, label_share)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the figures."""
    return run_benchmark(argv, __doc__, "inference", measure)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
