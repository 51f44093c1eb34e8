"""What surrounds the spine: muscle, fat, canal, vessels, organs, lung, skin and air.

Painted on a coarse grid along the world's axes (soft edges need no more), slice by slice, then resampled to
the scanner's grid. Each tube follows the spine: its middle is given in every vertebra's local frame.
"""

from dataclasses import dataclass

import numpy as np

from phantom import anatomy
from phantom.grid import Grid
from phantom.patient import Tissue
from phantom.stack import Spine

SPACING_MM = 1.5
LEVEL_INDEX = {"S1": 0, "L5": 1, "L4": 2, "L3": 3, "L2": 4, "L1": 5, "T12": 6, "T11": 7, "T10": 8, "T9": 9,
               "T8": 10, "T7": 11}


@dataclass(frozen=True)
class Tube:
    """An elliptical structure along the spine: middle and radii in mm by level index (caudal to cranial)."""

    hu: float
    x: np.ndarray  # (levels,)
    y: np.ndarray  # behind the middle of the body
    radius_x: np.ndarray  # 0 where the structure is not there
    radius_y: np.ndarray


def _by_level(*pairs: tuple[float, float]) -> np.ndarray:
    """Interpolate (level index, value) pairs over all levels."""
    index, value = zip(*pairs, strict=True)
    return np.interp(np.arange(len(LEVEL_INDEX)), index, value)


def _tubes(spine: Spine, tissue: Tissue) -> list[Tube]:
    """Return the structures in the order in which they are painted."""
    depth = np.array([one.body.depth for one in spine.vertebrae])
    width = np.array([one.body.width for one in spine.vertebrae])
    canal = np.array([one.level.canal_depth for one in spine.vertebrae])
    half_canal = np.array([0.5 * one.level.canal_width for one in spine.vertebrae])
    muscle = anatomy.MUSCLE_HU - 60.0 * tissue.muscle_fat
    tubes: list[Tube] = []
    for side in (-1.0, 1.0):
        tubes += _muscles(side, depth, width, muscle) + _organs(side, tissue)
    behind = 0.5 * (depth + canal)
    tubes += _vessels(depth, tissue)
    tubes.append(Tube(-35.0, 0.0 * depth, behind, half_canal, 0.55 * canal))
    tubes.append(Tube(anatomy.CSF_HU, 0.0 * depth, behind - 0.5, 0.7 * half_canal, 0.42 * canal))
    cord = _by_level((0, 0), (4, 0), (5, 4.2), (11, 4.5))
    tubes.append(Tube(anatomy.CORD_HU, 0.0 * depth, behind, 1.15 * cord, cord))
    return tubes


def _muscles(side: float, depth: np.ndarray, width: np.ndarray, hu: float) -> list[Tube]:
    """Return erector spinae, multifidus, quadratus lumborum and psoas of one side."""
    back = 0.5 * depth
    psoas = _by_level((0, 19), (1, 20), (3, 15), (5, 5), (6, 0), (11, 0))
    quadratus = _by_level((0, 0), (1, 13), (4, 11), (6, 0), (11, 0))
    erector = _by_level((0, 15), (2, 25), (5, 26), (8, 21), (11, 18))
    return [Tube(hu, side * (erector + 11.0), back + 35.0, erector, _by_level((0, 12), (3, 20), (11, 13))),
            Tube(hu, side * _by_level((0, 11), (11, 9)), back + 34.0, 0.0 * back + 9.5,
                 _by_level((0, 14), (3, 15), (11, 9))),
            Tube(hu, side * 66.0 + 0.0 * back, back + 8.0, 0.8 * quadratus, quadratus),
            Tube(hu, side * (0.5 * width + 0.72 * psoas), 0.0 * back + 1.0, psoas, 1.15 * psoas)]


def _organs(side: float, tissue: Tissue) -> list[Tube]:
    """Return kidney and, on the right, liver; on the left, spleen."""
    ones = np.ones(len(LEVEL_INDEX))
    kidney = _by_level((0, 0), (2.4, 0), (3, 20), (4.5, 27), (6, 22), (6.8, 0), (11, 0))
    large = _by_level((0, 0), (3.5, 0), (5, 35), (8, 52), (9.5, 40), (10.5, 0), (11, 0))
    small = _by_level((0, 0), (5, 0), (6, 22), (8, 24), (9, 0), (11, 0))
    organ = large if side < 0.0 else small
    return [Tube(anatomy.LIVER_HU + 0.3 * (tissue.kidney_hu - anatomy.KIDNEY_HU), side * 85.0 * ones,
                 (-35.0 if side < 0.0 else 5.0) * ones, organ, 1.2 * organ),
            Tube(tissue.kidney_hu, side * 60.0 * ones, -8.0 * ones, kidney, 0.95 * kidney),
            Tube(anatomy.FAT_HU, side * 50.0 * ones, -14.0 * ones, 0.35 * kidney, 0.3 * kidney)]


