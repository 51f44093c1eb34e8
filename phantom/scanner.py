"""The scanner: how it lays its grid over a spine, and the noise that it adds."""

from dataclasses import dataclass

import numpy as np

from phantom.grid import Grid, make_grid
from phantom.stack import Spine, rotation

HU_RANGE = (-1024.0, 3071.0)
SCANNERS = ("varied", "isotropic", "both")
ISOTROPIC_NOISE_HU = (100.0, 140.0)  # VerSe's at 1 mm and a sharp kernel: 100 to 180
PROTOCOLS = ("LPS", "RAS", "PIR", "oblique PIR", "oblique LPS", "LAS")


@dataclass(frozen=True)
class Scan:
    """How a patient is scanned. Lengths in mm."""

    codes: str  # axis codes of the grid
    spacing_mm: np.ndarray  # (3,), by voxel axis
    turn: np.ndarray  # (3, 3): the grid away from the anatomical axes
    field_mm: tuple[float, float]  # right-left and front-back extent
    ends_mm: tuple[float, float]  # shown below L5's and above T8's middle
    noise_hu: float
    noise_grain: float  # SD of the noise's correlation in plane, voxels


def draw_scan(rng: np.random.Generator, index: int, scanner: str = "varied") -> Scan:
    """Draw a scan.

    Args:
        rng: random state.
        index: the patient's number; orientations take turns, so that a small cohort holds each.
        scanner: `varied`; `isotropic` for voxels of 1 mm as noisy as VerSe's with a sharp kernel; or `both`,
            in runs of six patients.
    """
    if scanner == "isotropic" or (scanner == "both" and index // len(PROTOCOLS) % 2):
        field, noise = (rng.uniform(96.0, 108.0), 180.0), rng.uniform(*ISOTROPIC_NOISE_HU)
        return Scan("PIR", np.ones(3), np.eye(3), field, _draw_ends(rng), noise, 0.35)
    protocol = PROTOCOLS[index % len(PROTOCOLS)]
    codes = protocol.split()[-1]
    sagittal = codes == "PIR"
    thick = rng.uniform(1.5, 3.0) if sagittal else float(rng.choice([1.0, 1.5, 2.0, 3.0]))
    in_plane = rng.uniform(0.8, 1.0) if sagittal or thick < 1.25 else rng.uniform(0.7, 0.95)
    spacing = np.full(3, in_plane)
    spacing[next(i for i, code in enumerate(codes) if code in ("LR" if sagittal else "SI"))] = thick
    sharp = rng.random() < 0.5
    noise = rng.uniform(70.0, 130.0) / np.sqrt(thick) if sharp else rng.uniform(45.0, 75.0) / np.sqrt(thick)
    wide = rng.uniform(138.0, 150.0 if thick < 1.75 else 175.0)
    field = (rng.uniform(84.0, 108.0), 180.0) if sagittal else (wide, wide)
    tilt = _draw_turn(rng) if protocol.startswith("oblique") else np.eye(3)
    return Scan(codes, np.round(spacing, 3), tilt, field, _draw_ends(rng),
                noise, 0.35 if sharp else 0.75)


def _draw_ends(rng: np.random.Generator) -> tuple[float, float]:
    """Draw how far the scan reaches below L5's and above T8's middle, mm."""
    return rng.uniform(38.0, 60.0), rng.uniform(22.0, 38.0)


def _draw_turn(rng: np.random.Generator) -> np.ndarray:
    """Draw a rotation of a few degrees about every axis, (3, 3)."""
    degrees = rng.uniform(3.0, 9.0, 3) * rng.choice([-1.0, 1.0], 3)
    return (rotation(0, degrees[0]) @ rotation(1, degrees[1]) @ rotation(2, degrees[2]))[:3, :3]


def lay_grid(scan: Scan, *spines: Spine) -> Grid:
    """Return the grid that shows T8 to L5 of every one of the spines whole, along the grid's own axes."""
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for spine in spines:
        for pose, vertebra in zip(spine.poses, spine.vertebrae, strict=True):
            if vertebra.level.label:
                beside = 0.5 * vertebra.body.width + 8.0
                local = np.array([[x, y, z, 1.0] for x in (-beside, beside) for z in (-12.0, 12.0)
                                  for y in (vertebra.body.front - 10.0, 68.0)])
                points = (pose @ local.T)[:3].T @ scan.turn
                low, high = np.minimum(low, points.min(axis=0)), np.maximum(high, points.max(axis=0))
    low[2], high[2] = low[2] - scan.ends_mm[0] + 12.0, high[2] + scan.ends_mm[1] - 12.0
    centre = 0.5 * (low + high)
    half = np.maximum(0.5 * np.array([*scan.field_mm, 0.0]), 0.5 * (high - low))
    corners = np.array([centre - half, centre + half])
    choose = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    return make_grid(scan.codes, scan.spacing_mm, scan.turn,
                     np.where(choose, corners[1], corners[0]) @ scan.turn.T)


def draw_noise(rng: np.random.Generator, grid: Grid, scan: Scan) -> np.ndarray:
    """Draw the scan's noise in HU, float32; its grain lies in the plane of the slices."""
    from scipy.ndimage import gaussian_filter1d

    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    thick = int(np.argmax(scan.spacing_mm))
    for axis in {0, 1, 2} - {thick}:
        noise = gaussian_filter1d(noise, scan.noise_grain, axis=axis, truncate=3.0)
    noise *= np.float32(scan.noise_hu / noise.std())
    return noise


def to_integer(hu: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Return the CT that the scanner stores, int16 HU; air is as noisy as the rest but cut off at -1024."""
    return np.rint(np.clip(hu + noise, *HU_RANGE)).astype(np.int16)
