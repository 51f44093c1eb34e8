"""Closing the gap around a restored body: CT, labels and heatmap of a whole scan move by one row map."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from models.agreed_height import DrawnGap
from models.slice_generation import FADE_MM, Scan
from util.geometry import (
    GAP_ROWS,
    NOTHING,
    close_gap_maps,
    closed_top,
    gap_top,
    gather_rows,
    opened_body_map,
    replace_rows_map,
    row_extent,
)
from util.mask_box import bounding_box
from util.volume import present_labels


def close_gap(scan: Scan, label: int, rows: int, drawn_gap: DrawnGap) -> Scan:
    """Close the gap to `rows` around what was drawn; labels and heatmap move along."""
    old = scan.label == label
    top, bottom = row_extent(old)
    outside, inside = _row_maps(top, bottom, rows, len(scan.ct))
    restored = np.flatnonzero(inside != NOTHING)                       # rows of the result; N of them
    drawn_rows = torch.from_numpy(inside[restored] - gap_top(len(scan.ct)))
    new = solid_body((drawn_gap.probability[drawn_rows] > 0.5).numpy())                # (N, C, Z)
    drawn = drawn_gap.ct[drawn_rows].clamp(-1.0, 1.0).add(1.0).mul(127.5)
    outline = old[top:bottom].any(axis=0) | new.any(axis=0)
    share = torch.from_numpy(drawn_share(outline) * (scan.ct.max(axis=0) > 0))         # (C, Z)
    gap = torch.lerp(stretched_block(scan.ct[top:bottom], rows)[drawn_rows], drawn, share)
    ct, moved_label, heatmap = (_moved(array, outside) for array in (scan.ct, scan.label, scan.heatmap))
    ct[restored] = gap.round().to(torch.uint8).numpy()
    _carry_intruders(scan, label, (top, bottom), rows, ct, moved_label)
    free = moved_label[restored] == 0
    moved_label[restored] = np.where(new & free, np.uint8(label), moved_label[restored])
    return Scan(ct, moved_label, heatmap)


def _row_maps(top: int, bottom: int, rows: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the two row maps (R,) of `close_gap_maps` for one volume of `count` rows."""
    extent = torch.tensor([top]), torch.tensor([bottom]), torch.tensor([rows])
    outside, inside = close_gap_maps(*extent, count)
    return outside[0].numpy(), inside[0].numpy()


def _moved(volume: np.ndarray, row_map: np.ndarray) -> np.ndarray:
    """Return the rows (R, C, Z) that a map (R,) takes; empty where there is no source."""
    moved = volume.take(row_map, axis=0, mode="clip")
    moved[row_map == NOTHING] = 0
    return moved


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
    rows = torch.from_numpy(block).reshape(1, 1, len(block), -1).float()              # (1, 1, H, C * Z)
    rows = interpolate(rows, size=(height, rows.shape[3]), mode="bilinear", align_corners=False)
    row_map = opened_body_map(torch.tensor([0]), torch.tensor([height]), GAP_ROWS)
    return gather_rows(rows, row_map, 0.0).reshape(GAP_ROWS, *block.shape[1:])


def _carry_intruders(scan: Scan, label: int, extent: tuple[int, int], rows: int, ct: np.ndarray,
                     moved_label: np.ndarray) -> None:
    """Keep the neighbours whole: what of them reaches into the removed rows moves with the rest of them."""
    top, bottom = extent
    new_top = int(closed_top(torch.tensor(top), torch.tensor(bottom), torch.tensor(rows)))
    removed = scan.label[top:bottom]
    intruders = set(present_labels(removed)) - {label}
    for other in intruders:
        voxels = np.count_nonzero((scan.label == other).reshape(len(ct), -1), axis=1)  # (R,)
        is_above = 2 * (voxels @ np.arange(len(ct))) / voxels.sum() < top + bottom
        row, column, index = np.nonzero(removed == other)
        row = row + top
        new_row = row + (new_top - top if is_above else new_top + rows - bottom)
        kept = (new_row >= 0) & (new_row < len(ct))
        source, target = (row[kept], column[kept], index[kept]), (new_row[kept], column[kept], index[kept])
        ct[target], moved_label[target] = scan.ct[source], other


def solid_body(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected component (faces) of a 3-D mask with its holes filled."""
    from scipy import ndimage

    box = bounding_box(mask)
    if box is None:
        return mask
    components, _ = ndimage.label(mask[box])
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    solid = np.zeros_like(mask)
    solid[box] = ndimage.binary_fill_holes(components == sizes.argmax())
    return solid


def shift_rows(scan: Scan, offset: int) -> Scan:
    """Move a scan down by `offset` rows (up where negative); rows without a source are empty."""
    if offset == 0:
        return scan
    none = torch.tensor([0])
    row_map = replace_rows_map(none, none, torch.tensor([offset]), none, len(scan.ct))[0].numpy()
    return Scan(*(_moved(array, row_map) for array in (scan.ct, scan.label, scan.heatmap)))
