"""Finding the whole vertebral bodies of a mask, and leaving out those that the scan cuts off."""

from pathlib import Path

import numpy as np

from straighten.bodies import (
    Body,
    centres_in_world,
    is_cut_off,
    label_boxes,
    label_surfaces,
    mask_centroids,
    recentre,
)
from straighten.centroids import write_centroids
from straighten.curve import Curve
from straighten.sampling import thinned
from straighten.scan_check import check_mask_order
from util.errors import InputError
from util.paths import raw_centroids, raw_mask
from util.vertebrae import named_label, neighbours
from util.volume import Volume, read_mask

LEAST_SHARE_OF_NEIGHBOUR = 0.3  # of the volume; a body crushed to a third of its height is still above it


def locate_patient(raw: str | Path, patient: str) -> str | None:
    """Write one patient's centroid file; return what is to be said of vertebrae left out.

    Raises:
        InputError: the mask cannot be used, is numbered the wrong way or holds no whole vertebra.
    """
    path = raw_mask(raw, patient)
    mask = read_mask(path)
    check_mask_order(mask, path)
    centres_mm, left_out = locate_bodies(mask)
    if not centres_mm:
        raise InputError(f"{path}: expected at least one whole vertebra, found none "
                         f"({_listed(left_out) or 'the mask is empty'}); check the mask")
    write_centroids(raw_centroids(raw, patient), centres_mm, mask)
    return f"left out {_listed(left_out)}" if left_out else None


def locate_bodies(mask: Volume) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """Find the vertebral bodies of a mask.

    Returns:
        The world position (3,) in mm of each whole body's centroid, and why others were left out, by label.
    """
    mask = thinned(mask)
    boxes = label_boxes(mask)
    if not boxes:
        return {}, {}
    curve, bodies = recentre(label_surfaces(mask, boxes, boxes), mask_centroids(mask, boxes, boxes))
    left_out = {label: "no body" for label in boxes if label not in bodies}
    left_out |= _cut_off(mask, curve, bodies)
    centres = centres_in_world(bodies, curve)
    return {label: centre for label, centre in centres.items() if label not in left_out}, left_out


def _cut_off(mask: Volume, curve: Curve, bodies: dict[int, Body]) -> dict[int, str]:
    """Return why bodies are not whole, by label."""
    reasons = {}
    for label, body in bodies.items():
        beside = [bodies[other].volume_mm3 for other in neighbours(label, bodies) if other is not None]
        if is_cut_off(label, body, curve, mask):
            reasons[label] = "cut off by the scan's border"
        elif beside and body.volume_mm3 < LEAST_SHARE_OF_NEIGHBOUR * max(beside):
            reasons[label] = f"{body.volume_mm3 / max(beside):.0%} of its neighbour's volume"
    return reasons


def _listed(left_out: dict[int, str]) -> str:
    """Return what was left out and why, in words."""
    return ", ".join(f"{named_label(label)}: {reason}" for label, reason in left_out.items())
