"""What every baseline gives, and how its body is put in the target's place."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from evaluation.baseline.surroundings import Surroundings
from util.body_heights import THIRDS
from util.vertebrae import ANATOMICAL_ORDER

NO_NEIGHBOUR = "no healthy neighbour wholly in the scan"


@dataclass(frozen=True)
class Reference:
    """The healthy vertebra that a baseline expects.

    Attributes:
        heights_mm: (4,) height of the anterior, middle and posterior third, and overall; NaN if undefined.
        mask: (rows, columns, slices) uint8 label volume with the healthy body in the target's place, as the
            generator's label_fake; None where the baseline makes no body, or there is no volume to put it in.
        reason: why the heights are undefined, or what they had to fall back to; empty if neither.
    """

    heights_mm: np.ndarray
    mask: np.ndarray | None = None
    reason: str = ""


class Baseline(Protocol):
    """A method that gives a target's healthy heights without a network."""

    @property
    def name(self) -> str: ...

    def reference(self, surroundings: Surroundings) -> Reference: ...


def undefined(reason: str) -> Reference:
    """Return a reference without heights."""
    return Reference(np.full(len(THIRDS) + 1, np.nan), reason=reason)


def with_overall(thirds_mm: np.ndarray) -> np.ndarray:
    """Append the mean of the thirds (3,): the height of the whole depth."""
    return np.append(thirds_mm, thirds_mm.mean())


def restored_labels(labels: np.ndarray, target: int, body: np.ndarray) -> np.ndarray:
    """Return labels in which a body replaces the target's, centred on its rows; the others move to border it.

    Rows move as the generator's gap closes (`util.geometry`), every other vertebra as a rigid body. Where one
    reaches into the target's rows, it stays whole and the new body gives way.

    Args:
        labels: (R, C, Z) uint8.
        target: label to replace; it must be present.
        body: (H, C, Z) boolean, the rows of the new body.

    Returns:
        (R, C, Z) uint8.
    """
    import torch  # here: a script's --help need not wait for it

    from util.geometry import closed_top, row_extent

    top, bottom = row_extent(labels == target)
    new_top = int(closed_top(torch.tensor(top), torch.tensor(bottom), torch.tensor(len(body))))
    place = ANATOMICAL_ORDER.index(target)
    restored = _shifted(labels, ANATOMICAL_ORDER[:place], new_top - top)
    below = _shifted(labels, ANATOMICAL_ORDER[place + 1:], new_top + len(body) - bottom)
    restored[restored == 0] = below[restored == 0]
    first, last = max(new_top, 0), min(new_top + len(body), len(labels))
    rows = restored[first:last]
    rows[body[first - new_top:last - new_top] & (rows == 0)] = target
    return restored


def _shifted(labels: np.ndarray, kept: tuple[int, ...], offset: int) -> np.ndarray:
    """Return the kept labels alone, moved down by `offset` rows (up where negative)."""
    table = np.zeros(256, np.uint8)
    table[list(kept)] = kept
    moved = np.zeros_like(labels)
    count = len(labels) - abs(offset)
    source, target = max(-offset, 0), max(offset, 0)
    moved[target:target + count] = table[labels[source:source + count]]
    return moved
