"""Paints what surrounds the spine: fat, muscle, organs, lung, vessels, skin and air.

It is painted on a coarse grid along the world's axes (soft edges need no more), slice by slice, and then
resampled to the scanner's grid.
"""

from dataclasses import dataclass

import numpy as np

from phantom import anatomy
from phantom.grid import Grid
from phantom.patient import Tissue
from phantom.soft_tissue import aorta_tube, axis_tube, path_of, tubes_around
from phantom.stack import Spine

SPACING_MM = 1.5
FIELD_SIZE = 96


@dataclass(frozen=True)
class Noises:
    """Smooth periodic random fields of SD 1 on the coarse grid, cubes of 96.

    `coarse` shapes bowel, gas and the unevenness of organs; `fine` makes streaks of fat and plaques.
    """

    coarse: np.ndarray
    fine: np.ndarray


@dataclass(frozen=True)
class Slice:
    """One coarse slice: positions x (X, 1) and y (1, Y), height z in mm, and the fields there (X, Y)."""

    x: np.ndarray
    y: np.ndarray
    z: float
    streaks: np.ndarray
    blobs: np.ndarray


def draw_noises(rng: np.random.Generator) -> Noises:
    """Draw the fields."""
    from scipy.ndimage import gaussian_filter

    white = rng.standard_normal((2, FIELD_SIZE, FIELD_SIZE, FIELD_SIZE), dtype=np.float32)
    coarse = gaussian_filter(white[0], 5.0, mode="wrap")
    fine = gaussian_filter(white[1], (1.0, 1.0, 2.0), mode="wrap")
    return Noises(coarse / coarse.std(), fine / fine.std())


def paint_background(grid: Grid, spine: Spine, tissue: Tissue, noises: Noises) -> np.ndarray:
    """Return the soft tissue in HU on the scanner's grid, float32."""
    from scipy.ndimage import affine_transform

    low, high = _world_bounds(grid)
    size = np.ceil((high - low) / SPACING_MM).astype(int) + 2
    axes = [low[i] + SPACING_MM * np.arange(size[i], dtype=np.float32) for i in range(3)]
    to_index = np.diag([1.0 / SPACING_MM] * 3 + [1.0])
    to_index[:3, 3] = -low / SPACING_MM
    return affine_transform(_paint_coarse(axes, spine, tissue, noises), to_index @ grid.to_world,
                            output_shape=grid.shape, order=1, mode="nearest", output=np.float32)


