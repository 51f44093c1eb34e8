"""The curve through the vertebral bodies, its frames, and the mapping scanner <-> straightened space.

World coordinates are mm, right-anterior-superior positive. A straightened point is (row, posterior_mm,
left_mm): `row` is the arc length in mm from the curve's first sample, the other two are measured along
the frame at that row. Rows lie 1 mm apart.

The curve runs straight through the middle of every body and bends only around the discs. A curve that
bends everywhere presses one side of a body and stretches the other (at a radius of 120 mm an anterior
wall 16 mm before the curve would come out 13 % wrong); this one keeps bodies rigid and their heights true.
Where two bodies are tilted too much for their disc, as around a wedge fracture, the bend takes as much of
the bodies as it needs to stay so wide that no cross-section meets another within them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from util.errors import InputError
from util.paths import atomic_path
from util.vertebrae import ANATOMICAL_ORDER

WORLD_LEFT = np.array([-1.0, 0.0, 0.0])
MARGIN_ROWS = 160       # straight rows beyond the outermost bodies; a straightened volume needs 128
RIGID_FRACTION = 0.36   # of the distance between two centres; a body's half height is 0.36 to 0.4 of it
BODY_REACH_MM = 22.0    # how far bodies reach before and behind the curve
TIGHTEST_BEND = 0.7     # of the curvature at which cross-sections would meet within a body and fold it
DENSE_STEP_MM = 0.05    # of the polyline from which the 1 mm samples are taken


@dataclass(frozen=True)
class Curve:
    """A sampled curve with its frames.

    Attributes:
        positions_mm: (N, 3) world position of each row.
        frames: (N, 3, 3); frames[n, :, 0] points caudal along the curve, [:, 1] posterior, [:, 2] left.
        centre_rows: row of each body's centre by label (not rounded).
    """

    positions_mm: np.ndarray
    frames: np.ndarray
    centre_rows: dict[int, float]

    def target_row(self, label: int) -> int:
        """Return the row that becomes the centre of a target's straightened volume."""
        return round(self.centre_rows[label])

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
        row = self.target_row(label)
        affine = np.eye(4)
        affine[:3, :3] = self.frames[row]
        affine[:3, 3] = self.positions_mm[row] - self.frames[row] @ np.asarray(centre, dtype=float)
        return affine


def curve_through(centres_mm: Mapping[int, np.ndarray], *, axis: np.ndarray | None = None,
                  left: np.ndarray = WORLD_LEFT) -> Curve:
    """Return the curve through the centres of vertebral bodies.

    Args:
        centres_mm: world position (3,) by label, at least one.
        axis: caudal direction (3,) of a single vertebra; straight down where it is not known.
        left: the patient's left (3,); the frames' second axis stays perpendicular to it: they cannot twist.

    Raises:
        InputError: no centre, or two centres in one place.
    """
    labels = [label for label in ANATOMICAL_ORDER if label in centres_mm]
    if not labels:
        raise InputError("expected the centre of at least one vertebra, found none; check the centroid file")
    centres = np.array([centres_mm[label] for label in labels], dtype=np.float64)
    gaps_mm = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    if (gaps_mm < 1.0).any():
        first = labels[int(np.argmin(gaps_mm))]
        raise InputError(f"expected vertebrae apart from each other, found label {first} and the next in one "
                         f"place; correct the centroid file")
    tangents = centre_tangents(centres, np.array([0.0, 0.0, -1.0]) if axis is None else axis)
    return _sample(*_dense_curve(centres, tangents, gaps_mm), labels, centres, left)


