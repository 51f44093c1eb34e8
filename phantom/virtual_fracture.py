"""A virtual fracture of any CT: a vertebra of a real or phantom scan collapses by a known loss.

Nobody has the scan from before a fracture, but before and after are both there if the fracture is made. The
loss follows the phantom's profiles (wedge, biconcave, crush, mixed) over the columns of the body as the
project itself measures them, at the scale at which the mask afterwards shows the loss that was asked for;
chance (the mixture of patterns, which side and endplate gives way) comes from the seed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from phantom.anatomy import KIND_WEIGHT, MOST_LOSS
from phantom.columns import genant_grade
from phantom.deformation import Deformation
from phantom.measured_press import Manner, Pressed, Wanted, press_as_measured
from phantom.measured_spine import MeasuredSpine, bodies_on_scanner, measure_spine
from phantom.warp import bone_density, warp
from util.errors import InputError
from util.vertebrae import ANATOMICAL_ORDER, label_name, named_label
from util.volume import Volume, check_same_grid

KINDS = tuple(KIND_WEIGHT)
AGREEMENT = 0.01     # between the commanded loss and the measured one; what misses it is told
DEFAULT = Manner()


@dataclass(frozen=True)
class Fractured:
    """A scan after its virtual fractures, on the grid that it came on.

    Attributes:
        ct, mask: after.
        truth: of the fractured vertebrae and the healthy ones that were named, as the phantom writes it.
        bodies: the vertebral bodies before, labelled.
        remarks: one for each vertebra whose mask does not show the commanded loss to a percentage point.
    """

    ct: Volume
    mask: Volume
    truth: dict[str, Any]
    bodies: Volume
    remarks: tuple[str, ...] = ()


def fracture(ct: Volume, mask: Volume, wanted: Sequence[Wanted], *, seed: int = 0, manner: Manner = DEFAULT,
             healthy: Collection[int] = (), patient: str = "virtual") -> Fractured:
    """Fracture vertebrae of a scan.

    The truth tells heights as straightening and measuring find them in the mask before and after, so that it
    is what a measurement of the result ought to give. `pressed_by_third` beside it is what the columns have
    lost in the frame that the body had before; it differs where the frame leans with the fractured body.

    Args:
        ct: in HU, any axis order and spacing.
        mask: VerSe's labels on the CT's grid.
        wanted: the fractures; each label once.
        seed: of what chance decides; each vertebra's own, whatever else is fractured.
        manner: how they give way.
        healthy: labels known to be whole, whose truth is to be told too.
        patient: name in the truth.

    Raises:
        InputError: the grids differ; a label is missing, cut off, has no body, or is named twice; a loss is
            out of range, or more than the pattern can reach, or leaves no body to be measured.
    """
    check_wanted(wanted, healthy)
    check_same_grid(ct, "CT", mask, "mask")
    spine = measure_spine(mask)
    _check_there(wanted, healthy, spine)
    pressed = press_as_measured(mask, spine, wanted, seed, manner)
    bodies = bodies_on_scanner(mask, spine)
    density = bone_density(ct, np.isin(bodies, list(pressed.shares)), manner.compaction)
    new_ct, new_mask = warp(ct, mask, pressed.deformation, density)
    truth = {"patient": patient, "vertebrae": _records(spine, wanted, pressed, healthy)}
    return Fractured(new_ct, new_mask, truth, Volume(bodies, mask.affine), _remarks(wanted, pressed))


def deformation_of(mask: Volume, wanted: Sequence[Wanted], *, seed: int = 0,
                   manner: Manner = DEFAULT) -> Deformation:
    """Return the map that `fracture` resamples by; arguments and errors as there."""
    check_wanted(wanted, ())
    spine = measure_spine(mask)
    _check_there(wanted, (), spine)
    return press_as_measured(mask, spine, wanted, seed, manner).deformation


def check_wanted(wanted: Sequence[Wanted], healthy: Collection[int]) -> None:
    """Check what is asked for, before anything is read.

    Raises:
        InputError: nothing is; a label is named twice; a loss or kind is out of range.
    """
    labels = [one.label for one in wanted]
    if not labels:
        raise InputError("--label: expected at least one vertebra, found none; name one")
    twice = sorted({label for label in labels if labels.count(label) > 1} | set(labels) & set(healthy))
    if twice:
        raise InputError(f"--label, --healthy: expected each vertebra once, found {twice} twice; "
                         f"name it once")
    for one in wanted:
        if not 0.0 <= one.loss <= MOST_LOSS:
            raise InputError(f"--loss {one.loss}: expected 0 to {MOST_LOSS}; bone does not vanish")
        if one.kind not in KINDS:
            raise InputError(f"--kind {one.kind}: expected one of {', '.join(KINDS)}")


def _check_there(wanted: Sequence[Wanted], healthy: Collection[int], spine: MeasuredSpine) -> None:
    """Check that the vertebrae asked for are there, and whole."""
    present = [label for label in ANATOMICAL_ORDER if label in spine.boxes]
    for label in (*(one.label for one in wanted), *healthy):
        if label not in spine.boxes:
            raise InputError(f"label {label}: expected a vertebra of the mask, found {present}; "
                             f"choose another")
        if label not in spine.bodies:
            raise InputError(f"label {label}: expected a whole vertebral body, found "
                             f"'{spine.left_out.get(label, 'no body')}'; choose another of "
                             f"{sorted(spine.bodies)}")


def _records(spine: MeasuredSpine, wanted: Sequence[Wanted], pressed: Pressed,
             healthy: Collection[int]) -> dict[str, Any]:
    """Return the truth of every vertebra that it is known of, cranial to caudal."""
    asked = {one.label: one for one in wanted if one.loss > 0.0}
    known = [label for label in ANATOMICAL_ORDER if label in pressed.shares or label in healthy]
    records = {}
    for label in known:
        before = spine.heights_mm(label)
        after = pressed.heights_mm.get(label, before)
        pressed_by = 1.0 - spine.heights_mm(label, pressed.shares.get(label, 0.0)) / before
        thirds = 1.0 - after / before
        agrees = label in asked and abs(pressed.misses[label]) <= AGREEMENT
        loss = asked[label].loss if agrees else float(thirds.max())
        records[str(label)] = {
            "name": label_name(label), "grade": genant_grade(loss + 1e-4),
            "kind": asked[label].kind if label in asked else "none", "loss": loss,
            "loss_by_third": thirds.tolist(), "pressed_by_third": pressed_by.tolist(),
            "height_before_mm": before.tolist(), "height_after_mm": after.tolist()}
    return records


def _remarks(wanted: Sequence[Wanted], pressed: Pressed) -> tuple[str, ...]:
    """Return what is to be said of vertebrae whose mask does not show the commanded loss."""
    return tuple(f"{named_label(one.label)}: commanded a loss of {100 * one.loss:.1f} %, "
                 f"closest that its mask shows is {100 * (one.loss + pressed.misses[one.label]):.1f} %; "
                 f"truth.json has the latter" for one in wanted
                 if abs(pressed.misses[one.label]) > AGREEMENT)
