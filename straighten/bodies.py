"""The vertebral bodies of a patient on the straightened grid, and their centres in the scanner's world."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from straighten.curve import Curve
from straighten.curve_fit import curve_through
from straighten.endplates import endplate_axis
from straighten.morphology import dilate
from straighten.sampling import LabelSurface, grid_mm
from straighten.vertebral_body import extract_body
from util.vertebrae import ANATOMICAL_ORDER
from util.volume import Volume

WINDOW_ROWS = 50           # on either side of a body's centre; a body is at most 45 high, and may be tilted
BORDER_FACE_MM2 = 20       # of a body in one of the scan's border planes from which on it counts as cut off
BORDER_REACH_MM = 2        # smoothing draws a cut surface in
CENTRE_TOLERANCE_MM = 3.0  # a curve further from a body than this is drawn anew
MINIMUM_BODY_MM3 = 1000
FURTHEST_TURN = np.deg2rad(40.0)  # endplates that differ more from the curve are misread
UPRIGHT_ROUNDS = 3         # in which the outermost bodies turn; a fourth turns none by 2 degrees

Boxes = dict[int, tuple[slice, slice, slice]]
Surfaces = Mapping[int, LabelSurface]


@dataclass(frozen=True)
class Body:
    """One vertebral body on the straightened grid.

    Attributes:
        rows: of the curve that the window covers.
        voxels: (R, COLUMNS, SLICES) bool.
    """

    rows: slice
    voxels: np.ndarray

    @property
    def centroid(self) -> np.ndarray:
        """Return the centroid as a straightened point (row, posterior mm, left mm)."""
        posterior, left = grid_mm()
        row, column, side = np.argwhere(self.voxels).mean(axis=0)
        return np.array([row + self.rows.start, column + posterior[0], side + left[0]])

    @property
    def volume_mm3(self) -> int:
        """Return the number of voxels, of 1 mm each."""
        return int(self.voxels.sum())


def label_boxes(mask: Volume) -> Boxes:
    """Return the bounding box of each label in a mask."""
    from scipy.ndimage import find_objects

    return {number: box for number, box in enumerate(find_objects(mask.array), start=1) if box is not None}


def label_surfaces(mask: Volume, boxes: Boxes, labels: Iterable[int]) -> Surfaces:
    """Return the surface of each of some labels in a mask."""
    return {label: LabelSurface.of(mask, boxes[label], label) for label in labels}


def straightened_bodies(surfaces: Surfaces, curve: Curve) -> dict[int, Body]:
    """Return the body of each of the curve's vertebrae that has a surface, and a body within it."""
    bodies = {}
    for label in filter(surfaces.__contains__, curve.centres):
        row = int(curve.target_point(label)[0])
        rows = slice(row - WINDOW_ROWS, row + WINDOW_ROWS)
        voxels = extract_body(surfaces[label].sample(curve, rows))
        if voxels.sum() >= MINIMUM_BODY_MM3:
            bodies[label] = Body(rows, voxels)
    return bodies


def centres_in_world(bodies: dict[int, Body], curve: Curve) -> dict[int, np.ndarray]:
    """Return the world position (3,) in mm of each body's centroid."""
    return {label: curve.to_world(body.centroid) for label, body in bodies.items()}


def recentre(surfaces: Surfaces, centres_mm: dict[int, np.ndarray]) -> tuple[Curve, dict[int, Body]]:
    """Return the curve through given centres, or the bodies' own where those are missed, and the bodies.

    Args:
        surfaces: of the labels in the scanner's mask.
        centres_mm: world position (3,) by label, of these labels.
    """
    curve = curve_through(centres_mm)
    bodies = straightened_bodies(surfaces, curve)
    missed = len(bodies) < len(centres_mm) or _largest_miss_mm(bodies, curve) > CENTRE_TOLERANCE_MM
    if bodies and missed:
        curve = curve_through(centres_in_world(bodies, curve))
        bodies = straightened_bodies(surfaces, curve)
    return curve, bodies


