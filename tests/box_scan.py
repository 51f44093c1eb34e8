"""A spine of boxes in muscle, and generators that draw a known box: every voxel can be counted."""

from typing import NamedTuple

import numpy as np
import torch

from data.slice_input import SliceInput
from models.plane_model import PlaneModel
from models.slice_generation import Scan
from util.geometry import GAP_ROWS, gap_top

SHAPE = (256, 128, 64)
BODY_COLUMNS, BODY_SLICES = slice(48, 80), slice(16, 48)
CANDIDATES = {19: (80, 104), 20: (112, 133), 21: (141, 165)}  # T12, a crushed L1 of 21 rows, L2
MUSCLE, BONE, DRAWN = 60, 150, 200


class Drawn(NamedTuple):
    """The part of a generator's output that inference reads."""

    ct: torch.Tensor
    body: torch.Tensor
    height_mm: torch.Tensor


def box_painter(height_mm: float, columns: slice = BODY_COLUMNS):
    """A generator that draws a box of `height_mm` rows at the gap's centre, brighter than any bone."""

    def draw(inputs: SliceInput) -> Drawn:
        first = gap_top(inputs.gap.shape[2]) + (GAP_ROWS - round(height_mm)) // 2
        body = torch.zeros_like(inputs.gap)
        body[:, :, first:first + round(height_mm), columns] = 1.0
        ct = torch.full_like(body, MUSCLE / 127.5 - 1) + body * (DRAWN - MUSCLE) / 127.5
        return Drawn(ct, body, torch.full((len(body),), height_mm))

    return draw


def painter(height_mm: float, plane: str = "sagittal", **options) -> PlaneModel:
    columns = BODY_COLUMNS if plane == "sagittal" else BODY_SLICES
    return PlaneModel(box_painter(height_mm, columns), plane, torch.device("cpu"), **options)


def box_scan(bodies: dict[int, tuple[int, int]] | None = None) -> Scan:
    """Boxes in muscle; the heatmap is hot on every body."""
    ct, label = np.full(SHAPE, MUSCLE, np.uint8), np.zeros(SHAPE, np.uint8)
    for number, (top, bottom) in (bodies or CANDIDATES).items():
        label[top:bottom, BODY_COLUMNS, BODY_SLICES] = number
    ct[label > 0] = BONE
    return Scan(ct, label, np.where(label > 0, 255, 0).astype(np.uint8))
