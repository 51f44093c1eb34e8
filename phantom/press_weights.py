"""How much each part decides where a point comes from: 1 on its own bone, blended in between.

A lattice of 1 mm around the vertebra, in its frame and after the collapse. Each part's core is its bone;
where two parts meet, at the facets and between spinous processes, the cores keep apart so that the
displacement has room to change. A point between cores follows each by the inverse of its distance: two cores
share the way between them evenly, which is as far from folding as can be. What folds all the same is
put right along its column.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from phantom.body_columns import BodyColumns
from phantom.press import Press
from straighten.sampling import CURVE_COLUMN, CURVE_SLICE

REACH_MM = 50          # of the lattice above and below the body; beyond it all is rigid
FRONT_MM, BACK_MM, ASIDE_MM = 20, 72, 46  # of the lattice around the body's walls and midline
MARGIN_MM = 1.0        # around bone that moves with it: the lattice's own step
PEDICLE_MM = 5.0       # from the body to the rigid arch
CLEARANCE_MM = 1.0     # between two parts that do not move against each other
BEHIND_MM = 2.0        # behind the posterior wall; before it there are bodies, which are never bent
NEIGHBOUR_DISC_MM, NEIGHBOUR_MM = 8.0, 20.0  # where a neighbour is taken to be if no mask shows it
LEAST_SLOPE = 0.12     # of the source along a column: below it comes a fold
NEAR_MM = 1e-6

LabelsAt = Callable[[np.ndarray], np.ndarray]  # world points (N, 3) -> labels (N,) before this collapse


@dataclass(frozen=True)
class Weights:
    """Fields on the lattice (rows, columns, slices); `first` is its first node, local mm.

    Attributes:
        above, below, body: share 0..1; the arch has the rest.
        unfolded: mm by which the source is moved caudally so that no column folds.
    """

    first: np.ndarray
    above: np.ndarray
    below: np.ndarray
    body: np.ndarray
    unfolded: np.ndarray

    @property
    def rows(self) -> tuple[float, float]:
        """First and last caudal coordinate of the lattice."""
        return float(self.first[0]), float(self.first[0] + self.above.shape[0] - 1)

    def at(self, points: np.ndarray) -> list[np.ndarray]:
        """Return above, below, body, unfolded at points (N, 3); beside the lattice as at its edge."""
        from scipy.ndimage import map_coordinates

        index = (points - self.first).T
        return [map_coordinates(field, index, order=1, mode="nearest", output=np.float64)
                for field in (self.above, self.below, self.body, self.unfolded)]


def press_weights(press: Press, labels_at: LabelsAt, label: int, upper: set[int], lower: set[int]) -> Weights:
    """Return the weights of a collapse.

    Args:
        press: the collapse.
        labels_at: the mask before it.
        label: of the vertebra.
        upper, lower: labels of all vertebrae above and below it.
    """
    first, nodes = _lattice(press.columns)
    shape = nodes.shape[:3]
    points = nodes.reshape(-1, 3)

    def found(moved: np.ndarray, labels: set[int]) -> np.ndarray:
        world = press.frame.to_world(moved.reshape(-1, 3))
        return np.isin(labels_at(world), list(labels)).reshape(shape)

    above = found(press.above.backward(points), upper)
    below = found(press.below.backward(points), lower)
    body = _body_core(press, nodes, press.endplates_after()) & ~above & ~below
    away = _distance(body)
    before = nodes - press.arch.shift
    arch = found(before, {label}) & ~_body_core(press, before, (press.columns.top, press.columns.bottom))
    arch &= (away >= PEDICLE_MM) & ~above & ~below
    cores = _cores(press, nodes, body, above, below, arch)
    cores[0] |= _beyond(press, nodes, upper=True, known=bool(above.any())) & ~below & ~arch & ~body
    cores[1] |= _beyond(press, nodes, upper=False, known=bool(below.any())) & ~above & ~arch & ~body
    shares = [1.0 / (distance + NEAR_MM) for distance in (*map(_distance, cores), away)]
    total = sum(shares)
    weights = [share / total for share in shares]
    flat = Weights(first, weights[0], weights[1], weights[3], np.zeros(shape, np.float32))
    source = blend(press, [flat.above.ravel(), flat.below.ravel(), flat.body.ravel()], points)
    rows = source[:, 0].reshape(shape)
    return Weights(first, flat.above, flat.below, flat.body, monotone(rows, _middle(press, first)) - rows)


def blend(press: Press, shares: list[np.ndarray], points: np.ndarray) -> np.ndarray:
    """Return where points (N, 3) come from, given the shares (N,) of above, below and body."""
    above, below, body = (share[:, None] for share in shares)
    return (above * press.above.backward(points) + below * press.below.backward(points)
            + body * press.body_backward(points)
            + (1.0 - above - below - body) * press.arch.backward(points))


def monotone(rows: np.ndarray, middle: int) -> np.ndarray:
    """Return values that rise by LEAST_SLOPE at least along axis 0; unchanged where they do already.

    Row `middle` keeps its values, and whatever folds yields outwards from there: the body is pressed exactly
    as commanded, and the disc or spur beside it takes what is left.
    """
    ramp = LEAST_SLOPE * np.arange(rows.shape[0]).reshape(-1, 1, 1)
    level = rows - ramp
    cranial = np.minimum.accumulate(level[middle::-1], axis=0)[::-1]
    caudal = np.maximum.accumulate(level[middle:], axis=0)
    return np.concatenate([cranial, caudal[1:]]) + ramp


def _middle(press: Press, first: np.ndarray) -> int:
    """Return the row of the lattice that crosses the body between its endplates afterwards."""
    top, bottom = (table[press.columns.footprint] for table in press.endplates_after())
    return int(np.rint(0.5 * (top.max() + bottom.min()) - first[0]))


def _lattice(columns: BodyColumns) -> tuple[np.ndarray, np.ndarray]:
    """Return the lattice's first node (3,) and all nodes (rows, columns, slices, 3), local mm."""
    low = np.floor([columns.top.min() - REACH_MM, columns.front - FRONT_MM, columns.middle - ASIDE_MM])
    high = np.ceil([columns.bottom.max() + REACH_MM, columns.back + BACK_MM, columns.middle + ASIDE_MM])
    axes = [np.arange(a, b + 1.0) for a, b in zip(low, high, strict=True)]
    return low, np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _columns_at(table: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Return a table's value on every column of the lattice, (columns, slices)."""
    column = np.clip(nodes[0, :, 0, 1].astype(int) + CURVE_COLUMN, 0, table.shape[0] - 1)
    side = np.clip(nodes[0, 0, :, 2].astype(int) + CURVE_SLICE, 0, table.shape[1] - 1)
    return table[np.ix_(column, side)]


def _body_core(press: Press, nodes: np.ndarray, endplates: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return which nodes are the body between its endplates, a margin around it included."""
    from scipy.ndimage import binary_dilation

    top, bottom = (_columns_at(table, nodes) for table in endplates)
    reach = 1 + int(np.ceil(press.bulge_mm + MARGIN_MM))
    footprint = binary_dilation(_columns_at(press.columns.footprint, nodes), iterations=reach)
    row = nodes[..., 0]
    return footprint & (row >= top - MARGIN_MM) & (row <= bottom + MARGIN_MM)


def _cores(press: Press, nodes: np.ndarray, body: np.ndarray, *bones: np.ndarray) -> list[np.ndarray]:
    """Return the cores of bones with a margin: without what lies close to another part behind the bodies."""
    from scipy.ndimage import binary_dilation

    apart = CLEARANCE_MM + max(abs(float(press.above.shift[0])), abs(float(press.below.shift[0])))
    distances = [_distance(bone) for bone in bones]
    free = ~np.logical_or.reduce([*bones, body])
    behind = nodes[..., 1] > press.columns.back + BEHIND_MM
    cores = []
    for index, bone in enumerate(bones):
        others = np.minimum.reduce([one for other, one in enumerate(distances) if other != index])
        cores.append((bone | (binary_dilation(bone) & free)) & ~(behind & (others < apart)))
    return cores


def _beyond(press: Press, nodes: np.ndarray, *, upper: bool, known: bool) -> np.ndarray:
    """Return the nodes at one end of the lattice, and those of a neighbour that no mask shows."""
    endplate = press.endplates_after()[0 if upper else 1]
    plane, sign = _columns_at(endplate, nodes), -1.0 if upper else 1.0
    outside = sign * (nodes[..., 0] - plane)
    end = outside >= REACH_MM - 2.0
    if known:
        return end
    footprint = _columns_at(press.columns.footprint, nodes)
    return end | (footprint & (outside >= NEIGHBOUR_DISC_MM)
                  & (outside <= NEIGHBOUR_DISC_MM + NEIGHBOUR_MM))


def _distance(core: np.ndarray) -> np.ndarray:
    """Return the distance in mm to a core, 0 on it; far where there is none."""
    from scipy.ndimage import distance_transform_edt

    if not core.any():
        return np.full(core.shape, 1e3, np.float32)
    return distance_transform_edt(~core).astype(np.float32)
