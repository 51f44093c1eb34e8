"""The shape of a vertebral body as numbers of fixed count, and a body made from such numbers.

A body is measured in its own extent (`util.body_heights`): its width is cut into equal parts from right to
left, the depth of each slice into equal parts from anterior to posterior. A shape holds the mean height of
the columns of every cell; how far front and back wall lie from the body's centre, for each part of the
width; and the width. All in mm, rows being 1 mm, so shapes of different bodies compare number by number.
"""

from dataclasses import dataclass

import numpy as np

from util.body_heights import THIRDS, BodyHeights, measure_body

WIDTH_CELLS, DEPTH_CELLS = 10, 12  # the central 2/5 and the thirds are whole cells
BLOCKS = (WIDTH_CELLS * DEPTH_CELLS, WIDTH_CELLS, WIDTH_CELLS, 1)  # heights, front, back, width
SHAPE_SIZE = sum(BLOCKS)
BLOCK_STARTS = np.cumsum(BLOCKS)[:-1]
CENTRAL_CELLS = slice(WIDTH_CELLS * 3 // 10, WIDTH_CELLS * 7 // 10)


@dataclass(frozen=True)
class BodyShape:
    """A body's shape and where it lies.

    Attributes:
        values: (SHAPE_SIZE,) mm: heights (WIDTH_CELLS x DEPTH_CELLS), front, back, width.
        centre: column and slice of the middle of its extent, (2,).
        middle_mm: (WIDTH_CELLS, DEPTH_CELLS) rows of the columns' middles below their mean.
    """

    values: np.ndarray
    centre: np.ndarray
    middle_mm: np.ndarray


def cell_means(values: np.ndarray, cells: int) -> np.ndarray:
    """Return the mean of each of `cells` equal parts along axis 0, divided values shared, (cells, ...)."""
    count = len(values)
    below = np.concatenate([np.zeros_like(values[:1], float), np.cumsum(values, axis=0, dtype=float)])
    cuts = np.linspace(0.0, count, cells + 1)
    whole = np.minimum(cuts.astype(int), count - 1)
    rest = (cuts - whole).reshape(-1, *[1] * (values.ndim - 1))
    return np.diff(below[whole] + rest * values[whole], axis=0) * cells / count


def body_shape(mask: np.ndarray, body: BodyHeights | None = None) -> BodyShape:
    """Return the shape of a body.

    Args:
        mask: (rows, columns, slices) of one connected body, rows of 1 mm.
        body: its heights, where they are known already.

    Raises:
        UndefinedHeightError: as `measure_body`.
    """
    body = body or measure_body(mask)
    top = mask[slice(*body.rows)].argmax(axis=0)
    slices = [index for index in range(*body.slices) if body.depth[index].any()]
    depth = body.depth[slices].astype(float)                                          # (S, 2)
    cells = [(slice(*body.depth[index]), index) for index in slices]
    heights = cell_means(np.array([cell_means(body.columns_mm[cell], DEPTH_CELLS) for cell in cells]),
                         WIDTH_CELLS)
    middles = cell_means(np.array([cell_means((top + body.columns_mm / 2)[cell], DEPTH_CELLS)
                                   for cell in cells]), WIDTH_CELLS)
    column = float(depth.mean())
    front, back = cell_means(column - depth[:, 0], WIDTH_CELLS), cell_means(depth[:, 1] - column, WIDTH_CELLS)
    values = np.concatenate([heights.ravel(), front, back, [body.slices[1] - body.slices[0]]])
    return BodyShape(values, np.array([column, sum(body.slices) / 2]), middles - middles.mean())


def shape_heights_mm(values: np.ndarray) -> np.ndarray:
    """Return the heights of the thirds and overall of shapes, as `util.body_heights.third_heights_mm`.

    Args:
        values: (..., SHAPE_SIZE).

    Returns:
        (..., 4) mm.
    """
    heights = values[..., :BLOCKS[0]].reshape(*values.shape[:-1], WIDTH_CELLS, len(THIRDS), -1)
    thirds = heights[..., CENTRAL_CELLS, :, :].mean(axis=(-3, -1))
    return np.concatenate([thirds, thirds.mean(axis=-1, keepdims=True)], axis=-1)


def columns_of(shape: BodyShape, columns: int, slices: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the columns that a shape stands for: height and middle, linear between the cells' centres.

    Args:
        shape: values, place and middles.
        columns, slices: of the volume.

    Returns:
        height_mm, middle: (columns, slices); height 0 where there is no body; middle in rows from any origin.
    """
    heights, front, back, (width,) = np.split(shape.values, BLOCK_STARTS)
    parts = (np.arange(WIDTH_CELLS) + 0.5) / WIDTH_CELLS
    across = (np.arange(slices) + 0.5 - shape.centre[1]) / width + 0.5                # (Z,) 0..1 inside
    first = shape.centre[0] - np.interp(across, parts, front)
    last = shape.centre[0] + np.interp(across, parts, back)
    along = (np.arange(columns)[:, None] + 0.5 - first) / np.maximum(last - first, 1.0)    # (C, Z)
    inside = (along >= 0) & (along < 1) & (across >= 0) & (across < 1)
    height = _sampled(heights.reshape(WIDTH_CELLS, DEPTH_CELLS), across, along)
    return np.where(inside, height.clip(0.0), 0.0), _sampled(shape.middle_mm, across, along)


def _sampled(cells: np.ndarray, across: np.ndarray, along: np.ndarray) -> np.ndarray:
    """Return cells (W, D) at relative places across (Z,) and along (C, Z), linear, (C, Z)."""
    from scipy.ndimage import map_coordinates

    places = np.stack([np.broadcast_to(across * WIDTH_CELLS - 0.5, along.shape), along * DEPTH_CELLS - 0.5])
    return map_coordinates(cells, places, order=1, mode="nearest")


def solid_columns(height_mm: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Return a body whose columns have given heights about given middles, rows of 1 mm.

    Heights become whole rows in such a way that their sum along each slice is kept: so the mean height of
    any part of the depth is right to a fraction of a row.

    Args:
        height_mm, middle: (columns, slices); no body where the height is 0.

    Returns:
        (rows, columns, slices) boolean, just high enough; no rows where every height is 0.
    """
    rows = np.diff(np.rint(np.cumsum(height_mm, axis=0)), axis=0, prepend=0.0)
    top = np.rint(middle - rows / 2)
    filled = rows > 0
    if not filled.any():
        return np.zeros((0, *height_mm.shape), bool)
    first, last = top[filled].min(), (top + rows)[filled].max()
    row = np.arange(first, last)[:, None, None]
    return (row >= top) & (row < top + rows)
