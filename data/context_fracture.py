"""Virtual fractures of a target's neighbours in a slice, since real targets have fractured neighbours too.

Only what surrounds the target changes, never its rows [top, bottom). Each column of the neighbour loses a
share of its height, as in a wedge, biconcave or crush fracture (Genant 1993). Both its endplates give way, as
they do in the straightened frame, which levels the spine beyond a wedge. What lies beyond keeps its form and
moves towards the target by what the column that lost least has lost; the discs fill the hollows, and where
no disc is known to do so, the body is pressed evenly. Bone gets denser. From a loss of 20 % on the neighbour
is no longer healthy: it leaves the mask of the healthy ones, and the heatmap shows evidence there, a smooth
spot as strong as the classifier's own.

Distances from the target are in rows: from its upper edge upwards, or from its lower edge downwards.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from data.slice_input import RawSlices
from data.slice_sampling import extent, sample_slices, to_bytes
from util.geometry import NOTHING, gather_rows

FRACTURED_LOSS = 0.20    # Genant grade 1 begins here
COLUMN_LOSS_LIMIT = 0.8  # what no column exceeds: bone does not vanish
REACH_ROWS = 80          # how far the neighbours' ends may lie from the target
TOLERANCE_ROWS = 8       # a column whose ends lie further from the medians has met another body, or a spur
DISC_ROWS = 5            # on either side of a pressed body that take up the hollows, if there are so many
LEAST_DISC_ROWS = 2      # that can: a single row is half endplate
MARROW = 60.3            # grey level of -40 HU, what is squeezed out of bone that is pressed
GLOW_ROWS = 8.0          # how far evidence reaches beyond the body, as Grad-CAM++ maps do


def _wedge(along: Tensor) -> Tensor:
    """Loss in front, none behind."""
    fall = (along / 0.95).clamp_max(1.0)
    return 1.0 - fall * fall * (3.0 - 2.0 * fall)


def _biconcave(along: Tensor) -> Tensor:
    """Loss in the middle, little at the rims."""
    return (1.0 - ((along - 0.53) / 0.46) ** 2).clamp_min(0.0) ** 0.8 + 0.06


def _crush(along: Tensor) -> Tensor:
    """Loss everywhere, slightly more in front."""
    return 1.0 - 0.12 * along**2


# Loss along a body's columns, 0 at the first, 1 at the last, up to a factor. The forms of the phantom.
PROFILES: dict[str, Callable[[Tensor], Tensor]] = {"wedge": _wedge, "biconcave": _biconcave, "crush": _crush}


class ContextFractures(NamedTuple):
    """Fractures of the next neighbour above and below each target; all (B, 2)."""

    loss: Tensor        # of the third that loses most, 0..0.6; 0: none
    kind: Tensor        # int64, place in PROFILES
    near_share: Tensor  # of the hollow, how much the endplate that faces the target yields
    compaction: Tensor  # 1: no mineral is lost; 0: the density stays
    heat: Tensor        # strongest evidence, 0..1
    heat_place: Tensor  # 0 at the end that faces the target, 1 at the other


class Neighbour(NamedTuple):
    """The next body of the neighbours' mask above and below each target; (B, 2) unless said otherwise."""

    found: Tensor  # bool
    near: Tensor   # rows from the target to its nearest end
    far: Tensor    # and to its other end
    free: Tensor   # rows from there to the next body of the mask, 5 at most; 0 where none is in sight
    first: Tensor  # column
    last: Tensor   # column after the last
    mask: Tensor   # (B, 1, R, C) uint8: both bodies


def press_neighbours(raw: RawSlices, fractures: ContextFractures) -> RawSlices:
    """Press the next neighbours of every target. Where there is none within reach, nothing changes."""
    neighbour = find_neighbours(raw)
    fractures = fractures._replace(loss=torch.where(neighbour.found, fractures.loss, 0.0))
    lost = column_losses(neighbour, fractures, raw.ct.shape[3])                           # (B, 2, C)
    moved = _shifts(raw, neighbour, fractures, lost)                                      # (B, R, C)
    row = torch.arange(moved.shape[1], device=moved.device)[None, :, None] + moved
    column = torch.arange(moved.shape[2], device=moved.device).expand_as(row).float()
    carrier = raw._replace(neighbours=raw.neighbours + 2 * neighbour.mask)  # bit 1: a body to be pressed
    pressed = sample_slices(carrier, row, column)
    body = pressed.neighbours > 1                                                         # (B, 1, R, C)
    fractured = (fractures.loss >= FRACTURED_LOSS)[:, :, None]
    sick = body & _by_side(raw, fractured.expand_as(lost))
    glow = _glow(raw, neighbour, fractures._replace(heat=fractures.heat * fractured[:, :, 0]))
    denser = 1.0 + fractures.compaction[:, :, None] * lost / (1.0 - lost)                 # (B, 2, C)
    return pressed._replace(
        ct=to_bytes(torch.where(body, MARROW + (pressed.ct - MARROW) * _by_side(raw, denser), pressed.ct)),
        neighbours=(pressed.neighbours & 1) * ~sick,
        heatmap=pressed.heatmap.maximum(to_bytes(255.0 * glow)))


