"""The curve through the vertebral bodies: from their centres to positions and frames.

The curve runs straight through the middle of every body and bends only around the discs. A curve that
bends everywhere presses one side of a body and stretches the other (at a radius of 120 mm an anterior
wall 16 mm before the curve would come out 13 % wrong); this one keeps bodies rigid and their heights true.
Where two bodies are tilted too much for their disc, as around a wedge fracture, the bend takes as much of
the bodies as it needs to stay so wide that no cross-section meets another within them.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

from straighten.curve import Curve
from util.errors import InputError
from util.vertebrae import ANATOMICAL_ORDER

WORLD_LEFT = np.array([-1.0, 0.0, 0.0])
MARGIN_ROWS = 160       # straight rows beyond the outermost bodies; a straightened volume needs 128
RIGID_FRACTION = 0.36   # of the distance between two centres; a body's half height is 0.36 to 0.4 of it
BODY_REACH_MM = 22.0    # how far bodies reach before and behind the curve
TIGHTEST_BEND = 0.7     # of the curvature at which cross-sections would meet within a body and fold it
SMOOTHING_MM2 = 100.0   # displaces by 0.2 to 1 mm; more flattens the lordosis of L4 and L5
DENSE_STEP_MM = 0.05    # of the polyline from which the 1 mm samples are taken


def curve_through(centres_mm: Mapping[int, np.ndarray], *, axes: Mapping[int, np.ndarray] | None = None,
                  left: np.ndarray = WORLD_LEFT) -> Curve:
    """Return the smooth curve through the centres of vertebral bodies.

    Args:
        centres_mm: world position (3,) by label, at least one.
        axes: known caudal directions (3,) by label; the other vertebrae's follow from the centres.
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
    smooth = smoothed(centres)
    tangents = centre_tangents(smooth)
    for label, axis in (axes or {}).items():
        tangents[labels.index(label)] = axis
    positions, frames = _sample(*_dense_curve(smooth, tangents), left)
    curve = Curve(positions, frames, {})
    return Curve(positions, frames, dict(zip(labels, curve.from_world(centres), strict=True)))


def smoothed(centres_mm: np.ndarray) -> np.ndarray:
    """Return centres (n, 3) moved by about a millimetre so that the curvature changes evenly along them.

    Spurs and the cut through the pedicles displace a body's centroid by 1 or 2 mm, which would tilt the
    frames by several degrees. Least squares: displacement against SMOOTHING_MM2 times the change of
    curvature, so that an arc of a circle stays as it is.
    """
    count = len(centres_mm)
    if count < 4:
        return centres_mm
    gaps_mm = np.linalg.norm(np.diff(centres_mm, axis=0), axis=1)
    directions = np.diff(np.eye(count), axis=0) / gaps_mm[:, None]           # (n - 1, n)
    curvature_change = np.diff(directions, n=2, axis=0)                      # (n - 3, n)
    return np.linalg.solve(np.eye(count) + SMOOTHING_MM2 * curvature_change.T @ curvature_change, centres_mm)


def centre_tangents(centres_mm: np.ndarray) -> np.ndarray:
    """Return the unit caudal direction at each centre, (n, 3): of the parabola through three neighbours.

    One centre alone has none; straight down is the first guess.
    """
    if len(centres_mm) == 1:
        return np.array([[0.0, 0.0, -1.0]])
    chord = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(centres_mm, axis=0), axis=1))])
    order: Literal[1, 2] = 1 if len(centres_mm) == 2 else 2
    derivative = np.asarray(np.gradient(centres_mm.T, chord, axis=1, edge_order=order)).T
    return derivative / np.linalg.norm(derivative, axis=1, keepdims=True)


def _dense_curve(centres: np.ndarray, tangents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return closely spaced points of the curve and the caudal direction at each, both (M, 3).

    Within a body both follow its tangent. Around a disc the direction turns from one body's to the next
    one's, whatever way the points take: two bodies that stand a little beside each other bend the points
    to and fro, and cross-sections that followed would fold.
    """
    margin = MARGIN_ROWS + 1.0
    rigid_mm = _rigid_lengths(tangents, np.linalg.norm(np.diff(centres, axis=0), axis=1))
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


def _sample(points: np.ndarray, caudal: np.ndarray, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample a dense curve every mm of arc length: positions (N, 3) and frames (N, 3, 3)."""
    arc_mm = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    rows = np.arange(int(arc_mm[-1]) + 1)
    positions, directions = (np.stack([np.interp(rows, arc_mm, values[:, d]) for d in range(3)], axis=1)
                             for values in (points, caudal))
    return positions, _frames(directions, left)


def _frames(caudal: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return frames (N, 3, 3) along caudal directions (N, 3): the second axis is perpendicular to `left`."""
    first = caudal / np.linalg.norm(caudal, axis=1, keepdims=True)
    second = np.cross(left, first)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], axis=2)
