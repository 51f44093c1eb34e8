"""A virtual fracture of any CT: a vertebra of a real or phantom scan collapses by a known loss.

Nobody has the scan from before a fracture, but before and after are both there if the fracture is made. The
loss follows the phantom's profiles (wedge, biconcave, crush, mixed) over the columns of the body as the
project itself measures them; chance (the mixture of patterns, which side and endplate gives way) comes from
the seed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from phantom.anatomy import KIND_WEIGHT
from phantom.body_columns import BodyColumns, local_frame
from phantom.columns import genant_grade
from phantom.deformation import Deformation, deform
from phantom.measured_spine import MeasuredSpine, bodies_on_scanner, measure_spine
from phantom.patient import draw_pattern
from phantom.press import Press
from phantom.vertebra import Collapse
from phantom.warp import bone_density, warp
from util.errors import InputError
from util.vertebrae import ANATOMICAL_ORDER, label_name
from util.volume import Volume, check_same_grid

KINDS = tuple(KIND_WEIGHT)
MOST_LOSS = 0.8
STRONGEST = 40.0     # scale at which every column that can has met its limit
LOSS_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Wanted:
    """One fracture to make.

    Attributes:
        label: VerSe's.
        kind: of KINDS.
        loss: share of its height that the third which loses most loses, 0..0.8.
    """

    label: int
    kind: str
    loss: float


@dataclass(frozen=True)
class Manner:
    """How vertebrae give way.

    Attributes:
        kyphosis: share 0..1 of an endplate's tilt that the spine follows; None to draw it, 0 for none.
        bulge_mm: how far the wall comes outwards at half height.
        compaction: share 0..1 of the lost height whose bone is kept and makes the rest denser.
    """

    kyphosis: float | None = None
    bulge_mm: float = 0.0
    compaction: float = 1.0


DEFAULT = Manner()


@dataclass(frozen=True)
class Fractured:
    """A scan after its virtual fractures, on the grid that it came on.

    Attributes:
        ct, mask: after.
        truth: of the fractured vertebrae and the healthy ones that were named, as the phantom writes it.
        bodies: the vertebral bodies before, labelled.
    """

    ct: Volume
    mask: Volume
    truth: dict[str, Any]
    bodies: Volume


def fracture(ct: Volume, mask: Volume, wanted: Sequence[Wanted], *, seed: int = 0, manner: Manner = DEFAULT,
             healthy: Collection[int] = (), patient: str = "virtual") -> Fractured:
    """Fracture vertebrae of a scan.

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
            out of range, or more than the pattern can reach.
    """
    check_same_grid(ct, "CT", mask, "mask")
    spine = measure_spine(mask)
    _check(wanted, healthy, spine)
    presses, losses = _presses(spine, wanted, seed, manner)
    bodies = bodies_on_scanner(mask, spine)
    density = bone_density(ct, np.isin(bodies, list(presses)), manner.compaction)
    new_ct, new_mask = warp(ct, mask, deform(mask, presses), density)
    truth = {"patient": patient, "vertebrae": _records(spine, wanted, losses, healthy)}
    return Fractured(new_ct, new_mask, truth, Volume(bodies, mask.affine))


def deformation_of(mask: Volume, wanted: Sequence[Wanted], *, seed: int = 0,
                   manner: Manner = DEFAULT) -> Deformation:
    """Return the map that `fracture` resamples by; arguments and errors as there."""
    spine = measure_spine(mask)
    _check(wanted, (), spine)
    return deform(mask, _presses(spine, wanted, seed, manner)[0])


def _presses(spine: MeasuredSpine, wanted: Sequence[Wanted], seed: int,
             manner: Manner) -> tuple[dict[int, Press], dict[int, np.ndarray]]:
    """Return the collapse of each vertebra, and the share that each of its columns loses, by label."""
    presses, losses = {}, {}
    for one in wanted:
        columns = spine.columns(one.label)
        pattern = scaled_pattern(spine, columns, one, seed)
        losses[one.label] = loss_table(columns, pattern)
        yielding = pattern.disc_yield if manner.kyphosis is None else manner.kyphosis
        presses[one.label] = Press(local_frame(spine.curve, one.label), columns,
                                   losses[one.label] * columns.height, pattern.upper_share, yielding,
                                   manner.bulge_mm)
    return presses, losses


def loss_table(columns: BodyColumns, pattern: Collapse) -> np.ndarray:
    """Return the share 0..1 that every column loses, (COLUMNS, SLICES)."""
    return pattern.loss_at(*columns.places())


def scaled_pattern(spine: MeasuredSpine, columns: BodyColumns, wanted: Wanted, seed: int) -> Collapse:
    """Return a drawn pattern at the scale at which the worst third of the measured heights loses `loss`.

    Raises:
        InputError: the pattern cannot reach it, since no column loses more than COLUMN_LOSS_LIMIT.
    """
    from scipy.optimize import brentq

    pattern = draw_pattern(np.random.default_rng([seed, wanted.label]), wanted.kind)
    before = spine.heights_mm(wanted.label)

    def surplus(scale: float) -> float:
        loss = loss_table(columns, replace(pattern, scale=scale))
        return float(np.max(1.0 - spine.heights_mm(wanted.label, loss) / before)) - wanted.loss

    if surplus(STRONGEST) < 0.0:
        raise InputError(f"--loss {wanted.loss}: expected at most {surplus(STRONGEST) + wanted.loss:.2f} for "
                         f"a {wanted.kind} of {label_name(wanted.label)} (label {wanted.label}); choose less")
    return replace(pattern, scale=brentq(surplus, 0.0, STRONGEST, xtol=LOSS_TOLERANCE))


def _check(wanted: Sequence[Wanted], healthy: Collection[int], spine: MeasuredSpine) -> None:
    """Check what is asked for against what is there."""
    present = [label for label in ANATOMICAL_ORDER if label in spine.boxes]
    labels = [one.label for one in wanted]
    if not labels:
        raise InputError("--label: expected at least one vertebra, found none; name one")
    twice = sorted({label for label in labels if labels.count(label) > 1} | set(labels) & set(healthy))
    if twice:
        raise InputError(f"--label, --healthy: expected each vertebra once, found {twice} twice; "
                         f"name it once")
    for label in (*labels, *healthy):
        if label not in spine.boxes:
            raise InputError(f"label {label}: expected a vertebra of the mask, found {present}; "
                             f"choose another")
        if label not in spine.bodies:
            raise InputError(f"label {label}: expected a whole vertebral body, found "
                             f"'{spine.left_out.get(label, 'no body')}'; choose another of "
                             f"{sorted(spine.bodies)}")
    for one in wanted:
        if not 0.0 <= one.loss <= MOST_LOSS:
            raise InputError(f"--loss {one.loss}: expected 0 to {MOST_LOSS}; bone does not vanish")
        if one.kind not in KINDS:
            raise InputError(f"--kind {one.kind}: expected one of {', '.join(KINDS)}")


def _records(spine: MeasuredSpine, wanted: Sequence[Wanted], losses: dict[int, np.ndarray],
             healthy: Collection[int]) -> dict[str, Any]:
    """Return the truth of every vertebra that it is known of, cranial to caudal."""
    kinds = {one.label: one.kind for one in wanted if one.loss > 0.0}
    known = [label for label in ANATOMICAL_ORDER if label in losses or label in healthy]
    records = {}
    for label in known:
        before, after = spine.heights_mm(label), spine.heights_mm(label, losses.get(label, 0.0))
        thirds = 1.0 - after / before
        records[str(label)] = {
            "name": label_name(label), "grade": genant_grade(float(thirds.max()) + 1e-4),
            "kind": kinds.get(label, "none"), "loss": float(thirds.max()), "loss_by_third": thirds.tolist(),
            "height_before_mm": before.tolist(), "height_after_mm": after.tolist()}
    return records