def find_neighbours(raw: RawSlices) -> Neighbour:
    """Find the next body of the neighbours' mask on either side of each target.

    Each column is followed from the target outwards through the first body that it meets. Columns that meet
    another body than most do, or a spur of it, are left out.
    """
    occupied = gather_rows(raw.neighbours, _outwards(raw), 0).bool()                      # (B, 1, 2Q, C)
    occupied = occupied.unflatten(2, (2, REACH_ROWS))[:, 0]                               # (B, 2, Q, C)
    met = occupied.cumsum(2, dtype=torch.int16) > 0
    body = occupied & ((met & ~occupied).cumsum(2, dtype=torch.int16) == 0)
    near, far = extent(body.transpose(2, 3))                                              # (B, 2, C)
    usual = [_is_usual(end, body.any(2)) for end in (near, far)]                          # (B, 2, C) each
    nearest = torch.where(usual[0], near, REACH_ROWS).amin(2)
    furthest = torch.where(usual[1], far, 0).amax(2)
    first, last = extent(usual[0] & usual[1])
    found = (usual[0] & usual[1]).any(2) & (furthest < REACH_ROWS)
    nearest, furthest = nearest * found, furthest * found
    place = torch.arange(REACH_ROWS, device=body.device)[:, None]
    within = (place >= nearest[:, :, None, None]) & (place < furthest[:, :, None, None])
    chosen = (occupied & within).flatten(1, 2)[:, None].to(torch.uint8)                   # (B, 1, 2Q, C)
    column = torch.arange(body.shape[3], device=body.device)
    over = (column >= first[:, :, None]) & (column < last[:, :, None])                    # (B, 2, C)
    beyond = (occupied & over[:, :, None]).any(3) & (place[:, 0] >= furthest[:, :, None])  # (B, 2, Q)
    free = (beyond.to(torch.uint8).argmax(2) - furthest).clamp_max(DISC_ROWS) * beyond.any(2)
    return Neighbour(found, nearest, furthest, free, first, last, gather_rows(chosen, _inwards(raw), 0))


def _is_usual(end: Tensor, there: Tensor) -> Tensor:
    """Return which columns (..., C) end near where half of those that are `there` do."""
    median = torch.where(there, end.float(), torch.nan).nanmedian(-1, keepdim=True).values
    return there & ((end - median).abs() <= TOLERANCE_ROWS)


def _outwards(raw: RawSlices) -> Tensor:
    """Return the rows above the target, from it upwards, then those below, downwards: (B, 2Q)."""
    step = torch.arange(REACH_ROWS, device=raw.top.device)
    row = torch.cat([raw.top[:, None] - 1 - step, raw.bottom[:, None] + step], 1)
    return torch.where((row >= 0) & (row < raw.ct.shape[2]), row, NOTHING)


def _inwards(raw: RawSlices) -> Tensor:
    """Return the inverse of `_outwards`: (B, R)."""
    row = torch.arange(raw.ct.shape[2], device=raw.top.device)
    above, below = raw.top[:, None] - 1 - row, row - raw.bottom[:, None]
    place = torch.where(below >= 0, below, above)
    return torch.where((place >= 0) & (place < REACH_ROWS), place + REACH_ROWS * (below >= 0), NOTHING)


def column_losses(neighbour: Neighbour, fractures: ContextFractures, columns: int) -> Tensor:
    """Return the share 0..0.8 of its height that each column loses, (B, 2, columns); held beyond the body."""
    column = torch.arange(columns, device=neighbour.first.device) + 0.5
    depth = (neighbour.last - neighbour.first)[:, :, None]
    along = ((column - neighbour.first[:, :, None]) / depth).clamp(0.0, 1.0)              # (B, 2, C)
    even = (torch.arange(60, device=column.device) + 0.5) / 60
    shape = torch.zeros_like(along)
    for number, profile in enumerate(PROFILES.values()):
        worst_third = profile(even).unflatten(0, (3, 20)).mean(1).amax()
        shape = torch.where(fractures.kind[:, :, None] == number, profile(along) / worst_third, shape)
    shape = torch.where((neighbour.free >= LEAST_DISC_ROWS)[:, :, None], shape, 1.0)
    return (fractures.loss[:, :, None] * shape).clamp_max(COLUMN_LOSS_LIMIT)


