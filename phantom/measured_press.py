"""Pressing vertebrae until their mask shows the loss that was asked for.

A pattern presses every column by a share that is exact in the frame which the body had before. Heights are
measured in the frame that it has afterwards, and there the worst third may show some points more or less: the
surface falls on other voxels; the curve, drawn anew through the fractured spine, bends elsewhere; and the
outermost body of a scan is stood upright by one of its endplates, which the fracture has tilted. So a pressed
mask is measured as every stage measures it, and the press is corrected by what is missing, a few times over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from phantom.body_columns import BodyColumns, local_frame
from phantom.deformation import Deformation, deform
from phantom.measured_spine import MeasuredSpine, measure_spine
from phantom.patient import draw_pattern
from phantom.press import Press
from phantom.vertebra import Collapse
from phantom.warp import warp_mask
from util.body_heights import RIM_FRACTION
from util.errors import InputError
from util.vertebrae import label_name
from util.volume import Volume

STRONGEST = 40.0     # scale at which every column that can has met its limit
LOSS_TOLERANCE = 1e-6
CLOSE = 0.005        # of the loss, between commanded and measured: near enough to stop
LOWEST = RIM_FRACTION + 0.03  # of the median height afterwards, a pressed column; the rest is for voxels
ROUNDS = 4           # of pressing and measuring at most; one or two are the rule


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


@dataclass(frozen=True)
class Pressed:
    """Vertebrae pressed, and what their mask shows then.

    Attributes:
        deformation: the map.
        shares: (COLUMNS, SLICES) share 0..1 that every column loses in the frame before, by label.
        heights_mm: (3,) of the thirds as measured afterwards, by label; where nothing is lost, as before.
        misses: how much more than commanded the worst third has lost as measured, by label.
    """

    deformation: Deformation
    shares: dict[int, np.ndarray]
    heights_mm: dict[int, np.ndarray]
    misses: dict[int, float]

    @property
    def furthest(self) -> float:
        """Return the greatest miss."""
        return max(map(abs, self.misses.values()))


def press_as_measured(mask: Volume, spine: MeasuredSpine, wanted: Sequence[Wanted], seed: int,
                      manner: Manner) -> Pressed:
    """Press vertebrae so that the worst third of each loses the commanded share as measured.

    Args:
        mask: the scanner's.
        spine: as measured in it.
        wanted: of vertebrae with a whole body in it.
        seed: of what chance decides.
        manner: how they give way.

    Returns:
        The round that came closest, of the first that is within CLOSE and at most ROUNDS.

    Raises:
        InputError: a pattern cannot reach its loss, or hardly a body is left to be measured.
    """
    patterns = {one.label: draw_pattern(np.random.default_rng([seed, one.label]), one.kind) for one in wanted}
    for one in wanted:
        _check_reach(spine, one, patterns[one.label])
    aims = {one.label: one.loss for one in wanted}
    rounds: list[Pressed] = []
    while len(rounds) < ROUNDS:
        rounds.append(_pressed(mask, spine, wanted, patterns, aims, manner))
        if rounds[-1].furthest <= CLOSE:
            break
        aims = {one.label: max(aims[one.label] - rounds[-1].misses[one.label], 0.0) for one in wanted}
    return min(rounds, key=lambda one: one.furthest)


def _pressed(mask: Volume, spine: MeasuredSpine, wanted: Sequence[Wanted], patterns: dict[int, Collapse],
             aims: dict[int, float], manner: Manner) -> Pressed:
    """Press vertebrae by the losses aimed at in the frame before, and measure the mask."""
    presses, shares = {}, {}
    for label, pattern in patterns.items():
        columns = spine.columns(label)
        shares[label] = loss_table(columns, scaled_pattern(spine, columns, label, pattern, aims[label]))
        yielding = pattern.disc_yield if manner.kyphosis is None else manner.kyphosis
        presses[label] = Press(local_frame(spine.curve, label), columns, shares[label] * columns.height,
                               pattern.upper_share, yielding, manner.bulge_mm)
    deformation = deform(mask, presses)
    before = {label: spine.heights_mm(label) for label in presses}
    losing = [one for one in wanted if one.loss > 0.0]
    after = before | (_measured(warp_mask(mask, deformation), losing) if losing else {})
    misses = {one.label: float(np.max(1.0 - after[one.label] / before[one.label])) - one.loss
              for one in wanted}
    return Pressed(deformation, shares, after, misses)


def _measured(mask: Volume, wanted: Sequence[Wanted]) -> dict[int, np.ndarray]:
    """Return the heights (3,) in mm of pressed vertebrae, by label.

    Raises:
        InputError: one has no whole body any more.
    """
    spine = measure_spine(mask)
    for one in wanted:
        if one.label not in spine.bodies:
            raise InputError(f"--loss {one.loss}: expected a body of {label_name(one.label)} (label "
                             f"{one.label}) that can still be measured, found "
                             f"'{spine.left_out.get(one.label, 'no body')}'; choose less")
    return {one.label: spine.heights_mm(one.label) for one in wanted}


def loss_table(columns: BodyColumns, pattern: Collapse) -> np.ndarray:
    """Return the share 0..1 that every column loses, (COLUMNS, SLICES).

    No column becomes so low that measuring takes it for the body's rounded rim: a wedge's front edge would be
    dropped, all of it at once or none, and some losses could not be measured at any scale.
    """
    share = pattern.loss_at(*columns.places())
    least_mm = LOWEST * np.median((columns.height * (1.0 - share))[columns.footprint])
    return np.minimum(share, np.clip(1.0 - least_mm / np.maximum(columns.height, least_mm), 0.0, 1.0))


def scaled_pattern(spine: MeasuredSpine, columns: BodyColumns, label: int, pattern: Collapse,
                   loss: float) -> Collapse:
    """Return a pattern at the scale at which the worst third of the heights before loses `loss`.

    No column loses more than COLUMN_LOSS_LIMIT; a loss out of reach is approached.
    """
    from scipy.optimize import brentq

    def surplus(scale: float) -> float:
        return worst_loss(spine, columns, label, replace(pattern, scale=scale)) - loss

    if surplus(STRONGEST) <= 0.0:
        return replace(pattern, scale=STRONGEST)
    return replace(pattern, scale=brentq(surplus, 0.0, STRONGEST, xtol=LOSS_TOLERANCE))


def worst_loss(spine: MeasuredSpine, columns: BodyColumns, label: int, pattern: Collapse) -> float:
    """Return the share that the worst third of the heights before loses by a pattern."""
    heights = spine.heights_mm(label, loss_table(columns, pattern))
    return float(np.max(1.0 - heights / spine.heights_mm(label)))


def _check_reach(spine: MeasuredSpine, wanted: Wanted, pattern: Collapse) -> None:
    """Check that a pattern can reach the loss that is wanted of it."""
    most = worst_loss(spine, spine.columns(wanted.label), wanted.label, replace(pattern, scale=STRONGEST))
    if most < wanted.loss:
        raise InputError(f"--loss {wanted.loss}: expected at most {most:.2f} for a {wanted.kind} of "
                         f"{label_name(wanted.label)} (label {wanted.label}); choose less")