def _vessels(depth: np.ndarray, tissue: Tissue) -> list[Tube]:
    """Return the aorta, its two iliac branches and the inferior vena cava."""
    front = -0.5 * depth
    aorta = _by_level((0, 0), (1.6, 0), (1.7, 9), (5, 10.5), (11, 12.5))
    branch = _by_level((0, 6), (1.6, 7), (1.9, 0), (11, 0))
    cava = _by_level((0, 0), (1.4, 0), (1.6, 11), (7, 12), (8.5, 12), (9, 0), (11, 0))
    aside = _by_level((0, 8), (3, 8), (6, 8), (8, 14), (11, 18))
    branch_x = _by_level((0, 26), (1, 14), (1.9, 6), (11, 6))
    return [Tube(0.7 * tissue.blood_hu + 12.0, 0.0 * depth - 19.0, front - 9.0, cava, 0.7 * cava),
            Tube(tissue.blood_hu, branch_x + 3.0, front - 9.0, branch, branch),
            Tube(tissue.blood_hu, 3.0 - branch_x, front - 9.0, branch, branch),
            Tube(tissue.blood_hu, aside, front - aorta - _by_level((0, 3), (6, 3), (11, -8)), aorta, aorta)]


@dataclass(frozen=True)
class Noises:
    """Smooth random fields that make organs, gas, streaks of fat and calcified plaques, SD 1, cubes."""

    coarse: np.ndarray
    fine: np.ndarray


def draw_noises(rng: np.random.Generator) -> Noises:
    """Draw the fields, (48, 48, 48) and (96, 96, 96), periodic."""
    from scipy.ndimage import gaussian_filter

    coarse = gaussian_filter(rng.standard_normal((48, 48, 48), dtype=np.float32), 2.0, mode="wrap")
    fine = gaussian_filter(rng.standard_normal((96, 96, 96), dtype=np.float32), (1.0, 1.0, 2.0), mode="wrap")
    return Noises(coarse / coarse.std(), fine / fine.std())


def paint_background(grid: Grid, spine: Spine, tissue: Tissue, noises: Noises) -> np.ndarray:
    """Return the soft tissue in HU on the scanner's grid, float32."""
    from scipy.ndimage import affine_transform

    low, high = _world_bounds(grid)
    size = np.ceil((high - low) / SPACING_MM).astype(int) + 2
    coarse = _paint_coarse(low, size, spine, tissue, noises)
    to_index = np.diag([1.0 / SPACING_MM] * 3 + [1.0]) @ np.block(
        [[np.eye(3), -low[:, None]], [np.zeros((1, 3)), np.ones((1, 1))]]) @ grid.to_world
    return affine_transform(coarse, to_index, output_shape=grid.shape, order=1, mode="nearest",
                            output=np.float32)