def _shifts(raw: RawSlices, neighbour: Neighbour, fractures: ContextFractures, lost: Tensor) -> Tensor:
    """Return how many rows further down than itself each pixel's source lies, (B, R, C)."""
    row = torch.arange(raw.ct.shape[2], device=lost.device)[None, :, None] + 0.5
    above, below = raw.top[:, None, None] - row, row - raw.bottom[:, None, None]          # (B, R, 1)
    bodies = torch.stack([neighbour.near, neighbour.far - neighbour.near, neighbour.free], 2).float()
    bodies = torch.cat([bodies, fractures.near_share[:, :, None]], 2)                     # (B, 2, 4)
    return (_outward_shift(below, bodies[:, 1], lost[:, 1])
            - _outward_shift(above, bodies[:, 0], lost[:, 0]))


def _outward_shift(place: Tensor, body: Tensor, lost: Tensor) -> Tensor:
    """Return how many rows further out than itself each place's source lies.

    Three stretches of source rows take new lengths: the disc that faces the target grows into the hollow, the
    body is pressed, the next disc grows into the other hollow. Within each the map is linear.

    Args:
        place: (B, R, 1) rows from the target.
        body: (B, 4) its near end, its height, the rows free beyond it, and the near share of the hollow.
        lost: (B, C) share of its height.

    Returns:
        (B, R, C); 0 up to the first disc, one number for all that lies beyond the second.
    """
    near, height, free, share = body.split(1, 1)                                          # (B, 1) each
    rigid = lost.amin(1, keepdim=True)                       # what lies beyond rests on the highest column
    hollow = (lost - rigid) * height                                                      # (B, C)
    disc = near.clamp_max(DISC_ROWS)
    near_hollow = torch.where(disc >= LEAST_DISC_ROWS, share * hollow, 0.0)
    stretches = ((disc, disc + near_hollow),
                 (height, height * (1.0 - lost)),
                 (free, free + hollow - near_hollow))
    shift, start = torch.zeros_like(place), near - disc
    for source, length in stretches:
        inside = (place - start[:, None]).clamp_min(0.0).minimum(length[:, None])         # (B, R, C)
        shift = shift + inside * (source / length.clamp_min(1e-3) - 1.0)[:, None]
        start = start + length
    return shift


def _by_side(raw: RawSlices, values: Tensor) -> Tensor:
    """Spread values (B, 2, C) over the rows above and below each target, (B, 1, R, C)."""
    row = torch.arange(raw.ct.shape[2], device=raw.top.device)
    above = (row < raw.top[:, None])[:, None, :, None]
    return torch.where(above, values[:, :1, None], values[:, 1:, None])


def _glow(raw: RawSlices, neighbour: Neighbour, fractures: ContextFractures) -> Tensor:
    """Return evidence of fracture 0..1 around the pressed bodies, (B, 1, R, C); none in the target's rows."""
    rows, columns = raw.ct.shape[2:]
    row, column = (torch.arange(count, device=raw.top.device) + 0.5 for count in (rows, columns))
    place = torch.stack([raw.top[:, None] - row, row - raw.bottom[:, None]], 1)           # (B, 2, R)
    height = (neighbour.far - neighbour.near) * (1.0 - fractures.loss / 2)
    centre = neighbour.near + fractures.heat_place * height
    down = _bump(place, centre, 0.5 * height + GLOW_ROWS) * (place > 0)
    across = _bump(column, (neighbour.first + neighbour.last) / 2,
                   (neighbour.last - neighbour.first) / 2 + GLOW_ROWS)                 # (B, 2, C)
    glow = fractures.heat[:, :, None, None] * down[:, :, :, None] * across[:, :, None]    # (B, 2, R, C)
    return glow.amax(1, keepdim=True)


def _bump(place: Tensor, centre: Tensor, half_width: Tensor) -> Tensor:
    """Return 1 at the centre, falling smoothly to 0 at the half width, (B, 2, N)."""
    relative = (place - centre[:, :, None]) / half_width[:, :, None]
    return (1.0 - relative**2).clamp_min(0.0) ** 2
