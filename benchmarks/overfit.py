"""How fast a generator learns: overfit a few fixed slices through the real training model.

    python benchmarks/overfit.py --netG residual --steps 300 --batch_size 4 --dataroot dataset/straightened

Every flag of train.py applies. Writes `<out>/<netG>.json`, the learning curve, and `<out>/curves.png`,
which shows every generator tried so far in that folder, per step and per second. Seconds are those of
training alone.
"""

import argparse
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from options.base_options import resolved
from options.train_options import TrainOptions
from util.cli import run_script, whole_number
from util.errors import InputError
from util.paths import atomic_path, read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from data.aligned_dataset import Draw
    from data.slice_cache import SliceStore
    from data.slice_input import RawSlices
    from models.pix2pix_model import Pix2PixModel

METRICS = {  # name -> axis label, as measured on the fixed slices
    "psnr_db": "PSNR in the band, dB",
    "body_dice": "Dice of the body",
    "neighbours_dice": "Dice of the neighbours",
    "height_error_percent": "height error, %",
}


class OverfitOptions(TrainOptions):
    """Flags of train.py, and how much to overfit."""

    description = __doc__.split("\n\n")[0] if __doc__ else ""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the benchmark's own flags."""
        super().add_arguments(parser)
        add = parser.add_argument_group("benchmark").add_argument
        add("--steps", type=whole_number(1), default=300, help="training steps")
        add("--slices", type=whole_number(1), default=24, help="fixed slices, of vertebrae evenly spread")
        add("--every", type=whole_number(1), default=50, help="steps between measurements")
        add("--out", type=Path, default=Path("output/overfit"), help="folder of curves")
        parser.set_defaults(batch_size=4, attention="none", threads=1)


def fixed_draw(store: "SliceStore", count: int) -> "Draw":
    """Draw the central slice of vertebrae that are evenly spread over the store, (count,)."""
    import torch

    from data.aligned_dataset import central_draw

    if len(store) < count:
        raise InputError(f"--slices {count}: expected as many healthy vertebrae in split 'train', found "
                         f"{len(store)}; lower --slices")
    chosen = torch.linspace(0, len(store) - 1, count).round().long()
    return central_draw(store).at(chosen)


