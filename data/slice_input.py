"""The sample: what the generator sees of a slice, and what it should have drawn.

One builder serves training, validation and inference. It takes a batch of raw slices as they lie in
the straightened volumes and opens the gap in all of them with one row map per sample (`util.geometry`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from util.geometry import GAP_ROWS, gap_top, gather_rows, open_gap_map, opened_body_map

INFERENCE_CONTEXT_ROWS = 88          # visible rows on either side of the gap: two to three vertebrae
TRAINING_CONTEXT_ROWS = (64, 108)    # drawn anew for each sample and side


class RawSlices(NamedTuple):
    """A batch of slices in the original frame, (B, 1, R, C) uint8 unless said otherwise.

    Inference needs no masks and leaves them without rows.
    """

    ct: Tensor            # 0..255
    body: Tensor          # 0 or 1: the target's body
    neighbours: Tensor    # 0 or 1: the bodies of all other healthy vertebrae
    heatmap: Tensor       # 0..255: evidence of fracture
    top: Tensor           # (B,) int64: first row of the vertebra, over all its slices
    bottom: Tensor        # (B,) int64: row after its last
    distance: Tensor      # (B,) float32: place of the slice, -1..1 from one end of the body to the other


class SliceInput(NamedTuple):
    """What the generator sees, in the opened frame."""

    masked_ct: Tensor     # (B, 1, R, C) float32 -1..1; -1 in the gap and where nothing is visible
    gap: Tensor           # (B, 1, R, C) float32: 1 in the gap
    distance: Tensor      # (B,) float32
    attention: Tensor     # (B, 1, R, C) float32 0..1: 1 - heatmap; 0 in the gap and where nothing is visible
                          # (1 in the published convention)


class SliceTruth(NamedTuple):
    """What the generator should draw for a healthy vertebra."""

    ct: Tensor            # (B, 1, R, C) float32 -1..1, original frame
    body: Tensor          # (B, 1, R, C) float32 0 or 1, opened frame: its rows at the gap's centre
    neighbours: Tensor    # (B, 1, R, C) float32 0 or 1, opened frame, as far as visible
    top: Tensor           # (B,) int64
    bottom: Tensor        # (B,) int64
    height_mm: Tensor     # (B,) float32: bottom - top, rows being 1 mm


class SampleConvention(NamedTuple):
    """What a generator was trained to see at inference, and what its results mean."""

    context_rows: int = INFERENCE_CONTEXT_ROWS  # visible on either side of the gap
    signed_distance: bool = True                # else the distance from the central slice, 0..1
    hidden_attention: float = 0.0               # in the gap and where nothing is visible
    rows_below_height: int = 0                  # lowest rows of the body that its height leaves out


# Published: every row of the image is visible; the heatmap is 0 in the gap, so attention is 1; a body whose
# first and last rows are a and b has the height b - a, and the gap's rows centre on it.
CONVENTIONS = {"own": SampleConvention(), "published": SampleConvention(108, False, 1.0, 1)}


def signed(ct: Tensor) -> Tensor:
    """Map uint8 0..255 to float32 -1..1, on whatever device the batch is."""
    return ct.float() / 127.5 - 1.0


def _opening(raw: RawSlices, context_above: Tensor, context_below: Tensor) -> Tensor:
    """Return the row map (B, R) that opens the gap of every slice."""
    return open_gap_map(raw.top, raw.bottom, raw.ct.shape[2], context_above, context_below)


def build_slice_input(raw: RawSlices, context_above: Tensor, context_below: Tensor,
                      hidden_attention: float = 0.0) -> SliceInput:
    """Take the target out of a batch of slices and open the gap.

    Args:
        raw: slices in the original frame.
        context_above, context_below: (B,) rows that stay visible on either side of the gap.
        hidden_attention: of rows that show nothing.

    Returns:
        The generator's input. Nothing of it depends on the target's rows.
    """
    opening = _opening(raw, context_above, context_below)
    masked_ct = gather_rows(signed(raw.ct), opening, -1.0)                                # (B, 1, R, C)
    attention = gather_rows(1.0 - raw.heatmap.float() / 255.0, opening, hidden_attention)  # (B, 1, R, C)
    gap = torch.zeros_like(masked_ct)
    first = gap_top(gap.shape[2])
    gap[:, :, first:first + GAP_ROWS].fill_(1.0)  # assigned, the number would be copied to a GPU
    return SliceInput(masked_ct, gap, raw.distance, attention)


def build_slice_truth(raw: RawSlices, context_above: Tensor, context_below: Tensor) -> SliceTruth:
    """Return what the generator should draw for slices of healthy vertebrae.

    Args:
        raw: slices in the original frame.
        context_above, context_below: (B,) as given to `build_slice_input`.
    """
    rows = raw.ct.shape[2]
    neighbours = gather_rows(raw.neighbours.float(), _opening(raw, context_above, context_below), 0.0)
    body = gather_rows(raw.body.float(), opened_body_map(raw.top, raw.bottom, rows), 0.0)
    height_mm = (raw.bottom - raw.top).float()
    return SliceTruth(signed(raw.ct), body, neighbours, raw.top, raw.bottom, height_mm)


def build_inference_input(raw: RawSlices, convention: SampleConvention) -> SliceInput:
    """Take the target out of a batch of slices as the convention of a generator wants it."""
    context = torch.full_like(raw.top, convention.context_rows)
    seen = build_slice_input(raw, context, context, convention.hidden_attention)
    return seen if convention.signed_distance else seen._replace(distance=seen.distance.abs())


def inference_context(batch: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the visible rows of either side at inference, (B,)."""
    return torch.full((batch,), INFERENCE_CONTEXT_ROWS, device=device)


def draw_training_context(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the visible rows above and below for training, each (B,)."""
    low, high = TRAINING_CONTEXT_ROWS
    above, below = torch.randint(low, high + 1, (2, batch), generator=generator)
    return above, below
