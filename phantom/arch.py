"""The posterior elements, ribs and sacral wings: tapering elliptical rods in a vertebra's local frame.

Rods are given for the left side and evaluated on |x|, so that both sides share one computation.
"""

from dataclasses import dataclass

import numpy as np

from phantom.vertebra import Vertebra


@dataclass(frozen=True)
class Rod:
    """A rod from `start` to `end` (3,) with half-axes along x, y and z at either end, mm."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    start_radii: tuple[float, float, float]
    end_radii: tuple[float, float, float]

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the corners of the box around the rod and its mirror image, mm."""
        ends, radii = np.array([self.start, self.end]), np.array([self.start_radii, self.end_radii])
        low, high = (ends - radii).min(axis=0), (ends + radii).max(axis=0)
        reach = max(abs(low[0]), abs(high[0]))
        return np.array([-reach, low[1], low[2]]), np.array([reach, high[1], high[2]])

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return the distance from the surface (negative inside) near it, elementwise, mm."""
        start = np.array(self.start, np.float32)
        axis = np.array(self.end, np.float32) - start
        offset = [np.abs(x) - start[0], y - start[1], z - start[2]]
        along = sum(part * (a / np.float32(axis @ axis)) for part, a in zip(offset, axis, strict=True))
        along = np.clip(along, np.float32(0.0), np.float32(1.0))
        squared, scaled = np.float32(1e-6), np.float32(1e-6)
        for part, a, r0, r1 in zip(offset, axis, self.start_radii, self.end_radii, strict=True):
            across = part - a * along
            squared = squared + across * across
            across = across / (np.float32(r0) + np.float32(r1 - r0) * along)
            scaled = scaled + across * across
        return np.sqrt(squared) * (1.0 - 1.0 / np.sqrt(scaled))


@dataclass(frozen=True)
class Frame:
    """Lengths that all of a vertebra's rods refer to, mm."""

    scale: float
    back: float  # y of the body's posterior wall
    middle: float  # z of its middle
    height: float
    half_canal: float
    canal: float
    pedicle_x: float
    pedicle_z: float


def _frame(vertebra: Vertebra) -> Frame:
    """Measure a vertebra; a collapsed one keeps its pedicles, at the height of its posterior wall."""
    body, level = vertebra.body, vertebra.level
    scale = body.width / level.width
    lower, upper = vertebra.endplates(np.array(0.0), np.array(body.back * 0.98))
    middle = 0.5 * (float(lower) + float(upper))
    half_canal = 0.5 * level.canal_width * scale
    lift = 0.5 * (body.height_posterior - level.pedicle_height * scale) - 1.5
    return Frame(scale, body.back, middle, body.height_posterior, half_canal, level.canal_depth * scale,
                 half_canal + 0.5 * level.pedicle_width * scale, middle + lift)


def arch_rods(vertebra: Vertebra) -> list[Rod]:
    """Return pedicle, lamina, spinous, transverse and articular processes."""
    if vertebra.level.name == "S1":
        return _sacrum_rods(vertebra)
    frame = _frame(vertebra)
    return [_pedicle(vertebra, frame), *_lamina(frame), *_spinous(vertebra, frame),
            _transverse(vertebra, frame), *_articular(vertebra, frame)]


def _pedicle(vertebra: Vertebra, frame: Frame) -> Rod:
    """From the body's posterior corner past the canal."""
    width = 0.5 * vertebra.level.pedicle_width * frame.scale
    height = 0.5 * vertebra.level.pedicle_height * frame.scale
    return Rod((frame.pedicle_x - 2.0, frame.back - 6.0, frame.pedicle_z),
               (frame.pedicle_x + 0.5, frame.back + 0.75 * frame.canal, frame.pedicle_z - 1.0),
               (width, 3.0, height), (width, 3.0, 0.95 * height))


def _lamina(frame: Frame) -> list[Rod]:
    """The roof of the canal, sloping to the midline, lower than the pedicles."""
    tall = 0.36 * frame.height
    back = frame.back + frame.canal
    return [Rod((frame.pedicle_x - 1.0, back - 0.2 * frame.canal, frame.pedicle_z - 4.0),
                (1.5, back + 4.0, frame.pedicle_z - 0.42 * frame.height),
                (4.2, 4.0, 0.8 * tall), (3.0, 3.2, tall))]


def _spinous(vertebra: Vertebra, frame: Frame) -> list[Rod]:
    """A plate in the midline with a thicker tip."""
    level = vertebra.level
    drop = np.radians(level.spinous_drop_deg)
    start_y, start_z = frame.back + frame.canal + 4.0, frame.pedicle_z - 0.42 * frame.height
    rest = level.spinous_length * frame.scale - frame.canal - 4.0
    tip_y, tip_z = start_y + rest * np.cos(drop), start_z - rest * np.sin(drop)
    tall = 0.5 * level.spinous_height * frame.scale
    return [Rod((0.0, start_y, start_z), (0.0, tip_y, tip_z), (3.2, 3.5, tall), (2.7, 3.5, 0.9 * tall)),
            Rod((0.0, tip_y - 0.5, tip_z + 0.5 * tall), (0.0, tip_y, tip_z - 0.7 * tall),
                (3.6, 3.4, 3.5), (4.8, 4.0, 3.8))]


