"""What a baseline sees of a straightened case: the bodies around the target, and the target's own heights."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from data.straightened import read_straightened
from evaluation.baseline.body_shape import BodyShape, body_shape
from util.body_heights import (
    UndefinedHeightError,
    ends_with_the_scan,
    measure_body,
    own_body,
    third_heights_mm,
)
from util.vertebrae import ANATOMICAL_ORDER, LABELS, OPTIONAL_LABELS, Cohort, healthy_labels, split_case
from util.volume import Volume

MOST_STEPS = 4  # levels from the target to a neighbour that still counts


@dataclass(frozen=True)
class MeasuredBody:
    """A body that is wholly in the scan: heights of the thirds and overall (4,) mm, and its shape."""

    heights_mm: np.ndarray
    shape: BodyShape


@dataclass(frozen=True)
class Surroundings:
    """A target and what is around it.

    Attributes:
        label: the target's.
        bodies: every measured body, the target's own too where it has heights.
        healthy: labels of `bodies` that a reference may be taken from; never the target's.
        own_reason: why the target has no heights of its own; empty if it has.
        labels: (rows, columns, slices) straightened label volume, rows of 1 mm; None where no mask is wanted.
    """

    label: int
    bodies: dict[int, MeasuredBody]
    healthy: frozenset[int]
    own_reason: str = ""
    labels: np.ndarray | None = None

    @property
    def own_heights_mm(self) -> np.ndarray:
        """The target's own heights (4,), NaN where it has none."""
        own = self.bodies.get(self.label)
        return np.full(4, np.nan) if own is None else own.heights_mm


def steps_away(label: int, present: Collection[int], direction: int) -> Iterator[tuple[int, int]]:
    """Yield number of steps and label of the vertebrae on one side of a vertebra, nearest first.

    T13 and L6 count as a step only where they are present; of the others also those that are absent count.

    Args:
        label: VerSe's.
        present: labels in the volume.
        direction: -1 upwards, 1 downwards.
    """
    order = [other for other in ANATOMICAL_ORDER
             if other not in OPTIONAL_LABELS or other in present or other == label]
    side = order[order.index(label) + 1:] if direction > 0 else order[:order.index(label)][::-1]
    yield from ((steps, other) for steps, other in enumerate(side[:MOST_STEPS], 1) if other in present)


def nearest_healthy(surroundings: Surroundings) -> dict[int, tuple[int, int]]:
    """Return steps and label of the nearest healthy vertebra by direction, -1 above and 1 below."""
    found = {}
    for direction in (-1, 1):
        side = steps_away(surroundings.label, set(surroundings.bodies) | {surroundings.label}, direction)
        for steps, other in side:
            if other in surroundings.healthy:
                found[direction] = steps, other
                break
    return found


def measure_surroundings(labels: np.ndarray, label: int, healthy: Collection[int],
                         content: np.ndarray) -> Surroundings:
    """Measure the target and the bodies around it.

    Args:
        labels: (rows, columns, slices) straightened label volume, rows of 1 mm.
        label: the target; it must be present.
        healthy: labels that count as healthy; the target's is left out.
        content: the same shape, boolean: where the scan has voxels. A body that ends with the scan is not
            measured.
    """
    from scipy.ndimage import find_objects

    boxes = {value: box for value, box in enumerate(find_objects(labels), 1) if box is not None}
    near = [label] + [other for direction in (-1, 1) for _, other in steps_away(label, boxes, direction)]
    bodies: dict[int, MeasuredBody] = {}
    reasons: dict[int, str] = {}
    for other in near:
        measured = _measured(labels, content, other, boxes[other])
        if isinstance(measured, str):
            reasons[other] = measured
        else:
            bodies[other] = measured
    reason = f"the vertebra's own body {reasons[label]}" if label in reasons else ""
    return Surroundings(label, bodies, frozenset((set(healthy) & set(bodies)) - {label}), reason, labels)


def _measured(labels: np.ndarray, content: np.ndarray, label: int,
              box: tuple[slice, slice, slice]) -> MeasuredBody | str:
    """Return heights and shape of the body in a box of the volume, or why it has none."""
    rows = slice(max(box[0].start - 1, 0), box[0].stop + 1)  # one around: a body at the edge is cut off
    part = (rows, *box[1:])
    mask = own_body(labels[part], label)
    if ends_with_the_scan(mask, content[part]):
        return "is cut off by the scan's end"
    try:
        body = measure_body(mask)
    except UndefinedHeightError as error:
        return str(error)
    shape = body_shape(mask, body)
    centre = shape.centre + np.array([box[1].start, box[2].start])
    return MeasuredBody(third_heights_mm(body), replace(shape, centre=centre))


def read_surroundings(dataroot: str | Path, case: str, cohort: Cohort) -> Surroundings:
    """Read and measure a case; healthy is what the cohort does not grade above 0, so also what it lacks.

    Raises:
        InputError: as `read_straightened`.
    """
    return surroundings_of(case, *read_straightened(dataroot, case), cohort)


def surroundings_of(case: str, ct: Volume, labels: Volume, cohort: Cohort) -> Surroundings:
    """Measure a case whose straightened volumes are read, see `read_surroundings`."""
    patient, label = split_case(case)
    return measure_surroundings(labels.array, label, healthy_labels(cohort, patient, LABELS), ct.array > 0)