def fit_curve(mask: Volume, boxes: Boxes, centres_mm: dict[int, np.ndarray]) -> tuple[Curve, dict[int, Body]]:
    """Return the curve through given centres and the bodies on it, the outermost of them upright.

    They stand upright by their own endplates: at the ends the centres alone leave the direction open by 10
    degrees and more, which shears the body. A body that the scan cuts off has no endplates to go by.

    Args:
        mask: the scanner's.
        boxes: of its labels.
        centres_mm: world position (3,) by label, of labels in the mask.
    """
    surfaces = label_surfaces(mask, boxes, centres_mm)
    curve, bodies = recentre(surfaces, centres_mm)
    whole = [label for label in ANATOMICAL_ORDER
             if label in bodies and not is_cut_off(label, bodies[label], curve, mask)]
    if not whole:
        return curve, bodies
    centres_mm = {label: curve.to_world(curve.centres[label]) for label in bodies}
    drawn, outermost = curve, {label: bodies[label] for label in (whole[0], whole[-1])}
    for _ in range(UPRIGHT_ROUNDS):
        axes = _own_axes(outermost, curve)
        curve = curve_through(centres_mm, axes={label: axis for label, axis in axes.items()
                                                if axis @ _caudal(drawn, label) > np.cos(FURTHEST_TURN)})
        outermost = straightened_bodies({label: surfaces[label] for label in outermost}, curve)
    others = {label: surface for label, surface in surfaces.items() if label not in outermost}
    bodies = outermost | straightened_bodies(others, curve)
    return curve, {label: bodies[label] for label in curve.centres if label in bodies}


def _caudal(curve: Curve, label: int) -> np.ndarray:
    """Return the curve's caudal direction (3,) at a body."""
    return curve.frames[curve.target_point(label)[0], :, 0]


def _own_axes(bodies: dict[int, Body], curve: Curve) -> dict[int, np.ndarray]:
    """Return the caudal axis (3,) in the world of each body, by its endplates."""
    return {label: curve.frames[curve.target_point(label)[0]] @ endplate_axis(body.voxels)
            for label, body in bodies.items()}


def _largest_miss_mm(bodies: dict[int, Body], curve: Curve) -> float:
    """Return the greatest distance between a body's centroid and the centre given for it."""
    return max(float(np.linalg.norm(body.centroid - curve.centres[label]))
               for label, body in bodies.items())


def mask_centroids(mask: Volume, boxes: Boxes, labels: Iterable[int]) -> dict[int, np.ndarray]:
    """Return the world position (3,) in mm of each label's centroid, arch and all."""
    centroids = {}
    for label in labels:
        first = [side.start for side in boxes[label]]
        voxel = np.argwhere(mask.array[boxes[label]] == label).mean(axis=0) + first
        centroids[label] = mask.affine[:3, :3] @ voxel + mask.affine[:3, 3]
    return centroids


def is_cut_off(label: int, body: Body, curve: Curve, mask: Volume) -> bool:
    """Tell whether a body (not merely its arch) runs into the border of the scan."""
    near: np.ndarray | None = None
    posterior, left = grid_mm()
    origin = np.array([body.rows.start, posterior[0], left[0]])
    for axis, last in enumerate(mask.array.shape):
        face_mm2 = float(np.prod(np.delete(mask.spacing_mm, axis)))
        for plane in (0, last - 1):
            face = np.argwhere(np.moveaxis(mask.array, axis, 0)[plane] == label)
            if len(face) * face_mm2 < BORDER_FACE_MM2:
                continue
            near = dilate(body.voxels, BORDER_REACH_MM) if near is None else near
            voxels = np.insert(face, axis, plane, axis=1)
            points = curve.from_world(voxels @ mask.affine[:3, :3].T + mask.affine[:3, 3])
            index = np.rint(points - origin).astype(int)
            index = index[((index >= 0) & (index < near.shape)).all(axis=1)]
            if near[tuple(index.T)].sum() * face_mm2 >= BORDER_FACE_MM2:
                return True
    return False
