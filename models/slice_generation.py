"""One plane of one vertebra: every slice of its body through the generator, laid into the opened frame."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.slice_input import RawSlices, SliceInput, build_slice_input, inference_context
from util.geometry import row_extent

SLICE_AXIS = {"sagittal": 2, "coronal": 1}
MARGIN_SLICES = 3          # generated beyond the body's ends, where the result fades into what lay there
CENTRAL_FRACTION = 0.8     # of the body's slices, which training draws from; their heights count


@dataclass(frozen=True)
class Scan:
    """A straightened case cropped to its content; arrays (rows, columns, slices), all uint8."""

    ct: np.ndarray       # 0..255 is HU -300..800
    label: np.ndarray    # vertebral bodies, VerSe labels
    heatmap: np.ndarray  # 0..255: evidence of fracture


@dataclass(frozen=True)
class PlaneModel:
    """A generator and the plane whose slices it was trained on."""

    generator: Callable[[SliceInput], Any]
    plane: str
    device: torch.device
    amp: bool = False


class PlaneFrame(NamedTuple):
    """What one plane's generator drew, in the opened frame."""

    ct: Tensor           # (R, C, Z) float32 -1..1; 0 in slices that were not generated
    body: Tensor         # (R, C, Z) float32 probability; 0 likewise
    weight: Tensor       # (1, C, 1) or (1, 1, Z): 1 in the body's slices, fading to 0 in the margin
    heights_mm: Tensor   # (S,) predicted height of each slice of the body's central 4/5


def body_slices(body: np.ndarray, plane: str) -> tuple[int, int]:
    """Return the first and last slice index of a 3-D body mask in a plane."""
    axis = SLICE_AXIS[plane]
    occupied = np.flatnonzero(body.any(axis=tuple(other for other in range(3) if other != axis)))
    return int(occupied[0]), int(occupied[-1])


def generate_plane(scan: Scan, label: int, model: PlaneModel, batch_slices: int) -> PlaneFrame:
    """Draw every slice of a vertebra's body, and a margin, with the vertebra taken out.

    Args:
        scan: in the original frame.
        label: the vertebra; it must be present.
        model: generator and plane.
        batch_slices: slices that go through the network at once.
    """
    body = scan.label == label
    count = body.shape[SLICE_AXIS[model.plane]]
    first, last = body_slices(body, model.plane)
    index = torch.arange(max(0, first - MARGIN_SLICES), min(count, last + 1 + MARGIN_SLICES))
    half_length = max((last - first) / 2, 0.5)
    offset = (index - (first + last) / 2) / half_length                             # (S,)
    raw = _raw_slices(scan, body, model.plane, index, offset.clamp(-1.0, 1.0))
    ct, probability, heights_mm = _run(model, raw, batch_slices)
    beyond = (offset.abs() - 1.0).clamp_min(0.0) * half_length                      # slices past the end
    weight = torch.zeros(count).index_copy(0, index, 1.0 - beyond / (MARGIN_SLICES + 1))
    return PlaneFrame(
        _lay_out(ct, index, count, model.plane),
        _lay_out(probability, index, count, model.plane),
        weight[None, :, None] if model.plane == "coronal" else weight[None, None, :],
        heights_mm[offset.abs() <= CENTRAL_FRACTION],
    )


def _raw_slices(scan: Scan, body: np.ndarray, plane: str, index: Tensor, distance: Tensor) -> RawSlices:
    """Return the slices `index` of a plane as a batch; the healthy neighbours are for the network to find."""
    top, bottom = row_extent(body)

    def stack(array: np.ndarray) -> Tensor:
        slices = np.moveaxis(array, SLICE_AXIS[plane], 0)[index.numpy()]
        return torch.from_numpy(np.ascontiguousarray(slices, np.uint8))[:, None]    # (S, 1, R, W)

    ct = stack(scan.ct)
    return RawSlices(ct, stack(body), torch.zeros_like(ct), stack(scan.heatmap), torch.full_like(index, top),
                     torch.full_like(index, bottom), distance.float())


def _run(model: PlaneModel, raw: RawSlices, batch_slices: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return CT (S, R, W), body probability (S, R, W) and height in mm (S,) of a batch of slices."""
    results = []
    with torch.inference_mode(), torch.autocast(model.device.type, enabled=model.amp):
        for chunk in zip(*(tensor.split(batch_slices) for tensor in raw), strict=True):
            part = RawSlices(*(tensor.to(model.device) for tensor in chunk))
            context = inference_context(len(part.ct), model.device)
            output = model.generator(build_slice_input(part, context, context))
            results.append((output.ct[:, 0], output.body[:, 0], output.height_mm))
    ct, probability, heights = (torch.cat(parts).float().cpu() for parts in zip(*results, strict=True))
    return ct, probability, heights.reshape(-1)


def _lay_out(slices: Tensor, index: Tensor, count: int, plane: str) -> Tensor:
    """Return slices (S, R, W) as a volume (R, C, Z) of `count` slices, zero where there was none."""
    volume = torch.zeros(count, *slices.shape[1:]).index_copy(0, index, slices)     # (N, R, W)
    return volume.movedim(0, SLICE_AXIS[plane])
