"""How fast a generator learns: overfit a few fixed slices through the real training model.

    python benchmarks/overfit.py --netG residual --steps 300 --batch_size 4 --dataroot dataset/straightened

Every flag of train.py applies. Writes `<out>/<netG>.json`, the learning curve, and `<out>/curves.png`,
which shows both generators, per step and per second, once both have been tried with that folder; then also
`<out>/steps_to_quality.json`, the steps that the default needs for what the published one reaches. Seconds
are those of training alone.
"""

import argparse
from argparse import Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.learning_curves import CurveOptions, half_decayed, learn, write_result
from util.cli import run_script, whole_number
from util.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from data.aligned_dataset import Draw
    from data.slice_cache import SliceStore
    from data.slice_input import RawSlices


class OverfitOptions(CurveOptions):
    """Flags of train.py, and how much to overfit."""

    description = __doc__.split("\n\n")[0] if __doc__ else ""
    folder = Path("output/overfit")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the benchmark's own flags."""
        super().add_arguments(parser)
        parser.add_argument("--slices", type=whole_number(1), default=24,
                            help="fixed slices, of vertebrae evenly spread")


def fixed_draw(store: "SliceStore", count: int) -> "Draw":
    """Draw the central slice of vertebrae that are evenly spread over the store, (count,)."""
    import torch

    from data.aligned_dataset import central_draw

    if len(store) < count:
        raise InputError(f"--slices {count}: expected as many healthy vertebrae in split 'train', found "
                         f"{len(store)}; lower --slices")
    chosen = torch.linspace(0, len(store) - 1, count).round().long()
    return central_draw(store).at(chosen)


def fixed_batches(raw: "RawSlices", options: Namespace) -> Iterator[tuple[Any, ...]]:
    """Yield a random batch of the fixed slices for each step, with the contexts of training."""
    import torch

    from data.slice_input import draw_training_context

    chance = torch.Generator().manual_seed(options.seed)
    for _ in range(options.steps):
        chosen = torch.randperm(len(raw.ct), generator=chance)[:options.batch_size]
        yield (type(raw)(*(values[chosen] for values in raw)), *draw_training_context(len(chosen), chance))


def measure(generator: "nn.Module", raw: "RawSlices") -> dict[str, float]:
    """Return the means over slices of the curves' metrics; the CT is composed at the true height."""
    import torch

    from data.slice_input import build_slice_input, build_slice_truth, inference_context
    from util.geometry import compose

    context = inference_context(len(raw.ct), raw.ct.device)
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

    row = torch.arange(image.shape[2], device=image.device)[None]
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


def main(argv: Sequence[str] | None = None) -> int:
    """Overfit, write the curve, draw all curves; return 0."""
    options = OverfitOptions().parse(argv)

    from data.integrity import read_cohort_slices
    from models import create_model
    from util.device import choose_device

    store = read_cohort_slices(options).train
    raw = store.gather(fixed_draw(store, options.slices))
    model = create_model(options, choose_device(options.device))
    copied = copied_psnr(raw)
    print(f"{options.slices} slices; {model.summary()}; copying the neighbour's rows: {copied:.2f} dB")
    measured = partial(measure, model.generator, type(raw)(*(values.to(model.device) for values in raw)))
    curve = learn(model, half_decayed(options), fixed_batches(raw, options), measured, options.every)
    write_result(options, model, curve, copied_psnr_db=copied)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
