"""What a generator reaches on fixed slices of vertebrae that it does not learn from.

The central slice of each healthy vertebra is taken out and restored at the predicted height. The band is
every row that either the true or the restored vertebra occupies, so a wrong height costs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.aligned_dataset import Draw, central_draw
from data.slice_cache import SliceStore
from data.slice_input import RawSlices, SliceInput, SliceTruth, build_slice_input, build_slice_truth
from evaluation.metrics import dice, finite_mean, psnr, ssim
from models.generator_output import GeneratorOutput
from util.geometry import GAP_ROWS, compose
from util.picture import enlarge, outline, picture_grid, to_colour

SCORE = "body_dice + ssim"  # what chooses the best generator: shape at the predicted height, and image

SHOWN_ROWS = 160
ORANGE, BLUE = (255, 140, 0), (60, 150, 255)


class Restored(NamedTuple):
    """A batch restored at the predicted height; on the CPU, original frame unless said otherwise."""

    case: str
    masked_ct: np.ndarray    # (R, C) uint8, opened frame
    ct: np.ndarray           # (R, C) uint8
    true_ct: np.ndarray      # (R, C) uint8
    body: np.ndarray         # (R, C) bool
    true_body: np.ndarray    # (R, C) bool
    band: np.ndarray         # (R, C) bool
    neighbours_dice: float   # opened frame
    height_mm: float
    true_height_mm: float


def validate(generator: nn.Module, store: SliceStore, batch_size: int,
             device: str) -> tuple[dict[str, float], list[Restored]]:
    """Restore the central slice of every vertebra of a store.

    Returns:
        Means over vertebrae: psnr (dB) and ssim in the band, body_dice, neighbours_dice, height_error_mm and
        height_error_percent (absolute), height_bias_mm (signed), score; and the slices themselves.
    """
    was_training = generator.training
    generator.eval()
    draw = central_draw(store)
    parts = map(draw.at, torch.arange(len(store)).split(batch_size))
    restored = [result for part in parts for result in _restore(generator, store, part, device)]
    generator.train(was_training)
    rows = [measure(result) for result in restored]
    means = {name: finite_mean(np.array([row[name] for row in rows])) for name in rows[0]}
    return means | {"score": means["body_dice"] + means["ssim"]}, restored


def measure(result: Restored) -> dict[str, float]:
    """Return the measures of one restored slice."""
    error = result.height_mm - result.true_height_mm
    fake, real, band = (image[:, :, None] for image in (result.ct, result.true_ct, result.band))
    return {
        "psnr": psnr(fake, real, band),
        "ssim": ssim(fake, real, band),
        "body_dice": dice(result.body, result.true_body),
        "neighbours_dice": result.neighbours_dice,
        "height_error_mm": abs(error),
        "height_error_percent": 100.0 * abs(error) / result.true_height_mm,
        "height_bias_mm": error,
    }


def _restore(generator: nn.Module, store: SliceStore, draw: Draw, device: str) -> list[Restored]:
    """Restore one batch."""
    raw = RawSlices(*(tensor.to(device) for tensor in store.gather(draw)))
    context = draw.context_above.to(device), draw.context_below.to(device)
    seen, truth = build_slice_input(raw, *context), build_slice_truth(raw, *context)
    with torch.inference_mode():
        output = generator(seen)
    return _split([store.cases[number] for number in draw.vertebra], raw, seen, truth, output)


def _split(cases: list[str], raw: RawSlices, seen: SliceInput, truth: SliceTruth,
           output: GeneratorOutput) -> list[Restored]:
    """Close the gaps of a batch and return its slices one by one."""
    height = output.height_mm.float().round().long().clamp(1, GAP_ROWS)                     # (B,)
    extent = truth.top, truth.bottom, height
    image = compose(truth.ct, output.ct.float(), *extent)                                   # (B, 1, R, C)
    body = compose(torch.zeros_like(truth.ct), output.body.float(), *extent, fill=0.0)
    inside = compose(torch.zeros_like(truth.ct), torch.ones_like(truth.ct), *extent, fill=0.0)
    row = torch.arange(image.shape[2], device=image.device)[None]
    true_rows = (row >= truth.top[:, None]) & (row < truth.bottom[:, None])                 # (B, R)
    band = (inside > 0) | true_rows[:, None, :, None]
    images = _bytes(seen.masked_ct), _bytes(image), raw.ct, body > 0.5, raw.body > 0, band
    arrays = zip(*map(_array, images), strict=True)
    neighbours = map(dice, _array(output.coarse_neighbours > 0.5), _array(truth.neighbours > 0))
    rest = zip(neighbours, output.height_mm.tolist(), truth.height_mm.tolist(), strict=True)
    return [Restored(case, *slices, *values)  # type: ignore[call-arg]
            for case, slices, values in zip(cases, arrays, rest, strict=True)]


def results_picture(restored: Sequence[Restored], vertebrae: int = 6) -> np.ndarray:
    """Show some of the slices side by side: seen, restored, true, and both outlines on the restored one.

    Args:
        restored: slices of one shape; those shown lie evenly among them.
        vertebrae: how many to show.

    Returns:
        (rows, width, 3) uint8; the slices' central rows, every pixel twice as large.
    """
    chosen = np.unique(np.linspace(0, len(restored) - 1, vertebrae).round().astype(int))
    pictures = [picture for index in chosen for picture in _slice_pictures(restored[index])]
    return enlarge(picture_grid(pictures, columns=8), 2)


def _slice_pictures(result: Restored) -> list[np.ndarray]:
    """Return the four pictures of one slice, (160, C, 3) each."""
    images = [to_colour(image) for image in (result.masked_ct, result.ct, result.true_ct, result.ct)]
    images[3] = outline(outline(images[3], result.true_body, BLUE), result.body, ORANGE)
    first = (result.ct.shape[0] - SHOWN_ROWS) // 2
    return [image[first:first + SHOWN_ROWS] for image in images]


def _array(batch: Tensor) -> np.ndarray:
    """(B, 1, R, C) tensor to (B, R, C) array."""
    return batch[:, 0].cpu().numpy()


def _bytes(signed: Tensor) -> Tensor:
    """-1..1 (clipped) to uint8 0..255, rounded."""
    return ((signed.clamp(-1.0, 1.0) + 1.0) * 127.5).round().to(torch.uint8)
