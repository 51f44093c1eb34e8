"""Paints vertebrae and discs into a CT and names their voxels in the masks.

Edges are as soft as a voxel is wide along the surface's normal, so thick slices show partial volume, and a
cortex thinner than a voxel keeps its mass.
"""

from dataclasses import dataclass

import numpy as np

from phantom import anatomy
from phantom.arch import Rod, arch_rods, rib_rods
from phantom.grid import Box, Grid, box_of
from phantom.patient import Tissue
from phantom.stack import Spine
from phantom.vertebra import Vertebra

BLUR_MM = 0.55  # the scanner's own, in plane, on top of the voxel's width
TEXTURE_SIZE, TEXTURE_MM = 64, 0.8


@dataclass
class Canvas:
    """What a scan fills in: CT in HU (float32), vertebra mask and body mask (uint8)."""

    grid: Grid
    hu: np.ndarray
    mask: np.ndarray
    body: np.ndarray


def trabecular_texture(rng: np.random.Generator) -> np.ndarray:
    """Return a periodic texture of SD 1, grains longer along z than across, (64, 64, 64) float32."""
    from scipy.ndimage import gaussian_filter

    white = rng.standard_normal((2, TEXTURE_SIZE, TEXTURE_SIZE, TEXTURE_SIZE), dtype=np.float32)
    fine = gaussian_filter(white[0], (0.7, 0.7, 1.4), mode="wrap")
    coarse = gaussian_filter(white[1], (3.0, 3.0, 4.0), mode="wrap")
    return fine / fine.std() * np.float32(0.85) + coarse / coarse.std() * np.float32(0.5)


def paint_spine(canvas: Canvas, spine: Spine, tissue: Tissue, texture: np.ndarray) -> None:
    """Paint discs, ribs and vertebrae, in this order; bodies win over arches in the mask."""
    poses = spine.poses
    for pose, below, above in zip(poses, spine.vertebrae, spine.vertebrae[1:], strict=False):
        _paint_disc(canvas, pose, below, above)
    for pose, vertebra in zip(poses, spine.vertebrae, strict=True):
        _paint_ribs(canvas, pose, vertebra, tissue)
    for index, (pose, vertebra) in enumerate(zip(poses, spine.vertebrae, strict=True)):
        shifted = np.roll(texture, 17 * index, axis=(0, 1, 2))
        _paint_vertebra(canvas, pose, vertebra, tissue, shifted)


