"""One plane of one vertebra: every slice of its body through the generator, laid into the gap."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.aligned_dataset import SLICE_AXIS, body_slices
from data.slice_input import RawSlices
from models.plane_model import PlaneModel
from models.shared_passes import Steps, Wanted
from util.geometry import row_extent

FADE_MM = 4                  # from the body's outline outwards, the drawn CT gives way to what lay there
MARGIN_SLICES = FADE_MM - 1  # drawn beyond the body's ends
RIM = 0.8                    # place of a slice, 0 the body's centre and 1 its end, from which on it is rim
LEAST_TRUST = 0.02           # of a slice beyond the body's ends
SAMPLED_SLICES = 3           # a height alone is asked for from every third slice: a third of a pass's cost


@dataclass(frozen=True)
class Scan:
    """A straightened case cropped to its content; arrays (rows, columns, slices), all uint8."""

    ct: np.ndarray       # 0..255 is HU -300..800
    label: np.ndarray    # vertebral bodies, VerSe labels
    heatmap: np.ndarray  # 0..255: evidence of fracture


class PlaneFrame(NamedTuple):
    """What one plane's generator drew in the rows of the gap (G = 40)."""

    ct: Tensor          # (G, C, Z) float32 -1..1; 0 in slices that were not drawn
    body: Tensor        # (G, C, Z) float32 probability; 0 likewise
    heights_mm: Tensor  # (S,) predicted height of each slice of the body's central 4/5
    trust: Tensor       # (1, 1, Z) or (1, C, 1), 0..1: falls at the body's first and last slices


def generate_plane(scan: Scan, label: int, model: PlaneModel) -> Steps[PlaneFrame]:
    """Draw every slice of a vertebra's body, and a margin, with the vertebra taken out.

    Args:
        scan: in the original frame.
        label: the vertebra; it must be present.
        model: generator and plane.
    """
    body = scan.label == label
    count = body.shape[SLICE_AXIS[model.plane]]
    first, end = body_slices(body, model.plane)
    index = torch.arange(max(0, first - MARGIN_SLICES), min(count, end + MARGIN_SLICES))
    half_length = max((end - 1 - first) / 2, 0.5)
    offset = (index - (first + end - 1) / 2) / half_length                          # (S,) -1..1 in the body
    raw = _raw_slices(scan, body, model.plane, index, offset.clamp(-1.0, 1.0))
    ct, probability, heights_mm = yield Wanted(model, raw)
    rim = offset.abs() > RIM
    probability[rim] *= _outline(body, model.plane, index[rim])
    return PlaneFrame(
        _lay_out(ct, index, count, model.plane),
        _lay_out(probability, index, count, model.plane),
        heights_mm[~rim],
        _lay_out(_trust(offset)[:, None, None], index, count, model.plane),
    )


def _trust(offset: Tensor) -> Tensor:
    """Return how much slices at places (S,) count beside the other plane's: 1, falling to 0 at the rim.

    A slice that only grazes the body says little about its outline; the other plane cuts it there squarely.
    """
    return ((1 - offset.abs()) / (1 - RIM)).clamp(LEAST_TRUST, 1.0)


def sampled_height_mm(scan: Scan, label: int, model: PlaneModel) -> Steps[float]:
    """Return the median height predicted in every third slice of a body's central 4/5; nothing is drawn.

    Args:
        as `generate_plane`.
    """
    body = scan.label == label
    first, end = body_slices(body, model.plane)
    index = torch.arange(first, end)
    offset = (index - (first + end - 1) / 2) / max((end - 1 - first) / 2, 0.5)      # (S,) -1..1 in the body
    chosen = (offset.abs() <= RIM).nonzero()[:, 0][::SAMPLED_SLICES]
    raw = _raw_slices(scan, body, model.plane, index[chosen], offset[chosen])
    _, _, heights_mm = yield Wanted(model, raw)
    return float(heights_mm.median())


def _outline(body: np.ndarray, plane: str, index: Tensor) -> Tensor:
    """Return the columns of slices (S, 1, W) in which the original body has any voxel, 1 or 0.

    Where a body rounds off, the generator is no judge of its width and depth; a fracture changes these
    little, so there the original's outline is kept.
    """
    slices = np.moveaxis(body, SLICE_AXIS[plane], 0)[index.numpy()]                 # (S, R, W)
    return torch.from_numpy(slices.any(axis=1, keepdims=True)).float()


def _raw_slices(scan: Scan, body: np.ndarray, plane: str, index: Tensor, distance: Tensor) -> RawSlices:
    """Return the slices `index` of a plane as a batch, without the bodies' masks, which no network sees."""
    top, bottom = row_extent(body)

    def stack(array: np.ndarray) -> Tensor:
        slices = np.moveaxis(array, SLICE_AXIS[plane], 0)[index.numpy()]
        return torch.from_numpy(np.ascontiguousarray(slices))[:, None]              # (S, 1, R, W)

    ct = stack(scan.ct)
    masks = ct[:, :, :0]                                                            # (S, 1, 0, W)
    return RawSlices(ct, masks, masks, stack(scan.heatmap), torch.full_like(index, top),
                     torch.full_like(index, bottom), distance.float())


def _lay_out(slices: Tensor, index: Tensor, count: int, plane: str) -> Tensor:
    """Return slices (S, G, W) as a volume (G, C, Z) of `count` slices, zero where there was none."""
    volume = torch.zeros(count, *slices.shape[1:]).index_copy(0, index, slices)     # (N, G, W)
    return volume.movedim(0, SLICE_AXIS[plane])