def _world_bounds(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the world's box around the grid, mm."""
    ends = np.array([[i, j, k, 1.0] for i in (0, grid.shape[0]) for j in (0, grid.shape[1])
                     for k in (0, grid.shape[2])])
    world = (grid.to_world @ ends.T)[:3]
    return world.min(axis=1) - SPACING_MM, world.max(axis=1)


def _paint_coarse(low: np.ndarray, size: np.ndarray, spine: Spine, tissue: Tissue,
                  noises: Noises) -> np.ndarray:
    """Paint slice after slice (constant z), (X, Y, Z) float32."""
    tubes = _tubes(spine, tissue)
    paths = [_path(spine, tube) for tube in tubes]
    x = (low[0] + SPACING_MM * np.arange(size[0], dtype=np.float32))[:, None]
    y = (low[1] + SPACING_MM * np.arange(size[1], dtype=np.float32))[None, :]
    middle = _path(spine, _axis_tube(spine))
    volume = np.empty(tuple(size), np.float32)
    for k in range(size[2]):
        z = float(low[2] + SPACING_MM * k)
        hu = _surroundings(x, y, z, middle, tissue, noises)
        for tube, path in zip(tubes, paths, strict=True):
            _paint_ellipse(hu, x, y, tube.hu, path, z)
        _calcify(hu, x, y, z, paths[-4], tissue, noises)
        volume[:, :, k] = hu
    return volume


@dataclass(frozen=True)
class Path:
    """A tube in the world: middle and radii at ascending heights z, mm."""

    z: np.ndarray
    columns: np.ndarray  # (levels, 4): x, y, radius x, radius y

    def at(self, z: float) -> list[float]:
        """Return x, y, radius x and radius y at height z."""
        return [float(np.interp(z, self.z, self.columns[:, i])) for i in range(4)]


def _axis_tube(spine: Spine) -> Tube:
    """Return the spine's own axis; its radii are the level index and the body's depth."""
    zero = np.zeros(len(spine.vertebrae))
    depth = np.array([one.body.depth for one in spine.vertebrae])
    return Tube(0.0, zero, zero, np.arange(len(spine.vertebrae), dtype=float), depth)


def _path(spine: Spine, tube: Tube) -> Path:
    """Carry a tube from the vertebrae's frames to the world; it runs on straight beyond either end."""
    local = np.stack([tube.x, tube.y, 0.0 * tube.x, np.ones(len(tube.x))], axis=1)
    world = np.array([pose @ point for pose, point in zip(spine.poses(), local, strict=True)])[:, :3]
    return Path(world[:, 2], np.c_[world[:, :2], tube.radius_x, tube.radius_y])


def _paint_ellipse(hu: np.ndarray, x: np.ndarray, y: np.ndarray, value: float, path: Path, z: float) -> None:
    """Paint one tube's ellipse into a slice, within its box, with an edge of one voxel."""
    middle_x, middle_y, radius_x, radius_y = path.at(z)
    if min(radius_x, radius_y) < 0.8:
        return
    rows = np.flatnonzero(np.abs(x[:, 0] - middle_x) < radius_x + SPACING_MM)
    columns = np.flatnonzero(np.abs(y[0] - middle_y) < radius_y + SPACING_MM)
    if not len(rows) or not len(columns):
        return
    block = np.s_[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    radius = np.hypot((x[block[0]] - middle_x) / radius_x, (y[:, block[1]] - middle_y) / radius_y)
    share = np.clip(0.5 - (radius - 1.0) * min(radius_x, radius_y) / (1.2 * SPACING_MM), 0.0, 1.0)
    hu[block] += share * (value - hu[block])


def _periodic(field: np.ndarray, x: np.ndarray, y: np.ndarray, z: float, spacing_mm: float) -> np.ndarray:
    """Return a slice of a periodic field at world positions, nearest."""
    period = field.shape[0]
    i, j = ((np.floor(part / spacing_mm).astype(int) % period) for part in (x, y))
    return field[i, j, int(np.floor(z / spacing_mm)) % period]


def _surroundings(x: np.ndarray, y: np.ndarray, z: float, middle: Path, tissue: Tissue,
                  noises: Noises) -> np.ndarray:
    """Return a slice before any tube: belly or chest in front, wall behind, fat, skin, air."""
    centre_x, centre_y, level, depth = middle.at(z)
    u, v = x - centre_x, y - centre_y
    streaks = _periodic(noises.fine, x, y, z, SPACING_MM)
    blobs = _periodic(noises.coarse, x, y, z, SPACING_MM)
    hu = np.float32(anatomy.FAT_HU) + np.float32(9.0) * streaks
    bowel = np.clip((blobs - 0.1) * 3.0, 0.0, 1.0) * (v < -0.5 * depth - 22.0)
    hu += bowel * np.float32(135.0)
    chest = float(np.clip((level - 7.2) * 1.5, 0.0, 1.0))
    if chest > 0.0:
        hu += chest * (_chest(u, v, depth, streaks) - hu)
    wall = np.hypot(u / 125.0, (v - 4.0) / 60.0)
    hu = np.where((v > 18.0) & (wall > 0.5) & (wall < 1.0), hu + 0.55 * (anatomy.MUSCLE_HU - hu), hu)
    skin = 0.5 * depth + 58.0 + tissue.fat_mm - 0.0022 * u * u
    hu = np.where(v > skin - tissue.fat_mm, anatomy.FAT_HU + 6.0 * streaks, hu)
    hu = np.where(v > skin - 2.0, 25.0, hu)
    return np.where(v > skin, np.float32(anatomy.AIR_HU), hu).astype(np.float32)


def _chest(u: np.ndarray, v: np.ndarray, depth: float, streaks: np.ndarray) -> np.ndarray:
    """Return lung on either side, the mediastinum with the heart in front."""
    lung = np.float32(anatomy.LUNG_HU) + 30.0 * streaks + 600.0 * (streaks > 2.3)
    mediastinum = np.abs(u + 4.0) < 13.0 + np.clip(-v - 0.5 * depth, 0.0, 60.0) * 0.55
    heart = np.hypot((u - 22.0) / 50.0, (v + 92.0) / 46.0) < 1.0
    wall = v > 24.0 - 0.0018 * u * u
    return np.where(mediastinum | heart | wall, np.where(heart, 48.0, anatomy.FAT_HU + 95.0), lung)


def _calcify(hu: np.ndarray, x: np.ndarray, y: np.ndarray, z: float, aorta: Path, tissue: Tissue,
             noises: Noises) -> None:
    """Put plaques into the aorta's wall."""
    middle_x, middle_y, radius, _ = aorta.at(z)
    if radius < 2.0 or tissue.calcification <= 0.0:
        return
    ring = np.abs(np.hypot(x - middle_x, y - middle_y) - radius + 0.5) < 1.3
    plaque = _periodic(noises.fine, 0.5 * x, 0.5 * y, 0.3 * z, SPACING_MM) > 1.9 - 1.6 * tissue.calcification
    hu[ring & plaque] = anatomy.CALCIFICATION_HU
