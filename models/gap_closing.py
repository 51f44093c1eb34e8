"""Closing the gap around a restored body: CT, labels and heatmap of a whole scan move by one row map."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from models.agreed_height import DrawnGap
from models.slice_generation import FADE_MM, Scan
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
from util.volume import present_labels


def close_gap(scan: Scan, label: int, rows: int, drawn_gap: DrawnGap) -> Scan:
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
    intruders = set(present_labels(scan.label[top:bottom])) - {label}
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
