"""Iterative synthesis: the neighbours are restored first, then the target from their result.

A pass takes one vertebra out of the scan, lets the generator draw a healthy one in each of its slices, and
closes the gap to the predicted height. CT, labels and heatmap move with every pass by the same row map.
One height serves the whole vertebra: the median of its slices' heights, averaged over the planes.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from models.slice_generation import FADE_MM, PlaneFrame, PlaneModel, Scan, generate_plane
from util.body_heights import ends_with_the_scan
from util.geometry import (
    GAP_ROWS,
    close_gap_maps,
    closed_top,
    compose,
    gap_top,
    gather_rows,
    opened_body_map,
    replace_rows_map,
    row_extent,
)
from util.vertebrae import neighbours


@dataclass(frozen=True)
class Restoration:
    """One pass: a vertebra and its predicted height."""

    label: int
    height_mm: float                    # mean of the planes' heights
    rows: int                           # the height that was composed
    original_height_mm: float           # the extent of the vertebra before the pass
    spread_mm: float                    # standard deviation of the slices' heights
    plane_heights_mm: dict[str, float]  # median of the slices' heights, per plane
    voxels: int                         # of the restored body; 0 where the generator drew none


@dataclass(frozen=True)
class Synthesis:
    """A pseudo-healthy scan and the passes that led to it, the target's last."""

    scan: Scan
    passes: tuple[Restoration, ...]


def synthesize(scan: Scan, label: int, models: Sequence[PlaneModel], *, iterative: bool = True,
               restorable: Collection[int] | None = None, batch_slices: int = 8) -> Synthesis:
    """Replace a vertebra by the healthy one that its restored neighbours imply.

    Args:
        scan: the straightened case.
        label: the target; it must be present.
        models: one per plane; two are fused.
        iterative: restore the upper, then the lower neighbour first.
        restorable: labels whose restoration is wanted; None for all.
        batch_slices: slices that go through a network at once.

    Returns:
        The scan with the restored interval centred where the target was.
    """
    original_top, _ = row_extent(scan.label == label)
    passes = []
    for neighbour in restorable_neighbours(scan, label, restorable) if iterative else []:
        restored, step = restore_vertebra(scan, neighbour, models, batch_slices)
        passes.append(step)
        scan = restored if step.voxels else scan
    top, _ = row_extent(scan.label == label)
    scan = shift_rows(scan, original_top - top)
    scan, step = restore_vertebra(scan, label, models, batch_slices)
    return Synthesis(scan, (*passes, step))


def restorable_neighbours(scan: Scan, label: int, wanted: Collection[int] | None = None) -> list[int]:
    """Return the adjacent vertebrae, upper first, that are wanted and wholly in the scan."""
    present = set(np.flatnonzero(np.bincount(scan.label.ravel())).tolist()) - {0}
    adjacent = [other for other in neighbours(label, present) if other is not None]
    return [other for other in adjacent
            if (wanted is None or other in wanted) and not is_cut_off(scan, other)]


def is_cut_off(scan: Scan, label: int) -> bool:
    """Tell whether the scan ends within a vertebra, see `util.body_heights.ends_with_the_scan`."""
    return ends_with_the_scan(scan.label == label, scan.ct > 0)


def restore_vertebra(scan: Scan, label: int, models: Sequence[PlaneModel],
                     batch_slices: int) -> tuple[Scan, Restoration]:
    """Take a vertebra out and close the gap around the one that the generators draw."""
    top, bottom = row_extent(scan.label == label)
    frames = [generate_plane(scan, label, model, batch_slices) for model in models]
    plane_heights = {model.plane: float(frame.heights_mm.median())
                     for model, frame in zip(models, frames, strict=True)}
    height_mm = sum(plane_heights.values()) / len(plane_heights)
    rows = min(max(round(height_mm), 1), GAP_ROWS)
    restored = _close(scan, label, rows, frames)
    spread_mm = float(torch.cat([frame.heights_mm for frame in frames]).std(correction=0))
    voxels = int(np.count_nonzero(restored.label == label))
    original_mm = float(bottom - top)
    return restored, Restoration(label, height_mm, rows, original_mm, spread_mm, plane_heights, voxels)


