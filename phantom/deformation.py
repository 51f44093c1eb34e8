"""The map of a virtual fracture, from every place after it to the place that its tissue had before.

Several collapses follow each other from the top: each moves what stands above its vertebra and leaves what is
below, so that the next one finds its vertebra where it was. The map is asked the other way round, from the
lowest up.
"""

from dataclasses import dataclass

import numpy as np

from phantom.press import Press
from phantom.press_weights import LabelsAt, Weights, blend, press_weights
from util.vertebrae import ANATOMICAL_ORDER
from util.volume import Volume


@dataclass(frozen=True)
class Collapsed:
    """One collapse and its weights."""

    press: Press
    weights: Weights

    def backward(self, world_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where world points (N, 3) come from, and how many times denser bone is there, (N,)."""
        press, weights = self.press, self.weights
        local = press.frame.to_local(world_mm)
        points = press.below.forward(local)       # what is below stands where it stood
        compaction = np.ones(len(points))
        first, last = weights.rows
        rigid = points[:, 0] < first
        source = np.where(rigid[:, None], press.above.backward(points), local)
        near = np.flatnonzero(~rigid & (points[:, 0] <= last))
        if near.size:
            *shares, unfolded = weights.at(points[near])
            source[near] = blend(press, shares, points[near])
            source[near, 0] += unfolded
            denser = press.compaction(points[near])
            compaction[near] = 1.0 + shares[2] * (denser - 1.0)
        return press.frame.to_world(source), compaction


@dataclass(frozen=True)
class Deformation:
    """All collapses of a spine, cranial to caudal."""

    collapsed: tuple[Collapsed, ...] = ()

    def backward(self, world_mm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where world points (N, 3) come from in mm, and how many times denser bone is there, (N,)."""
        compaction = np.ones(len(world_mm))
        for one in reversed(self.collapsed):
            world_mm, denser = one.backward(world_mm)
            compaction *= denser
        return world_mm, compaction


def deform(mask: Volume, presses: dict[int, Press]) -> Deformation:
    """Return the deformation that collapses vertebrae of a mask.

    Args:
        mask: before any of them.
        presses: the collapse of each, by label.
    """
    deformation = Deformation()
    order = list(ANATOMICAL_ORDER)
    for label in sorted(presses, key=order.index):
        place = order.index(label)
        weights = press_weights(presses[label], _labels_before(mask, deformation), label,
                                set(order[:place]), set(order[place + 1:]))
        deformation = Deformation((*deformation.collapsed, Collapsed(presses[label], weights)))
    return deformation


def _labels_before(mask: Volume, deformation: Deformation) -> LabelsAt:
    """Return the mask as it is after the collapses so far, as a function of world points (N, 3)."""
    to_voxel = np.linalg.inv(mask.affine)
    last = np.array(mask.array.shape) - 1

    def labels_at(world_mm: np.ndarray) -> np.ndarray:
        source = deformation.backward(world_mm)[0]
        voxel = np.rint(source @ to_voxel[:3, :3].T + to_voxel[:3, 3]).astype(np.intp)
        inside = ((voxel >= 0) & (voxel <= last)).all(axis=1)
        return np.where(inside, mask.array[tuple(np.clip(voxel, 0, last).T)], 0)

    return labels_at
