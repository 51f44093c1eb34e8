"""Iterative synthesis: the neighbours are restored first, then the target from their result.

A pass takes one vertebra out of the scan, lets the generator draw a healthy one in each of its slices, and
closes the gap to its height. CT, labels and heatmap move with every pass by the same row map. One height
serves the whole vertebra. It is `agreed`, where what was drawn is stretched to the heights that the other
vertebrae of the scan and the height heads agree upon (`models.agreed_height`); or the `head`'s, the median of
the slices' predicted heights averaged over the planes; or that of the body as it was `drawn`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch

from models.agreed_height import DrawnGap, HeadHeight, WantedHeight, fit_height
from models.gap_closing import close_gap, shift_rows
from models.height_prior import HeightPrior
from models.implied_height import height_chooser, is_cut_off
from models.plane_model import PlaneModel
from models.shared_passes import Steps, in_turn
from models.slice_generation import PlaneFrame, Scan, generate_plane, sampled_height_mm
from util.geometry import row_extent
from util.vertebrae import neighbours
from util.volume import present_labels

TINY = 1e-6  # what no plane has drawn counts as nothing


@dataclass(frozen=True)
class Restoration:
    """One pass: a vertebra and its heights."""

    label: int
    height_mm: float                    # predicted by the networks: mean of the planes' heights
    rows: int                           # the height that was composed
    original_height_mm: float           # the extent of the vertebra before the pass
    spread_mm: float                    # standard deviation of the slices' heights
    plane_heights_mm: dict[str, float]  # median of the slices' heights, per plane
    voxels: int                         # of the restored body; 0 where the generator drew none
    agreed_mm: tuple[float, ...] = ()   # heights of the thirds; () without a prior


@dataclass(frozen=True)
class Synthesis:
    """A pseudo-healthy scan and the passes that led to it, the target's last.

    Attributes:
        scan: the result.
        passes: neighbours first.
        direct_height_mm: the target's height as predicted before any neighbour was restored, from a sample of
            its slices; None where no neighbour was. Its distance from the final height tells how much the
            result leans on the neighbours' restoration.
    """

    scan: Scan
    passes: tuple[Restoration, ...]
    direct_height_mm: float | None = None


def synthesize(scan: Scan, label: int, models: Sequence[PlaneModel], *, iterative: bool = True,
               restorable: Collection[int] | None = None, heights: str = "head",
               prior: HeightPrior | None = None) -> Steps[Synthesis]:
    """Replace a vertebra by the healthy one that its restored neighbours imply.

    Args:
        scan: the straightened case.
        label: the target; it must be present.
        models: one per plane; two are fused.
        iterative: restore the upper, then the lower neighbour first.
        restorable: labels whose restoration is wanted; None for all.
        heights: `agreed`, `head` or `drawn`; the head's where nothing can be agreed upon.
        prior: what vertebrae say of each other's heights; for `agreed`.

    Returns:
        The scan with the restored interval centred where the target was.
    """
    original_top, _ = row_extent(scan.label == label)
    passes = []
    choose = height_chooser(scan, label, heights, prior)
    wanted = restorable_neighbours(scan, label, restorable) if iterative else []
    direct = yield from in_turn(sampled_height_mm(scan, label, model) for model in (models if wanted else ()))
    for neighbour in wanted:
        restored, step = yield from restore_vertebra(scan, neighbour, models, choose(neighbour))
        passes.append(step)
        scan = restored if step.voxels else scan
    top, _ = row_extent(scan.label == label)
    scan = shift_rows(scan, original_top - top)
    scan, step = yield from restore_vertebra(scan, label, models, choose(label))
    return Synthesis(scan, (*passes, step), sum(direct) / len(direct) if direct else None)


def restorable_neighbours(scan: Scan, label: int, wanted: Collection[int] | None = None) -> list[int]:
    """Return the adjacent vertebrae, upper first, that are wanted and wholly in the scan."""
    adjacent = [other for other in neighbours(label, present_labels(scan.label)) if other is not None]
    return [other for other in adjacent
            if (wanted is None or other in wanted) and not is_cut_off(scan, other)]


def restore_vertebra(scan: Scan, label: int, models: Sequence[PlaneModel],
                     wanted: WantedHeight = None) -> Steps[tuple[Scan, Restoration]]:
    """Take a vertebra out and close the gap around the one that the generators draw.

    Args:
        scan: that shows it.
        label: the vertebra.
        models: one per plane; two are fused.
        wanted: height of the restored body.
    """
    top, bottom = row_extent(scan.label == label)
    frames = yield from in_turn(generate_plane(scan, label, model) for model in models)
    plane_heights = {model.plane: float(frame.heights_mm.median())
                     for model, frame in zip(models, frames, strict=True)}
    height_mm = sum(plane_heights.values()) / len(plane_heights)
    doubt = sum(model.height_doubt for model in models) / len(models)
    gap, rows, agreed_mm = fit_height(_fused(frames), wanted, HeadHeight(height_mm, doubt))
    restored = close_gap(scan, label, rows, gap)
    spread_mm = float(torch.cat([frame.heights_mm for frame in frames]).std(correction=0))
    voxels = int(np.count_nonzero(restored.label == label))
    return restored, Restoration(label, height_mm, rows, float(bottom - top), spread_mm, plane_heights,
                                 voxels, agreed_mm)


def _fused(frames: Sequence[PlaneFrame]) -> DrawnGap:
    """Average what the planes drew, each as far as it can be trusted."""
    if len(frames) == 1:
        return DrawnGap(frames[0].ct, frames[0].body)
    trust = torch.stack(torch.broadcast_tensors(*(frame.trust for frame in frames)))  # (planes, 1, C, Z)
    share = trust / trust.sum(0).clamp_min(TINY)
    pairs = list(zip(share, frames, strict=True))
    return DrawnGap(reduce(torch.add, (each * frame.ct for each, frame in pairs)),
                    reduce(torch.add, (each * frame.body for each, frame in pairs)))
