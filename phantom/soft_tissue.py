"""The tubes around the spine: muscles, organs, vessels and the canal, given in the vertebrae's own frames.

Coordinates as in `vertebra.py`: x to the left, y backwards from the middle of the body, mm. Arrays run over
the levels, caudal to cranial, sacrum first.
"""

from dataclasses import dataclass

import numpy as np

from phantom import anatomy
from phantom.anatomy import LEVELS
from phantom.patient import Tissue
from phantom.stack import Spine

COUNT = len(LEVELS)  # S1 is index 0, L5 1, T12 6, T6 12


@dataclass(frozen=True)
class Tube:
    """An elliptical structure along the spine: HU, middle and radii in mm by level; radius 0 is absence."""

    hu: float
    x: np.ndarray
    y: np.ndarray
    radius_x: np.ndarray
    radius_y: np.ndarray


@dataclass(frozen=True)
class Path:
    """A tube in the world: middle and radii at ascending heights z, mm."""

    z: np.ndarray  # (N,)
    columns: np.ndarray  # (N, 4): x, y, radius x, radius y

    def at(self, z: np.ndarray) -> np.ndarray:
        """Return x, y, radius x and radius y at heights z, (len(z), 4)."""
        return np.stack([np.interp(z, self.z, self.columns[:, i]) for i in range(4)], axis=1)


def path_of(spine: Spine, tube: Tube) -> Path:
    """Carry a tube from the vertebrae's frames to the world; it runs on straight beyond either end."""
    local = np.stack([tube.x, tube.y, 0.0 * tube.x, np.ones(COUNT)], axis=1)
    world = np.array([pose @ point for pose, point in zip(spine.poses, local, strict=True)])[:, :3]
    ends = np.array([5.0 * world[0] - 4.0 * world[1], 5.0 * world[-1] - 4.0 * world[-2]])
    world = np.concatenate([ends[:1], world, ends[1:]])
    radii = np.pad(np.stack([tube.radius_x, tube.radius_y], axis=1), ((1, 1), (0, 0)), mode="edge")
    return Path(world[:, 2], np.c_[world[:, :2], radii])


def axis_tube(spine: Spine) -> Tube:
    """Return the spine's own axis; in place of radii it carries the level's index and the body's depth."""
    zero = np.zeros(COUNT)
    return Tube(0.0, zero, zero, np.arange(COUNT, dtype=float), _depths(spine))


def tubes_around(spine: Spine, tissue: Tissue) -> list[Tube]:
    """Return the structures in the order in which they are painted."""
    tubes: list[Tube] = []
    for side in (-1.0, 1.0):
        tubes += _muscles(side, spine, anatomy.MUSCLE_HU - 60.0 * tissue.muscle_fat) + _organs(side, tissue)
    return [*tubes, *_veins(spine, tissue), aorta_tube(spine, tissue), *_canal(spine)]


def aorta_tube(spine: Spine, tissue: Tissue) -> Tube:
    """Return the aorta, left of the thoracic bodies, in front of the lumbar ones, ending at L4."""
    radius = _by_level((0, 0), (1.6, 0), (1.7, 9), (5, 10.5), (11, 12.5))
    aside = _by_level((0, 8), (3, 8), (6, 8), (8, 14), (11, 18))
    gap = _by_level((0, 3), (6, 3), (11, -8))
    return Tube(tissue.blood_hu, aside, -0.5 * _depths(spine) - radius - gap, radius, radius)


def _by_level(*pairs: tuple[float, float]) -> np.ndarray:
    """Interpolate (level index, value) pairs over all levels, (COUNT,)."""
    index, value = zip(*pairs, strict=True)
    return np.interp(np.arange(COUNT), index, value)


def _depths(spine: Spine) -> np.ndarray:
    """Return the bodies' depths, (COUNT,)."""
    return np.array([one.body.depth for one in spine.vertebrae])


