"""Iterative synthesis: the neighbours are restored first, then the target from their result.

A pass takes one vertebra out of the scan, lets the generator draw a healthy one in each of its slices, and
closes the gap to the predicted height. CT, labels and heatmap move with every pass by the same row map.
One height serves the whole vertebra. It is `agreed`, where what was drawn is stretched to the heights that
the other vertebrae of the scan imply (`models.height_prior`); or the `head`'s, the median of the slices'
predicted heights averaged over the planes; or that of the body as it was `drawn`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from models.agreed_height import DRAWN, DrawnGap, WantedHeight, fit_height
from models.height_prior import HeightPrior
from models.slice_generation import (
    FADE_MM,
    PlaneFrame,
    PlaneModel,
    Scan,
    generate_plane,
    sampled_height_mm,
)
from util.body_heights import third_heights
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

TINY = 1e-6  # what no plane has drawn counts as nothing
CUT_OFF_FRACTION = 0.05  # of a body's columns that end where the scan has no more voxels


@dataclass(frozen=True)
class Restoration:
    """One pass: a vertebra and its predicted height."""

    label: int
    height_mm: float                    # predicted by the networks: mean of the planes' heights
    rows: int                           # the height that was composed
    original_height_mm: float           # the extent of the vertebra before the pass
    spread_mm: float                    # standard deviation of the slices' heights
    plane_heights_mm: dict[str, float]  # median of the slices' heights, per plane
    voxels: int                         # of the restored body; 0 where the generator drew none
    agreed_mm: tuple[float, ...] = ()   # thirds, as the other vertebrae imply; () without a prior


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
               restorable: Collection[int] | None = None, batch_slices: int = 8,
               heights: str = "head", prior: HeightPrior | None = None) -> Synthesis:
    """Replace a vertebra by the healthy one that its restored neighbours imply.

    Args:
        scan: the straightened case.
        label: the target; it must be present.
        models: one per plane; two are fused.
        iterative: restore the upper, then the lower neighbour first.
        restorable: labels whose restoration is wanted; None for all.
        batch_slices: slices that go through a network at once.
        heights: `agreed`, `head` or `drawn`; the head's where nothing can be agreed upon.
        prior: what vertebrae say of each other's heights; for `agreed`.

    Returns:
        The scan with the restored interval centred where the target was.
    """
    original_top, _ = row_extent(scan.label == label)
    passes = []
    choose = _height_chooser(scan, label, heights, prior)
    wanted = restorable_neighbours(scan, label, restorable) if iterative else []
    direct = [sampled_height_mm(scan, label, model, batch_slices) for model in models] if wanted else []
    for neighbour in wanted:
        restored, step = restore_vertebra(scan, neighbour, models, batch_slices, choose(neighbour))
        passes.append(step)
        scan = restored if step.voxels else scan
    top, _ = row_extent(scan.label == label)
    scan = shift_rows(scan, original_top - top)
    scan, step = restore_vertebra(scan, label, models, batch_slices, choose(label))
    return Synthesis(scan, (*passes, step), sum(direct) / len(direct) if direct else None)


def _height_chooser(scan: Scan, target: int, heights: str,
                    prior: HeightPrior | None) -> Callable[[int], WantedHeight]:
    """Return what tells the height that a vertebra shall be restored to."""
    if heights == "drawn":
        return lambda label: DRAWN
    if heights == "head" or prior is None:
        return lambda label: None
    measured = whole_heights_mm(scan, target)
    return lambda label: implied_heights_mm(label, measured, prior)


def whole_heights_mm(scan: Scan, target: int) -> dict[int, np.ndarray]:
    """Return the heights in mm of the thirds (3,) of every vertebra but the target that is wholly there."""
    present = set(np.flatnonzero(np.bincount(scan.label.ravel())).tolist()) - {0, target}
    return third_heights(scan.label, [other for other in present if not is_cut_off(scan, other)])


def implied_heights_mm(label: int, heights: Mapping[int, np.ndarray],
                       prior: HeightPrior) -> np.ndarray | None:
    """Return the healthy heights (3,) of a vertebra that the healthy ones among the others imply, in mm.

    None for a level that the prior does not know, and where no other vertebra can be measured.
    """
    others = prior.healthy({other: height_mm for other, height_mm in heights.items() if other != label})
    predicted = prior.predict(label, others) if others else None
    return None if predicted is None else np.exp(predicted[0])


def restorable_neighbours(scan: Scan, label: int, wanted: Collection[int] | None = None) -> list[int]:
    """Return the adjacent vertebrae, upper first, that are wanted and wholly in the scan."""
    present = set(np.flatnonzero(np.bincount(scan.label.ravel())).tolist()) - {0}
    adjacent = [other for other in neighbours(label, present) if other is not None]
    return [other for other in adjacent
            if (wanted is None or other in wanted) and not is_cut_off(scan, other)]


def is_cut_off(scan: Scan, label: int) -> bool:
    """Tell whether the scan ends within a vertebra: its columns border rows that hold no CT."""
    body = scan.label == label
    top, bottom = row_extent(body)
    content = np.pad(scan.ct > 0, ((1, 1), (0, 0), (0, 0)))[top:bottom + 2]   # the body's rows and one around
    body = np.pad(body[top:bottom], ((1, 1), (0, 0), (0, 0)))
    columns = body.any(axis=0)
    ends_above = (body[1:] & ~content[:-1]).any(axis=0)
    ends_below = (body[:-1] & ~content[1:]).any(axis=0)
    return bool((ends_above | ends_below).sum() > CUT_OFF_FRACTION * columns.sum())


def restore_vertebra(scan: Scan, label: int, models: Sequence[PlaneModel], batch_slices: int,
                     wanted: WantedHeight = None) -> tuple[Scan, Restoration]:
    """Take a vertebra out and close the gap around the one that the generators draw.

    Args:
        scan: that shows it.
        label: the vertebra.
        models: one per plane; two are fused.
        batch_slices: slices that go through a network at once.
        wanted: height of the restored body.
    """
    top, bottom = row_extent(scan.label == label)
    frames = [generate_plane(scan, label, model, batch_slices) for model in models]
    plane_heights = {model.plane: float(frame.heights_mm.median())
                     for model, frame in zip(models, frames, strict=True)}
    height_mm = sum(plane_heights.values()) / len(plane_heights)
    fitted = fit_height(_fused(frames), wanted)
    gap, rows = fitted or (_fused(frames), min(max(round(height_mm), 1), GAP_ROWS))
    restored = _close(scan, label, rows, gap)
    spread_mm = float(torch.cat([frame.heights_mm for frame in frames]).std(correction=0))
    voxels = int(np.count_nonzero(restored.label == label))
    agreed = tuple(wanted.tolist()) if isinstance(wanted, np.ndarray) and fitted else ()
    return restored, Restoration(label, height_mm, rows, float(bottom - top), spread_mm, plane_heights,
                                 voxels, agreed)


def _fused(frames: Sequence[PlaneFrame]) -> DrawnGap:
    """Average what the planes drew, each as far as it can be trusted."""
    total = sum(frame.trust for frame in frames).clamp_min(TINY)                      # (1, C, Z)
    return DrawnGap(*(sum(drawn * frame.trust for drawn, frame in zip(planes, frames, strict=True)) / total
                      for planes in zip(*((frame.ct, frame.body) for frame in frames), strict=True)))


def _close(scan: Scan, label: int, rows: int, drawn_gap: DrawnGap) -> Scan:
    """Close the gap to `rows` around what was drawn; labels and heatmap move along."""
    old = scan.label == label
    top, bottom = row_extent(old)
    extent = torch.tensor([top]), torch.tensor([bottom]), torch.tensor([rows])
    body = (drawn_gap.probability > 0.5).to(torch.uint8)                              # (G, C, Z)
    new = solid_body(_closed(np.zeros_like(scan.ct), body, extent) > 0)
    drawn = drawn_gap.ct.clamp(-1.0, 1.0).add(1.0).mul(127.5)
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