def _transverse(vertebra: Vertebra, frame: Frame) -> Rod:
    """Flat and lateral in the lumbar spine, club-shaped and backwards in the thoracic."""
    tip = vertebra.level.transverse_span * frame.scale
    if vertebra.level.name.startswith("T"):
        return Rod((frame.pedicle_x, frame.back + 0.85 * frame.canal, frame.pedicle_z - 2.0),
                   (tip - 4.0, frame.back + frame.canal + 0.4 * (tip - 10.0), frame.pedicle_z + 3.0),
                   (4.0, 4.0, 6.0), (4.5, 4.0, 5.5))
    stout = 1.5 if vertebra.level.name == "L5" else 1.0
    return Rod((frame.pedicle_x, frame.back + 0.6 * frame.canal, frame.pedicle_z - 2.0),
               (tip - 3.0, frame.back + 0.6 * frame.canal + 7.0, frame.pedicle_z + 1.0),
               (3.0, 3.6 * stout, 6.0), (3.0, 2.3 * stout, 4.5 * stout))


def _articular(vertebra: Vertebra, frame: Frame) -> list[Rod]:
    """Superior processes face the inferior ones of the vertebra above: they lie in front and outside."""
    thoracic = vertebra.level.name.startswith("T") and vertebra.level.name != "T12"
    top, bottom = frame.middle + 0.5 * frame.height, frame.middle - 0.5 * frame.height
    back = frame.back + frame.canal
    if thoracic:
        x, flat = frame.half_canal + 1.0, 2.6
        return [Rod((x + 1.0, back - 2.0, frame.pedicle_z), (x + 0.5, back - 1.0, top + 5.0),
                    (5.0, 3.2, 4.5), (5.0, flat, 4.0)),
                Rod((x, back + 3.0, bottom + 6.0), (x, back + 5.2, bottom - 4.0),
                    (5.0, 3.4, 4.5), (5.0, flat, 4.0))]
    x = frame.half_canal
    return [Rod((x + 4.5, back - 0.35 * frame.canal, frame.pedicle_z), (x + 6.0, back - 1.5, top + 6.5),
                (4.6, 5.2, 6.0), (3.8, 6.0, 5.0)),
            Rod((x, back + 2.5, bottom + 8.0), (x - 1.5, back + 6.0, bottom - 8.0),
                (5.0, 5.0, 6.0), (5.2, 5.0, 5.0))]


def _sacrum_rods(vertebra: Vertebra) -> list[Rod]:
    """The wings, the lower sacral bodies, the roof of the sacral canal, and S1's articular processes."""
    frame = _frame(vertebra)
    bottom = frame.middle - 0.5 * frame.height
    back = frame.back + frame.canal
    return [Rod((12.0, -2.0, 2.0), (50.0, 12.0, -4.0), (10.0, 13.0, 13.0), (9.0, 14.0, 16.0)),
            Rod((0.0, 0.0, bottom + 6.0), (0.0, 17.0, bottom - 48.0), (24.5, 16.5, 10.0), (14.0, 7.0, 8.0)),
            Rod((14.0, back, bottom + 14.0), (2.0, back + 4.0, bottom + 4.0),
                (3.5, 3.2, 9.0), (2.5, 3.0, 12.0)),
            Rod((0.0, back + 4.0, bottom + 6.0), (0.0, back + 10.0, bottom - 40.0),
                (2.5, 5.0, 9.0), (2.0, 3.0, 8.0)),
            Rod((frame.half_canal + 3.5, back - 4.0, frame.middle), (frame.half_canal + 5.0, back - 1.0,
                frame.middle + 0.5 * frame.height + 5.0), (5.0, 4.5, 6.0), (3.2, 5.0, 4.0))]


def rib_rods(vertebra: Vertebra) -> list[Rod]:
    """Return a thoracic vertebra's ribs: head at the body's upper corner, neck, tubercle, shaft."""
    if not vertebra.level.name.startswith("T"):
        return []
    frame = _frame(vertebra)
    tip = vertebra.level.transverse_span * frame.scale
    head = (0.5 * vertebra.body.width + 3.5, frame.back - 3.0, frame.middle + 0.42 * frame.height)
    tubercle = (tip + 1.0, frame.back + frame.canal + 0.4 * (tip - 10.0) - 7.5, frame.pedicle_z + 3.0)
    angle = (tip + 26.0, tubercle[1] + 4.0, tubercle[2] - 9.0)
    shaft = (tip + 55.0, tubercle[1] - 12.0, tubercle[2] - 22.0)
    return [Rod(head, tubercle, (3.2, 3.2, 4.5), (3.0, 3.2, 4.5)),
            Rod(tubercle, angle, (3.0, 3.2, 4.8), (3.2, 3.2, 5.5)),
            Rod(angle, shaft, (3.2, 3.2, 5.5), (3.4, 3.0, 5.5))]
