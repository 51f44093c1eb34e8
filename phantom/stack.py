"""The spine as a stack: where each vertebra stands, from the sacrum upwards.

World coordinates in mm: x to the left, y backwards, z upwards. Each vertebra stands on the disc below, each
disc on the endplate below it. A collapsed endplate lies lower and may tilt, so whatever stands above follows.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from phantom.vertebra import Vertebra


@dataclass(frozen=True)
class Disc:
    """The space between two bodies, at its anterior and posterior edge, and its lateral tilt."""

    anterior: float
    posterior: float
    lateral_deg: float


@dataclass(frozen=True)
class Spine:
    """Vertebrae from caudal to cranial; `discs[i]` lies above `vertebrae[i]`."""

    vertebrae: tuple[Vertebra, ...]
    discs: tuple[Disc, ...]
    base: np.ndarray  # pose of the lowest vertebra, 4 x 4

    @cached_property
    def poses(self) -> list[np.ndarray]:
        """Each vertebra's pose: local to world, 4 x 4, mm."""
        poses = [self.base]
        for below, disc, above in zip(self.vertebrae, self.discs, self.vertebrae[1:], strict=False):
            step = _support(below, upper=True) @ _disc(disc, below, above)
            poses.append(poses[-1] @ step @ np.linalg.inv(_support(above, upper=False)))
        return poses


def rotation(axis: int, degrees: float) -> np.ndarray:
    """Return the 4 x 4 rotation about a local axis; about x, positive tilts the top forwards."""
    angle = np.radians(degrees)
    matrix = np.eye(4)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def translation(x: float, y: float, z: float) -> np.ndarray:
    """Return the 4 x 4 shift by (x, y, z) mm."""
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


def _support(vertebra: Vertebra, *, upper: bool) -> np.ndarray:
    """Return the frame in which the neighbouring disc sits on an endplate: origin at the posterior rim."""
    body = vertebra.body
    rim = np.linspace(0.0, 2.0 * np.pi, 72, endpoint=False)
    x, y = 0.5 * body.width * np.sin(rim), -body.front * np.cos(rim)
    radius = body.radius(x, y)
    x, y = x / radius * 0.97, y / radius * 0.97
    healthy, now = body.endplates(x, y)[upper], vertebra.endplates(x, y)[upper]
    columns = np.stack([np.ones_like(x), x, y], axis=1)
    offset, tilt_x, tilt_y = np.linalg.lstsq(columns, now - healthy, rcond=None)[0]
    yielding = vertebra.collapse.disc_yield if vertebra.collapse else 1.0
    half_slope = 0.5 * (body.height_posterior - body.height_anterior) / body.depth
    slope = (half_slope if upper else -half_slope) + yielding * tilt_y
    height = (0.5 if upper else -0.5) * body.height_posterior + offset + tilt_y * body.back
    frame = translation(0.0, body.back, height) @ rotation(0, np.degrees(np.arctan(slope)))
    return frame @ rotation(1, -np.degrees(np.arctan(tilt_x)))


def _disc(disc: Disc, below: Vertebra, above: Vertebra) -> np.ndarray:
    """Return the step from the endplate below to the endplate above."""
    wedge = np.degrees(np.arctan((disc.anterior - disc.posterior) / below.body.depth))
    ease = 0.3 * (above.body.depth - below.body.depth)  # posterior walls line up, nearly
    return translation(0.0, ease, disc.posterior) @ rotation(0, -wedge) @ rotation(1, disc.lateral_deg)


def centre_of(pose: np.ndarray, vertebra: Vertebra) -> np.ndarray:
    """Return the world position of the middle of a body as it is, (3,), mm."""
    y = 0.5 * (vertebra.body.front + vertebra.body.back)
    lower, upper = vertebra.endplates(np.array(0.0), np.array(y))
    return (pose @ np.array([0.0, y, 0.5 * (float(lower) + float(upper)), 1.0]))[:3]


def curve_points(spine: Spine, spacing_mm: float = 1.0) -> np.ndarray:
    """Return even steps along the smooth curve through the bodies' middles, from the top, (N, 3), mm."""
    from scipy.interpolate import CubicSpline

    centres = np.array([centre_of(pose, one) for pose, one in zip(spine.poses, spine.vertebrae,
                                                                 strict=True)])[::-1]
    curve = CubicSpline(_lengths(centres), centres)
    dense = curve(np.linspace(0.0, curve.x[-1], 20 * len(centres)))
    length = _lengths(dense)
    steps = np.arange(0.0, length[-1], spacing_mm)
    return np.stack([np.interp(steps, length, dense[:, i]) for i in range(3)], axis=1)


def _lengths(points: np.ndarray) -> np.ndarray:
    """Return the length from the first point to each along the straight lines between them, (N,), mm."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