def _world_bounds(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the world's box around the grid, mm."""
    ends = np.array([[i, j, k, 1.0] for i in (0, grid.shape[0]) for j in (0, grid.shape[1])
                     for k in (0, grid.shape[2])])
    world = (grid.to_world @ ends.T)[:3]
    return world.min(axis=1) - SPACING_MM, world.max(axis=1)


def _paint_coarse(axes: list[np.ndarray], spine: Spine, tissue: Tissue, noises: Noises) -> np.ndarray:
    """Paint slice after slice (constant z), (X, Y, Z) float32."""
    tubes = tubes_around(spine, tissue)
    places = [path_of(spine, tube).at(axes[2]) for tube in tubes]
    middle = path_of(spine, axis_tube(spine)).at(axes[2])
    aorta = path_of(spine, aorta_tube(spine, tissue)).at(axes[2])
    fields = [_cut(field, axes[0], axes[1]) for field in (noises.fine, noises.coarse)]
    volume = np.empty(tuple(map(len, axes)), np.float32)
    for k, z in enumerate(axes[2]):
        plane = int(np.floor(z / SPACING_MM)) % FIELD_SIZE
        here = Slice(axes[0][:, None], axes[1][None, :], float(z), *(field[plane] for field in fields))
        hu = _surroundings(here, middle[k], tissue)
        for tube, place in zip(tubes, places, strict=True):
            _paint_ellipse(hu, here, tube.hu, place[k])
        _calcify(hu, here, aorta[k], tissue.calcification)
        volume[:, :, k] = hu
    return volume


def _cut(field: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return a periodic field at world positions, plane by plane, (FIELD_SIZE, X, Y)."""
    i, j = (np.floor(part / SPACING_MM).astype(int) % FIELD_SIZE for part in (x, y))
    return np.ascontiguousarray(np.moveaxis(field, 2, 0)[:, i[:, None], j[None, :]])


def _paint_ellipse(hu: np.ndarray, here: Slice, value: float, place: np.ndarray) -> None:
    """Paint one tube's uneven ellipse into a slice, within its box, with an edge of one voxel."""
    x, y, radius_x, radius_y = place
    if min(radius_x, radius_y) < 0.8:
        return
    i = slice(*np.searchsorted(here.x[:, 0], (x - 1.2 * radius_x, x + 1.2 * radius_x)))
    j = slice(*np.searchsorted(here.y[0], (y - 1.2 * radius_y, y + 1.2 * radius_y)))
    radius = np.hypot((here.x[i] - x) / radius_x, (here.y[:, j] - y) / radius_y) + 0.07 * here.blobs[i, j]
    share = np.clip(0.5 - (radius - 1.0) * min(radius_x, radius_y) / (1.2 * SPACING_MM), 0.0, 1.0)
    hu[i, j] += share * (value - hu[i, j])


def _surroundings(here: Slice, middle: np.ndarray, tissue: Tissue) -> np.ndarray:
    """Return a slice before any tube: belly or chest in front, wall behind, fat, skin, air."""
    x, y, level, depth = middle
    u, v = here.x - x, here.y - y
    warped = v + 5.0 * here.blobs
    hu = anatomy.FAT_HU + 9.0 * here.streaks
    belly = warped < -0.5 * depth - 24.0
    hu += np.clip((here.blobs + 0.25) * 5.0, 0.0, 1.0) * belly * 135.0
    hu[belly & (here.blobs > 1.75)] = anatomy.GAS_HU
    if level > 6.0:  # the diaphragm's dome: lungs reach lowest behind
        dome = 9.4 - 3.0 * np.clip((warped + 40.0) / 60.0, 0.0, 1.0) ** 1.5 + 0.0004 * (np.abs(u) - 60.0) ** 2
        hu = np.where(level > dome, _chest(u + 4.0 * here.blobs, warped, depth, here.streaks), hu)
    ring = np.hypot(u / 125.0, (warped - 4.0) / 60.0)
    hu[(warped > 18.0) & (ring > 0.5) & (ring < 1.0)] = 0.55 * anatomy.MUSCLE_HU + 0.45 * anatomy.FAT_HU
    skin = 0.5 * depth + 58.0 + tissue.fat_mm - 0.0022 * u * u
    hu = np.where(v > skin - tissue.fat_mm, anatomy.FAT_HU + 6.0 * here.streaks, hu)
    hu = np.where(v > skin - 2.0, 25.0, hu)
    return np.where(v > skin, anatomy.AIR_HU, hu).astype(np.float32)


def _chest(u: np.ndarray, v: np.ndarray, depth: float, streaks: np.ndarray) -> np.ndarray:
    """Return lung on either side, the mediastinum with the heart in front, the chest wall behind."""
    lung = anatomy.LUNG_HU + 30.0 * streaks + 600.0 * (streaks > 2.3)
    mediastinum = np.abs(u + 4.0) < 13.0 + np.clip(-v - 0.5 * depth, 0.0, 60.0) * 0.55
    heart = np.hypot((u - 22.0) / 50.0, (v + 92.0) / 46.0) < 1.0
    wall = v > 24.0 - 0.0018 * u * u
    return np.where(heart, anatomy.BLOOD_HU, np.where(mediastinum | wall, 0.0, lung))


def _calcify(hu: np.ndarray, here: Slice, aorta: np.ndarray, calcification: float) -> None:
    """Put plaques into the aorta's wall."""
    x, y, radius, _ = aorta
    if radius < 2.0 or calcification <= 0.0:
        return
    ring = np.abs(np.hypot(here.x - x, here.y - y) - radius + 0.5) < 1.3
    hu[ring & (here.streaks + 0.5 * here.blobs > 2.4 - 1.8 * calcification)] = anatomy.CALCIFICATION_HU