def _close(scan: Scan, label: int, rows: int, frames: Sequence[PlaneFrame]) -> Scan:
    """Close the gap to `rows` around the fused frames; labels and heatmap move along."""
    old = scan.label == label
    top, bottom = row_extent(old)
    extent = torch.tensor([top]), torch.tensor([bottom]), torch.tensor([rows])
    probability = torch.stack([frame.body for frame in frames]).mean(0)               # (G, C, Z)
    new = solid_body(_closed(np.zeros_like(scan.ct), (probability > 0.5).to(torch.uint8), extent) > 0)
    drawn = torch.stack([frame.ct for frame in frames]).mean(0).clamp(-1.0, 1.0).add(1.0).mul(127.5)
    share = drawn_share(old.any(axis=0) | new.any(axis=0)) * scan.ct.any(axis=0)      # (C, Z)
    gap = torch.lerp(stretched_block(scan.ct[top:bottom], rows), drawn, torch.from_numpy(share))
    ct = _closed(scan.ct, gap.round().to(torch.uint8), extent)
    outside, _ = close_gap_maps(*extent, len(scan.ct))
    moved_label, heatmap = (_volume(gather_rows(_flat(array), outside, 0.0), array.shape)
                            for array in (scan.label, scan.heatmap))
    _carry_intruders(scan, label, rows, ct, moved_label)
    moved_label[new & (moved_label == 0)] = label
    return Scan(ct, moved_label, heatmap)


def drawn_share(outline: np.ndarray) -> np.ndarray:
    """Return how much of each column of the gap is drawn, the rest being the stretched surroundings.

    Args:
        outline: (C, Z) boolean, where the body was or is.

    Returns:
        (C, Z) float32: 1 within the outline, falling to 0 at a distance of 4 mm.
    """
    from scipy.ndimage import distance_transform_edt

    if not outline.any():
        return np.zeros(outline.shape, np.float32)
    distance_mm = distance_transform_edt(~outline)
    return np.clip(1.0 - distance_mm / FADE_MM, 0.0, 1.0).astype(np.float32)


def stretched_block(block: np.ndarray, height: int) -> Tensor:
    """Return rows stretched linearly to `height` rows, at the centre of a gap.

    What lies beside the body (arch, muscle, fat, vessels) runs on through the rows that a restored body adds.

    Args:
        block: (H, C, Z) the rows taken out, 0..255.

    Returns:
        (G, C, Z) float32 0..255; zero in the gap's other rows.
    """
    rows = _flat(block).float()                                                       # (1, 1, H, C * Z)
    rows = interpolate(rows, size=(height, rows.shape[3]), mode="bilinear", align_corners=False)
    row_map = opened_body_map(torch.tensor([0]), torch.tensor([height]), GAP_ROWS)
    return gather_rows(rows, row_map, 0.0).reshape(GAP_ROWS, *block.shape[1:])


def _closed(original: np.ndarray, gap: Tensor, extent: tuple[Tensor, Tensor, Tensor]) -> np.ndarray:
    """Close a gap (G, C, Z) within a volume (R, C, Z); `extent` is top, bottom and height, (1,) each."""
    opened = torch.zeros(original.shape, dtype=gap.dtype)
    first = gap_top(len(original))
    opened[first:first + GAP_ROWS] = gap
    return _volume(compose(_flat(original), _flat(opened), *extent, fill=0.0), original.shape)


def _carry_intruders(scan: Scan, label: int, rows: int, ct: np.ndarray, moved_label: np.ndarray) -> None:
    """Keep the neighbours whole: what of them reaches into the removed rows moves with the rest of them."""
    top, bottom = row_extent(scan.label == label)
    new_top = int(closed_top(torch.tensor(top), torch.tensor(bottom), torch.tensor(rows)))
    intruders = set(np.unique(scan.label[top:bottom]).tolist()) - {0, label}
    for other in intruders:
        row, column, index = np.nonzero(scan.label == other)
        is_above = 2 * row.mean() < top + bottom
        new_row = row + (new_top - top if is_above else new_top + rows - bottom)
        kept = (row >= top) & (row < bottom) & (new_row >= 0) & (new_row < len(ct))
        source, target = (row[kept], column[kept], index[kept]), (new_row[kept], column[kept], index[kept])
        ct[target], moved_label[target] = scan.ct[source], other


def solid_body(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected component (faces) of a 3-D mask with its holes filled."""
    from scipy import ndimage

    if not mask.any():
        return mask
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    components, _ = ndimage.label(mask[box])
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    solid = np.zeros_like(mask)
    solid[box] = ndimage.binary_fill_holes(components == sizes.argmax())
    return solid


def shift_rows(scan: Scan, offset: int) -> Scan:
    """Move a scan down by `offset` rows (up where negative); rows without a source are empty."""
    none = torch.tensor([0])
    row_map = replace_rows_map(none, none, torch.tensor([offset]), none, len(scan.ct))
    ct, label, heatmap = (_volume(gather_rows(_flat(array), row_map, 0.0), array.shape)
                          for array in (scan.ct, scan.label, scan.heatmap))
    return Scan(ct, label, heatmap)


def _flat(volume: np.ndarray | Tensor) -> Tensor:
    """Return a volume (R, C, Z) as one image (1, 1, R, C * Z), so that its rows move in one gather."""
    tensor = torch.from_numpy(np.ascontiguousarray(volume)) if isinstance(volume, np.ndarray) else volume
    return tensor.reshape(1, 1, len(volume), -1)


def _volume(image: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Undo `_flat`."""
    return image.reshape(shape).numpy()
