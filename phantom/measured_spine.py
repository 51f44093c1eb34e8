"""A spine as the project itself measures it: curve, bodies and their heights, from a mask alone."""

from dataclasses import dataclass

import numpy as np

from phantom.body_columns import BodyColumns, body_columns, local_frame, pressed_heights, whole_heights
from straighten.bodies import Body, Boxes, fit_curve, label_boxes
from straighten.curve import Curve
from straighten.locate import locate_bodies
from straighten.sampling import grid_mm, thinned
from util.body_heights import third_heights_mm
from util.errors import InputError
from util.volume import Volume

SURFACE_MM = 1  # a mask's surface may lie so far outside the body as it was straightened


@dataclass(frozen=True)
class MeasuredSpine:
    """What the straightening sees in a mask.

    Attributes:
        mask: the scanner's, thinned where its voxels are fine.
        boxes: of its labels.
        curve: through the whole bodies.
        bodies: of these, on the curve.
        left_out: why other labels have no whole body.
    """

    mask: Volume
    boxes: Boxes
    curve: Curve
    bodies: dict[int, Body]
    left_out: dict[int, str]

    def heights_mm(self, label: int, loss: np.ndarray | float = 0.0) -> np.ndarray:
        """Return the anterior, middle and posterior height (3,) in mm; `loss` as in `pressed_heights`."""
        return third_heights_mm(pressed_heights(whole_heights(self.bodies[label].voxels), loss))[:3]

    def columns(self, label: int) -> BodyColumns:
        """Return a body's columns in its rigid frame."""
        return body_columns(self.mask, self.boxes, label, local_frame(self.curve, label))


def measure_spine(mask: Volume) -> MeasuredSpine:
    """Find the whole bodies of a mask and the curve through them, as the stages do.

    Raises:
        InputError: there is no whole body.
    """
    centres_mm, left_out = locate_bodies(mask)
    labels = thinned(mask)
    boxes = label_boxes(labels)
    if not centres_mm:
        found = ", ".join(f"label {label}: {reason}" for label, reason in left_out.items())
        raise InputError(f"mask: expected at least one whole vertebra, found none "
                         f"({found or 'it is empty'}); check the mask")
    return MeasuredSpine(labels, boxes, *fit_curve(labels, boxes, centres_mm), left_out)


def bodies_on_scanner(mask: Volume, spine: MeasuredSpine) -> np.ndarray:
    """Return the vertebral bodies on the scanner's grid, labelled: the mask without arches, uint8."""
    from scipy.ndimage import binary_dilation

    posterior, left = grid_mm()
    result = np.zeros(mask.array.shape, np.uint8)
    boxes = label_boxes(mask)
    for label, body in spine.bodies.items():
        near = binary_dilation(body.voxels, iterations=SURFACE_MM)
        voxels = np.argwhere(mask.array[boxes[label]] == label) + [side.start for side in boxes[label]]
        points = spine.curve.from_world(voxels @ mask.affine[:3, :3].T + mask.affine[:3, 3])
        index = np.rint(points - [body.rows.start, posterior[0], left[0]]).astype(int)
        inside = ((index >= 0) & (index < near.shape)).all(axis=1)
        inside[inside] = near[tuple(index[inside].T)]
        result[tuple(voxels[inside].T)] = label
    return result
