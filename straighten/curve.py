"""The curve through the vertebral bodies, its frames, and the mapping scanner <-> straightened space.

World coordinates are mm, right-anterior-superior positive. A straightened point is (row, posterior_mm,
left_mm): `row` is the arc length in mm from the curve's first sample, the other two are measured along
the frame at that row. Rows lie 1 mm apart.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from util.errors import InputError
from util.paths import atomic_path

FURTHEST_ASIDE_MM = 6  # a centre can lie beside the curve; what is sampled reaches so much further


@dataclass(frozen=True)
class Curve:
    """A sampled curve with its frames.

    Attributes:
        positions_mm: (N, 3) world position of each row.
        frames: (N, 3, 3); frames[n, :, 0] points caudal along the curve, [:, 1] posterior, [:, 2] left.
        centres: straightened point (3,) of each body's centre by label: its row, and how far it lies beside
            the curve, which is smoother than the centres.
    """

    positions_mm: np.ndarray
    frames: np.ndarray
    centres: dict[int, np.ndarray]

    def target_point(self, label: int) -> np.ndarray:
        """Return the whole-numbered point (3,) that becomes the centre of a target's straightened volume."""
        row, posterior, left = self.centres[label]
        aside = np.clip(np.rint([posterior, left]), -FURTHEST_ASIDE_MM, FURTHEST_ASIDE_MM)
        return np.array([round(row), *aside], dtype=int)

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """Map straightened points (..., 3) to world points (..., 3) in mm."""
        positions, frames = self._at(points[..., 0])
        return positions + points[..., 1, None] * frames[..., 1] + points[..., 2, None] * frames[..., 2]

    def from_world(self, points_mm: np.ndarray, steps: int = 12) -> np.ndarray:
        """Map world points (..., 3) to straightened points (..., 3).

        Finds the row whose cross-section holds the point, by Newton's method from the nearest row.
        """
        from scipy.spatial import cKDTree

        row = cKDTree(self.positions_mm).query(points_mm)[1].astype(np.float64)
        return self.refine_rows(points_mm, row, steps)

    def refine_rows(self, points_mm: np.ndarray, row: np.ndarray, steps: int) -> np.ndarray:
        """Map world points to straightened points, given nearby rows (...,)."""
        for _ in range(steps):
            offset = self._caudal_offset_mm(points_mm, row)
            slope = (self._caudal_offset_mm(points_mm, row + 0.5)
                     - self._caudal_offset_mm(points_mm, row - 0.5))
            step = offset / np.minimum(slope, -0.3)  # -1 on the curve, nearer 0 on the inner side of a bend
            row = np.clip(row - np.clip(step, -2.0, 2.0), 0.0, len(self.positions_mm) - 1.0)
        positions, frames = self._at(row)
        in_plane = np.einsum("...i,...ij->...j", points_mm - positions, frames[..., 1:])
        return np.concatenate([row[..., None], in_plane], axis=-1)

    def _caudal_offset_mm(self, points_mm: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Return how far points lie caudal of the cross-section at their rows, (...,)."""
        positions, frames = self._at(row)
        return np.einsum("...i,...i->...", points_mm - positions, frames[..., 0])

    def _at(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return positions (..., 3) and frames (..., 3, 3), linear between rows."""
        last = len(self.positions_mm) - 1
        below = np.clip(np.floor(row), 0, last - 1).astype(np.intp)
        weight = (row - below)[..., None]
        positions = self.positions_mm[below] * (1 - weight) + self.positions_mm[below + 1] * weight
        weight = weight[..., None]
        return positions, self.frames[below] * (1 - weight) + self.frames[below + 1] * weight

    def target_affine(self, label: int, centre: tuple[int, int, int]) -> np.ndarray:
        """Return the rigid voxel-to-world affine (4, 4) that is exact at a target's own body.

        Args:
            label: the target.
            centre: voxel of the straightened volume at which the target's centre lies.
        """
        point = self.target_point(label)
        frame = self.frames[point[0]]
        affine = np.eye(4)
        affine[:3, :3] = frame
        affine[:3, 3] = self.to_world(point.astype(float)) - frame @ np.asarray(centre, dtype=float)
        return affine


@dataclass(frozen=True)
class Geometry:
    """What is needed to carry a patient's straightened volumes back: the curve and the scanner's grid."""

    curve: Curve
    scanner_affine: np.ndarray        # (4, 4) voxel -> world mm
    scanner_shape: tuple[int, int, int]


def save_geometry(path: str | Path, geometry: Geometry) -> None:
    """Write curve, frames and scanner grid as npz."""
    curve = geometry.curve
    content: dict[str, Any] = {
        "positions_mm": curve.positions_mm, "frames": curve.frames,
        "labels": np.array(list(curve.centres)), "centres": np.array(list(curve.centres.values())),
        "scanner_affine": geometry.scanner_affine, "scanner_shape": np.array(geometry.scanner_shape)}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **content)


def load_geometry(path: str | Path) -> Geometry:
    """Read what `save_geometry` wrote.

    Raises:
        InputError: the file is missing or is no such file.
    """
    try:
        with np.load(path) as content:
            centres = dict(zip(content["labels"].tolist(), content["centres"], strict=True))
            curve = Curve(content["positions_mm"], content["frames"], centres)
            first, second, third = content["scanner_shape"].tolist()
            return Geometry(curve, content["scanner_affine"], (first, second, third))
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise InputError(f"{path}: expected the geometry of a straightened patient, found none "
                         f"({type(error).__name__}); "
                         f"run straighten/straighten_mask_3d.py --overwrite") from error