def overfit(model: "Pix2PixModel", raw: "RawSlices", options: Namespace) -> list[dict[str, float]]:
    """Train on fixed slices and measure on the way; one row of measures per `options.every` steps."""
    import torch

    from data.slice_input import RawSlices, draw_training_context
    from models.schedule import Schedule

    chance = torch.Generator().manual_seed(options.seed)
    schedule = Schedule(options.steps, options.steps // 2, 1, options.lr)  # the rate falls in the second half
    rows, seconds = [measure(model.generator, raw) | {"step": 0, "seconds": 0.0}], 0.0
    for step in range(1, options.steps + 1):
        begun = time.perf_counter()
        model.set_learning_rate(schedule.learning_rate(step - 1))
        chosen = torch.randperm(len(raw.ct), generator=chance)[:options.batch_size]
        model.set_input(RawSlices(*(values[chosen] for values in raw)),
                        *draw_training_context(len(chosen), chance))
        model.optimize_parameters()
        seconds += time.perf_counter() - begun
        if step % options.every == 0 or step == options.steps:
            rows.append(measure(model.generator, raw) | {"step": step, "seconds": seconds})
            print("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    return rows


def measure(generator: "nn.Module", raw: "RawSlices") -> dict[str, float]:
    """Return the means over slices of METRICS; the CT is composed at the true height."""
    import torch

    from data.slice_input import build_slice_input, build_slice_truth, inference_context
    from util.geometry import compose

    context = inference_context(len(raw.ct))
    truth = build_slice_truth(raw, context, context)
    was_training = generator.training
    generator.eval()
    with torch.inference_mode():
        output = generator(build_slice_input(raw, context, context))
    generator.train(was_training)
    image = compose(truth.ct, output.ct, raw.top, raw.bottom, raw.bottom - raw.top)
    error = (output.height_mm - truth.height_mm).abs() / truth.height_mm
    return {"psnr_db": band_psnr(image, truth.ct, raw).mean().item(),
            "body_dice": hard_dice(output.body, truth.body).mean().item(),
            "neighbours_dice": hard_dice(output.coarse_neighbours, truth.neighbours).mean().item(),
            "height_error_percent": 100 * error.mean().item()}


def band_psnr(image: "Tensor", truth: "Tensor", raw: "RawSlices") -> "Tensor":
    """Return each slice's PSNR in dB over the vertebra's rows; images -1..1, (B, 1, R, C) -> (B,)."""
    import torch

    row = torch.arange(image.shape[2])[None]
    band = ((row >= raw.top[:, None]) & (row < raw.bottom[:, None]))[:, None, :, None]     # (B, 1, R, 1)
    squared = ((image.clamp(-1, 1) - truth).square() * band).flatten(1).sum(1)             # (B,)
    return 10 * torch.log10(4 * band.flatten(1).sum(1) * image.shape[3] / squared)


def hard_dice(probability: "Tensor", truth: "Tensor") -> "Tensor":
    """Return each slice's Dice of the mask above 1/2, (B, 1, R, C) -> (B,)."""
    found = (probability > 0.5).float()
    shared = (found * truth).flatten(1).sum(1)
    return 2 * shared / (found + truth).flatten(1).sum(1).clamp_min(1)


def copied_psnr(raw: "RawSlices") -> float:
    """Return the mean PSNR in dB of filling the band with a neighbour's rows.

    Each neighbour's body is laid on the true one as well as a shift of rows can, and the better of the
    upper and the lower neighbour counts. So this copies better than anyone who does not know the truth.
    """
    from data.slice_input import signed
    from evaluation.metrics import finite_mean

    best = []
    for sample in range(len(raw.ct)):
        one = type(raw)(*(values[sample:sample + 1] for values in raw))
        truth = signed(one.ct)
        shifts = [shift for side in (-1, 1) if (shift := neighbour_shift(one, side))]
        copies = [band_psnr(truth.roll(-shift, 2), truth, one).item() for shift in shifts]
        best.append(max(copies, default=float("nan")))
    return finite_mean(np.array(best))


def neighbour_shift(one: "RawSlices", side: int) -> int:
    """Return how many rows below (side 1) or above (-1) the target its neighbour lies; 0 for none."""
    overlaps = {}
    for distance in range(int(one.bottom - one.top) // 2, 60):
        shifted = one.neighbours.roll(-side * distance, 2)
        overlaps[side * distance] = int((shifted * one.body).sum())
    best = max(overlaps, key=lambda shift: overlaps[shift])
    return best if overlaps[best] else 0


def draw_curves(folder: Path) -> None:
    """Draw every curve of a folder, per step and per second, with the copy's PSNR as a dashed line."""
    from matplotlib.figure import Figure

    results = [read_json(path) for path in sorted(folder.glob("*.json"))]
    figure = Figure(figsize=(16, 7), layout="constrained")
    panels = figure.subplots(2, len(METRICS))
    axes = {"step": "step", "seconds": "seconds of training"}
    for row, (axis, label) in zip(panels, axes.items(), strict=True):
        for panel, (metric, title) in zip(row, METRICS.items(), strict=True):
            draw_panel(panel, results, axis, metric)
            panel.set(xlabel=label, ylabel=title)
    panels[0, 0].legend()
    with atomic_path(folder / "curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def draw_panel(panel: Any, results: Sequence[dict[str, Any]], axis: str, metric: str) -> None:
    """Draw one measure of all generators."""
    for result in results:
        panel.plot([row[axis] for row in result["curve"]], [row[metric] for row in result["curve"]],
                   marker=".", label=result["settings"]["netG"])
        if metric == "psnr_db":
            panel.axhline(result["copied_psnr_db"], color="grey", linestyle="--", label="neighbour's rows")
    if axis == "seconds":
        panel.set_xscale("symlog")
        panel.set_xlim(left=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Overfit, write the curve, draw all curves; return 0."""
    options = OverfitOptions().parse(argv)

    from data.integrity import read_cohort_slices
    from models import create_model

    store = read_cohort_slices(options).train
    raw = store.gather(fixed_draw(store, options.slices))
    model = create_model(options, "cpu")
    copied = copied_psnr(raw)
    print(f"{options.slices} slices; {model.summary()}; copying the neighbour's rows: {copied:.2f} dB")
    curve = overfit(model, raw, options)
    write_json(options.out / f"{options.netG}.json", {
        "settings": resolved(options) | model.settings(), "copied_psnr_db": copied, "curve": curve})
    draw_curves(options.out)
    print(f"curves: {options.out / 'curves.png'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