def _muscles(side: float, spine: Spine, hu: float) -> list[Tube]:
    """Return erector spinae, multifidus, quadratus lumborum and psoas of one side."""
    back = 0.5 * _depths(spine)
    half_width = np.array([0.5 * one.body.width for one in spine.vertebrae])
    psoas = _by_level((0, 19), (1, 20), (3, 15), (5, 5), (6, 0), (11, 0))
    quadratus = _by_level((0, 0), (1, 13), (4, 11), (6, 0), (11, 0))
    erector = _by_level((0, 15), (2, 25), (5, 26), (8, 21), (11, 18))
    multifidus = _by_level((0, 14), (3, 15), (11, 9))
    return [Tube(hu, side * (erector + 11.0), back + 35.0, erector, _by_level((0, 12), (3, 20), (11, 13))),
            Tube(hu, side * _by_level((0, 11), (11, 9)), back + 34.0, 0.0 * back + 9.5, multifidus),
            Tube(hu, side * 66.0 + 0.0 * back, back + 8.0, 0.8 * quadratus, quadratus),
            Tube(hu, side * (half_width + 0.72 * psoas), 0.0 * back + 1.0, psoas, 1.15 * psoas)]


def _organs(side: float, tissue: Tissue) -> list[Tube]:
    """Return the kidney with its sinus, and the liver on the right or the spleen on the left."""
    ones = np.ones(COUNT)
    kidney = _by_level((0, 0), (2.4, 0), (3, 20), (4.5, 27), (6, 22), (6.8, 0), (11, 0))
    liver = _by_level((0, 0), (3.5, 0), (5, 35), (8, 52), (9.5, 40), (10.5, 0), (11, 0))
    spleen = _by_level((0, 0), (5, 0), (6, 22), (8, 24), (9, 0), (11, 0))
    organ, depth = (liver, -35.0) if side < 0.0 else (spleen, 5.0)
    organ_hu = anatomy.LIVER_HU + 0.3 * (tissue.kidney_hu - anatomy.KIDNEY_HU)
    return [Tube(organ_hu, side * 85.0 * ones, depth * ones, organ, 1.2 * organ),
            Tube(tissue.kidney_hu, side * 60.0 * ones, -8.0 * ones, kidney, 0.95 * kidney),
            Tube(anatomy.FAT_HU, side * 46.0 * ones, -16.0 * ones, 0.5 * kidney, 0.28 * kidney)]


def _veins(spine: Spine, tissue: Tissue) -> list[Tube]:
    """Return the inferior vena cava and the iliac vessels below L4."""
    front = -0.5 * _depths(spine)
    cava = _by_level((0, 0), (1.4, 0), (1.6, 11), (7, 12), (8.5, 12), (9, 0), (11, 0))
    branch = _by_level((0, 6), (1.6, 7), (1.9, 0), (11, 0))
    branch_x = _by_level((0, 26), (1, 14), (1.9, 6), (11, 6))
    return [Tube(0.7 * tissue.blood_hu + 12.0, 0.0 * front - 19.0, front - 9.0, cava, 0.7 * cava),
            Tube(tissue.blood_hu, branch_x + 3.0, front - 9.0, branch, branch),
            Tube(tissue.blood_hu, 3.0 - branch_x, front - 9.0, branch, branch)]


def _canal(spine: Spine) -> list[Tube]:
    """Return the epidural fat, the sac in it, and the cord down to L1."""
    canal = np.array([one.level.canal_depth for one in spine.vertebrae])
    half_width = np.array([0.5 * one.level.canal_width for one in spine.vertebrae])
    middle, zero = 0.5 * (_depths(spine) + canal), np.zeros(COUNT)
    cord = _by_level((0, 0), (4, 0), (5, 4.2), (11, 4.5))
    return [Tube(anatomy.EPIDURAL_HU, zero, middle, half_width, 0.55 * canal),
            Tube(anatomy.CSF_HU, zero, middle - 0.5, 0.7 * half_width, 0.42 * canal),
            Tube(anatomy.CORD_HU, zero, middle, 1.15 * cord, cord)]