def centre_tangents(centres_mm: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Return the unit caudal direction at each centre, (n, 3): of the parabola through three neighbours."""
    if len(centres_mm) == 1:
        return (axis / np.linalg.norm(axis))[None]
    chord = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(centres_mm, axis=0), axis=1))])
    order: Literal[1, 2] = 1 if len(centres_mm) == 2 else 2
    derivative = np.asarray(np.gradient(centres_mm.T, chord, axis=1, edge_order=order)).T
    return derivative / np.linalg.norm(derivative, axis=1, keepdims=True)


def _dense_curve(centres: np.ndarray, tangents: np.ndarray,
                 gaps_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return closely spaced points of the curve and the caudal direction at each, both (M, 3).

    Within a body both follow its tangent. Around a disc the direction turns from one body's to the next
    one's, whatever way the points take: two bodies that stand a little beside each other bend the points
    to and fro, and cross-sections that followed would fold.
    """
    margin = MARGIN_ROWS + 1.0
    rigid_mm = _rigid_lengths(tangents, gaps_mm)
    above = np.concatenate([[margin], rigid_mm])[:, None]  # straight before each centre
    below = np.concatenate([rigid_mm, [margin]])[:, None]
    starts, ends = centres - above * tangents, centres + below * tangents
    points, caudal = [], []
    for n in range(len(centres)):
        points.append(_line(starts[n], ends[n]))
        caudal.append(np.broadcast_to(tangents[n], points[-1].shape))
        if n + 1 < len(centres):
            points.append(_hermite(ends[n], starts[n + 1], tangents[n], tangents[n + 1]))
            caudal.append(_turn(tangents[n], tangents[n + 1], len(points[-1])))
    points.append(ends[-1:])
    caudal.append(tangents[-1:])
    return np.concatenate(points), np.concatenate(caudal)


def _rigid_lengths(tangents: np.ndarray, gaps_mm: np.ndarray) -> np.ndarray:
    """Return how far the curve stays straight on either side of each gap between two centres, (n - 1,)."""
    cosines = np.sum(tangents[:-1] * tangents[1:], axis=1)
    angles = np.arccos(np.clip(cosines, -1.0, 1.0))
    bends_mm = 1.5 * angles * BODY_REACH_MM / TIGHTEST_BEND  # the smooth turn peaks at 1.5 times its mean
    return np.clip((gaps_mm - bends_mm) / 2, 0.0, RIGID_FRACTION * gaps_mm)


def _line(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return points from start to before end, (K, 3)."""
    count = max(2, int(np.linalg.norm(end - start) / DENSE_STEP_MM))
    return start + np.linspace(0.0, 1.0, count, endpoint=False)[:, None] * (end - start)


def _hermite(start: np.ndarray, end: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Return points of the cubic from start to before end with the given unit tangents, (K, 3)."""
    length = float(np.linalg.norm(end - start))
    t = np.linspace(0.0, 1.0, max(2, int(length / DENSE_STEP_MM)), endpoint=False)[:, None]
    return ((2 * t**3 - 3 * t**2 + 1) * start + (t**3 - 2 * t**2 + t) * length * first
            + (3 * t**2 - 2 * t**3) * end + (t**3 - t**2) * length * last)


def _turn(first: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """Return directions that turn smoothly from first to before last, (count, 3), not normalised."""
    t = np.linspace(0.0, 1.0, count, endpoint=False)[:, None]
    share = t * t * (3 - 2 * t)
    return (1 - share) * first + share * last


def _sample(points: np.ndarray, caudal: np.ndarray, labels: list[int], centres: np.ndarray,
            left: np.ndarray) -> Curve:
    """Sample a dense curve every mm of arc length and give each sample its frame."""
    arc_mm = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    rows = np.arange(int(arc_mm[-1]) + 1)
    positions, directions = (np.stack([np.interp(rows, arc_mm, values[:, d]) for d in range(3)], axis=1)
                             for values in (points, caudal))
    at_start = arc_mm[[int(np.argmin(np.linalg.norm(points - centre, axis=1))) for centre in centres]]
    return Curve(positions, _frames(directions, left), dict(zip(labels, at_start.tolist(), strict=True)))


def _frames(caudal: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return frames (N, 3, 3) along caudal directions (N, 3): the second axis is perpendicular to `left`."""
    first = caudal / np.linalg.norm(caudal, axis=1, keepdims=True)
    second = np.cross(left, first)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], axis=2)


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
        "labels": np.array(list(curve.centre_rows)),
        "centre_rows": np.array(list(curve.centre_rows.values())),
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
            rows = dict(zip(content["labels"].tolist(), content["centre_rows"].tolist(), strict=True))
            curve = Curve(content["positions_mm"], content["frames"], rows)
            first, second, third = content["scanner_shape"].tolist()
            return Geometry(curve, content["scanner_affine"], (first, second, third))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: expected the geometry of a straightened patient, found none "
                         f"({type(error).__name__}); run straighten/straighten_mask_3d.py") from error
