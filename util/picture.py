"""Pictures of slices: grids, outlines, PNG files.

This is the only module that imports torchvision, and it does without where that fails: beside a CPU build
of torch its wheel may not import at all, and then with a RuntimeError, not an ImportError.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from util.paths import atomic_path

PADDING = 2  # pixels between the pictures of a grid


def to_colour(image: np.ndarray) -> np.ndarray:
    """Return a grey uint8 image (R, C) as colour (R, C, 3)."""
    return np.repeat(image[:, :, None], 3, axis=2)


def outline(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Draw the outline of a mask onto a copy of an image.

    Args:
        image: (R, C, 3) uint8.
        mask: (R, C), nonzero inside.
        colour: red, green, blue.
    """
    import cv2

    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.ascontiguousarray(image), contours, -1, colour, 1)


def picture_grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Lay pictures of one size out in a grid, row by row.

    Args:
        pictures: (R, C, 3) uint8 each.
        columns: pictures in a row.

    Returns:
        (rows, width, 3) uint8 with 2 black pixels around each picture.
    """
    try:
        return _torchvision_grid(pictures, columns)
    except Exception:  # a torchvision that does not fit torch raises RuntimeError or AttributeError on import
        return _plain_grid(pictures, columns)


def _torchvision_grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Let torchvision lay the grid out."""
    import torch
    from torchvision.utils import make_grid

    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)                 # (N, 3, R, C)
    return make_grid(batch, nrow=columns, padding=PADDING).permute(1, 2, 0).numpy()


def _plain_grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Lay the grid out by hand, pixel for pixel as torchvision does."""
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = pictures[0].shape[0] + PADDING, pictures[0].shape[1] + PADDING
    grid = np.zeros((rows * height + PADDING, columns * width + PADDING, 3), np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * height + PADDING, number % columns * width + PADDING
        grid[top:top + picture.shape[0], left:left + picture.shape[1]] = picture
    return grid


def enlarge(picture: np.ndarray, factor: int) -> np.ndarray:
    """Repeat every pixel of a picture (R, C, 3), so that it can be looked at."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def write_png(path: str | Path, picture: np.ndarray) -> None:
    """Write a picture (R, C, 3) uint8, red first, atomically."""
    write_picture(path, picture[:, :, ::-1])


def write_picture(path: str | Path, picture: np.ndarray, flags: Sequence[int] = ()) -> None:
    """Write a picture (R, C, 3) uint8, blue first, atomically, in the format that the name says.

    OpenCV encodes it alone: where it writes too, it tells of a full disk by nothing but False.
    """
    import cv2

    content = cv2.imencode(Path(path).suffix, picture, list(flags))[1].tobytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