def inside_share(distance: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Return the share 0..1 of a voxel inside a surface, from its centre's distance (negative inside)."""
    share = np.clip(np.float32(0.5) - distance / np.float32(width), np.float32(0.0), np.float32(1.0))
    return share * share * (np.float32(3.0) - np.float32(2.0) * share)


def _edge_widths(box: Box) -> tuple[float, float]:
    """Return the width of an edge that faces sideways, and of one that faces up or down, mm."""
    sideways = 0.5 * float(box.reach[0] + box.reach[1])
    return float(np.hypot(sideways, BLUR_MM)) * 1.25, float(np.hypot(box.reach[2], BLUR_MM)) * 1.25


def _paint_disc(canvas: Canvas, pose: np.ndarray, below: Vertebra, above: Vertebra) -> None:
    """Fill the space above a body; the vertebrae are painted over it."""
    body = below.body
    half = np.array([0.5 * body.width, 0.0, 0.0])
    box = box_of(canvas.grid, pose, np.array([-half[0], body.front - 1.0, -4.0]) * 1.05,
                 np.array([half[0], body.back + 1.0, 0.5 * above.body.height_posterior + 16.0]) * 1.05)
    if box is None:
        return
    radius = body.radius(box.x, box.y)
    distance = (radius - np.float32(1.0)) * np.float32(0.5 * body.depth)
    share = inside_share(distance, _edge_widths(box)[0])
    hu = canvas.hu[box.slices]
    ring = anatomy.DISC_HU + 22.0 * np.clip(radius - 0.6, 0.0, 0.4)
    hu += share * (ring - hu)


def _paint_ribs(canvas: Canvas, pose: np.ndarray, vertebra: Vertebra, tissue: Tissue) -> None:
    """Paint ribs; no mask names them."""
    for rod in rib_rods(vertebra):
        box = box_of(canvas.grid, pose, *rod.bounds())
        if box is None:
            continue
        width = 0.5 * sum(_edge_widths(box))
        distance = rod.distance(box.x, box.y, box.z)
        outer, inner = inside_share(distance, width), inside_share(distance + 1.0, width)
        hu = canvas.hu[box.slices]
        hu *= 1.0 - outer
        hu += (outer - inner) * np.float32(tissue.cortex_hu * 0.8) + inner * np.float32(tissue.trabecular_hu)


def _paint_vertebra(canvas: Canvas, pose: np.ndarray, vertebra: Vertebra, tissue: Tissue,
                    texture: np.ndarray) -> None:
    """Paint a vertebra's body and arch as one bone, and label its voxels."""
    rods = arch_rods(vertebra)
    box = box_of(canvas.grid, pose, *_bounds(vertebra, rods))
    if box is None:
        return
    outer, inner = np.zeros((2, *_shape(box)), np.float32)
    is_body, is_arch = np.zeros((2, *_shape(box)), bool)
    grain = _grain(texture, box.x, box.y, box.z)
    marrow = np.float32(tissue.trabecular_hu + anatomy.ARCH_MARROW_HU) + np.float32(70.0) * grain
    core = box_of(canvas.grid, pose, *_body_bounds(vertebra))
    if core is not None:
        where = _within(core, box)
        shares = _body_shares(core, vertebra, tissue, texture)
        outer[where], inner[where], marrow[where], is_body[where] = shares
    for rod in rods:
        part = box_of(canvas.grid, pose, *rod.bounds())
        if part is None:
            continue
        where = _within(part, box)
        width = 0.5 * sum(_edge_widths(part))
        distance = rod.distance(part.x, part.y, part.z)
        np.maximum(outer[where], inside_share(distance, width), out=outer[where])
        np.maximum(inner[where], inside_share(distance + anatomy.ARCH_CORTEX_MM, width), out=inner[where])
        is_arch[where] |= distance < 0.0
    hu = canvas.hu[box.slices]
    hu *= 1.0 - outer
    cortex = np.float32(tissue.cortex_hu) * (np.float32(1.0) + np.float32(0.2) * grain)
    hu += np.maximum(outer - inner, 0.0) * cortex + inner * marrow
    _label(canvas, box, vertebra.level.label, is_body, is_arch)


def _label(canvas: Canvas, box: Box, label: int, is_body: np.ndarray, is_arch: np.ndarray) -> None:
    """Write a label where it belongs: an arch takes free voxels only, a body takes all."""
    mask = canvas.mask[box.slices]
    mask[is_arch & (mask == 0)] = label
    mask[is_body] = label
    canvas.body[box.slices][is_body] = label


def _bounds(vertebra: Vertebra, rods: list[Rod]) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the box around body and rods, mm."""
    corners = [_body_bounds(vertebra), *(rod.bounds() for rod in rods)]
    return np.min([low for low, _ in corners], axis=0), np.max([high for _, high in corners], axis=0)


def _body_bounds(vertebra: Vertebra) -> tuple[np.ndarray, np.ndarray]:
    """Return the corners of the box around the body, mm."""
    body = vertebra.body
    tall = 0.5 * max(body.height_anterior, body.height_posterior) + 2.0
    wide = 0.5 * body.width + 2.0
    return np.array([-wide, body.front - 2.0, -tall]), np.array([wide, body.back + 2.0, tall])


def _shape(box: Box) -> tuple[int, int, int]:
    """Return how many voxels a box has along each axis."""
    return box.x.shape[0], box.x.shape[1], box.x.shape[2]


def _within(part: Box, whole: Box) -> tuple[slice, slice, slice]:
    """Return a box's slices relative to the box that holds it."""
    moved = [slice(a.start - b.start, a.stop - b.start)
             for a, b in zip(part.slices, whole.slices, strict=True)]
    return moved[0], moved[1], moved[2]


def _body_shares(box: Box, vertebra: Vertebra, tissue: Tissue, texture: np.ndarray
                 ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return for a body: share inside, share inside the cortex, marrow HU, and which voxels are body."""
    body, x, y, z = vertebra.body, box.x, box.y, box.z
    radius = np.maximum(body.radius(x, y), np.float32(1e-3))
    lower, upper = vertebra.endplates(x, y)
    half = np.maximum(0.5 * (upper - lower), 1.0)
    level = np.clip((z - lower) / half - 1.0, -1.0, 1.0)  # -1 at the lower endplate, 1 at the upper
    radius /= 1.0 - np.float32(body.waist) * (1.0 - level * level) ** 2
    wall = np.hypot(x, y) * (1.0 - 1.0 / radius)
    plate = np.maximum(z - upper, lower - z)
    wall_width, plate_width = _edge_widths(box)
    outer = inside_share(wall, wall_width) * inside_share(plate, plate_width)
    inner = inside_share(wall + tissue.cortex_mm, wall_width)
    inner *= inside_share(plate + tissue.endplate_mm, plate_width)
    marrow = _marrow(box, vertebra, tissue, texture, level)
    return outer, inner, marrow, (radius <= 1.0) & (plate <= 0.0)


def _grain(texture: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Return the texture at local positions, nearest."""
    i, j, k = (np.floor(part * np.float32(1.0 / TEXTURE_MM)).astype(np.int32) & (TEXTURE_SIZE - 1)
               for part in (x, y, z))
    return texture[i, j, k]


def _marrow(box: Box, vertebra: Vertebra, tissue: Tissue, texture: np.ndarray,
            level: np.ndarray) -> np.ndarray:
    """Return trabecular HU: textured, denser towards the endplates and where bone was compacted."""
    body = vertebra.body
    material = 0.5 * level * np.float32(body.height_posterior)  # grains move with the bone
    grain = _grain(texture, box.x, box.y, material)
    loss = vertebra.loss(box.x, box.y)
    compaction = 1.0 + 1.2 * loss + 1.6 * loss * np.clip(level, 0.0, 1.0) ** 4
    vein = np.exp(-((box.x / 4.0) ** 2 + (level / 0.16) ** 2)) * (box.y > 0.1 * body.depth)
    density = tissue.trabecular_hu * (0.93 + 0.4 * level**4) + (28.0 + 0.14 * tissue.trabecular_hu) * grain
    return ((density + 40.0) * compaction - 40.0 - 60.0 * vein).astype(np.float32)
