"""How a volume lies in memory: by rows, as the networks' slices are cut, or as NIfTI stores it.

Turning one into the other goes by two steps that each stay within the processor's caches; in one step, nearly
every voxel would have to be fetched from memory by itself, which takes three times as long.
"""

import numpy as np
import torch


def row_major(array: np.ndarray) -> np.ndarray:
    """Return a volume (R, C, Z), which may lie in the order of a file, laid out row by row."""
    rows, columns, slices = array.shape
    lines = torch.from_numpy(np.ascontiguousarray(array.T)).view(-1, rows)             # (Z * C, R)
    return lines.T.contiguous().view(rows, slices, columns).transpose(1, 2).contiguous().numpy()


def file_order(array: np.ndarray) -> np.ndarray:
    """Return a volume (R, C, Z), laid out row by row, in the order in which NIfTI stores its voxels."""
    rows, columns, slices = array.shape
    lines = torch.from_numpy(array).transpose(1, 2).contiguous().view(rows, -1)        # (R, Z * C)
    return lines.T.contiguous().view(slices, columns, rows).numpy().T
