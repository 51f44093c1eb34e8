"""What a collapse does to one vertebra and all that stands on it, as a map from after to before.

Everything is given in the vertebra's rigid frame (`phantom.body_columns`), after the collapse. Four parts
move: the body's columns are pressed; its arch keeps its shape at the height of the posterior wall's middle;
what is above and what is below each move rigidly with the endplate's rim. At last all is moved back so that
what is below stands where it stood. Between the parts the displacement is blended (`phantom.press_weights`).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from phantom.body_columns import BodyColumns, LocalFrame
from straighten.sampling import CURVE_COLUMN, CURVE_SLICE

ENDPLATE_MM = 1.5    # bone at either endplate that keeps its thickness
ENDPLATE_SHARE = 0.2  # of a pressed column's height that an endplate takes at most


@dataclass(frozen=True)
class Rigid:
    """A rigid motion of local points: turn (3, 3) about a hinge (3,), then shift (3,)."""

    turn: np.ndarray
    hinge: np.ndarray
    shift: np.ndarray

    def forward(self, points: np.ndarray) -> np.ndarray:
        """Move points (..., 3)."""
        return (points - self.hinge) @ self.turn.T + self.hinge + self.shift

    def backward(self, points: np.ndarray) -> np.ndarray:
        """Return where points (..., 3) come from."""
        return (points - self.shift - self.hinge) @ self.turn + self.hinge


@dataclass(frozen=True)
class Press:
    """One collapse.

    Attributes:
        frame: of the vertebra.
        columns: of its body, before.
        lost: (COLUMNS, SLICES) mm that every column loses.
        upper_share: of the loss, how much the upper endplate comes down; the rest comes up.
        yielding: share 0..1 of an endplate's tilt that the neighbour follows; its disc takes the rest.
        bulge_mm: how far the wall comes outwards at half height.
    """

    frame: LocalFrame
    columns: BodyColumns
    lost: np.ndarray
    upper_share: float
    yielding: float
    bulge_mm: float = 0.0

    @cached_property
    def above(self) -> Rigid:
        """The motion of what stands on the upper endplate: caudal."""
        return self._following(self.upper_share * self.lost, self.columns.top)

    @cached_property
    def below(self) -> Rigid:
        """The motion of what the lower endplate stands on: cranial."""
        return self._following((self.upper_share - 1.0) * self.lost, self.columns.bottom)

    @cached_property
    def arch(self) -> Rigid:
        """The motion of the arch: with the middle of the posterior wall, where the pedicles arise."""
        shift = 0.5 * (self.above.shift + self.below.shift)
        return Rigid(np.eye(3), np.zeros(3), shift)

    def _following(self, caudal_mm: np.ndarray, endplate: np.ndarray) -> Rigid:
        """Return the rigid motion that an endplate's rim asks for, given how far each column moves it."""
        from scipy.spatial.transform import Rotation

        columns = self.columns
        shift, backwards, leftwards = columns.rim_plane(caudal_mm)
        tilt = np.arctan(self.yielding * np.array([backwards, leftwards]))
        hinge = np.array([columns.rim_plane(endplate)[0], columns.back, columns.middle])
        turn = Rotation.from_rotvec([0.0, tilt[1], -tilt[0]]).as_matrix()
        return Rigid(turn, hinge, np.array([shift, 0.0, 0.0]))

    def endplates_after(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the caudal coordinate of the upper and lower endplate afterwards, (COLUMNS, SLICES) mm."""
        columns = self.columns
        return (columns.top + self.upper_share * self.lost,
                columns.bottom - (1.0 - self.upper_share) * self.lost)

    def body_backward(self, points: np.ndarray) -> np.ndarray:
        """Return where points (N, 3) of the body come from; beyond its endplates, as their bone does."""
        points = self._bulge_backward(points)
        top, height, lost = self._at(points)
        endplate, ratio = _inner(height, lost)
        depth = points[:, 0] - top - self.upper_share * lost                 # below the upper endplate
        inner = np.clip(depth - endplate, 0.0, height - lost - 2.0 * endplate)
        return np.column_stack([top + depth + inner * (ratio - 1.0), points[:, 1:]])

    def compaction(self, points: np.ndarray) -> np.ndarray:
        """Return how many times denser the bone at points (N, 3) of the body is afterwards."""
        top, height, lost = self._at(points)
        endplate, ratio = _inner(height, lost)
        depth = points[:, 0] - top - self.upper_share * lost
        inside = np.minimum(depth, height - lost - depth) / (2.0 * endplate)
        return 1.0 + (ratio - 1.0) * np.clip(inside, 0.0, 1.0)

    def _at(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return upper endplate and height before, and lost mm, of the columns that points (N, 3) are on."""
        index = points[:, 1:].T + np.array([[CURVE_COLUMN], [CURVE_SLICE]])
        top, height, lost = (_table(values, index)
                             for values in (self.columns.top, self.columns.height, self.lost))
        return top, height, lost

    def _bulge_backward(self, points: np.ndarray) -> np.ndarray:
        """Take the wall's bulge out of points (N, 3): widest at half height, gone a depth outside."""
        if not self.bulge_mm:
            return points
        columns = self.columns
        centre = np.array([0.5 * (columns.front + columns.back), columns.middle])
        half = 0.5 * np.array([columns.back - columns.front, columns.width])
        offset = points[:, 1:] - centre
        radius = np.hypot(*(offset / half).T)                                # 0 in the middle, 1 at the wall
        top, height, lost = self._at(points)
        level = 2.0 * (points[:, 0] - top - self.upper_share * lost) / (height - lost) - 1.0
        stretch = self.bulge_mm / half.mean() * np.clip(1.0 - level * level, 0.0, 1.0)
        wall = 1.0 + stretch                                                 # where the wall now is
        source = np.where(radius < wall, radius / wall, 1.0 + (radius - wall) / (2.0 - wall))
        scale = np.where(radius < 2.0, source / np.maximum(radius, 1e-9), 1.0)
        return np.column_stack([points[:, 0], centre + offset * scale[:, None]])


def _inner(height: np.ndarray, lost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the endplate's thickness in mm, and how many mm become one between the endplates."""
    endplate = np.minimum(ENDPLATE_MM, ENDPLATE_SHARE * (height - lost))
    return endplate, (height - 2.0 * endplate) / (height - lost - 2.0 * endplate)


def _table(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return a table's values at places (2, N), linearly; beyond its edge, the edge's."""
    from scipy.ndimage import map_coordinates

    return map_coordinates(values, index, order=1, mode="nearest")
