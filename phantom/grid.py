"""The scanner's voxel grid, and the part of it that an object's box covers."""

from dataclasses import dataclass

import numpy as np

from util.volume import RAS_FROM_LPS

AXIS_DIRECTIONS = {"L": (-1, 0, 0), "R": (1, 0, 0), "P": (0, -1, 0), "A": (0, 1, 0), "S": (0, 0, 1),
                   "I": (0, 0, -1)}


@dataclass(frozen=True)
class Grid:
    """A voxel grid: shape and affine (voxel to world, RAS positive, mm)."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @property
    def to_world(self) -> np.ndarray:
        """Voxel to the phantom's world (left, posterior, superior positive), 4 x 4."""
        return RAS_FROM_LPS @ self.affine


@dataclass(frozen=True)
class Box:
    """A block of voxels and the local coordinates of its voxel centres, each (I, J, K) float32, mm."""

    slices: tuple[slice, slice, slice]
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    reach: np.ndarray  # (3,): how far a voxel extends along local x, y and z, mm


def make_grid(codes: str, spacing_mm: np.ndarray, turn: np.ndarray, corners: np.ndarray) -> Grid:
    """Return the grid that covers world points.

    Args:
        codes: axis codes, e.g. 'LPS'.
        spacing_mm: (3,), by voxel axis.
        turn: (3, 3) rotation of the grid away from the anatomical axes, world.
        corners: (N, 3) world points (left, posterior, superior positive) that must lie inside.
    """
    anatomical = np.array([AXIS_DIRECTIONS[code] for code in codes], float).T  # columns, RAS
    directions = RAS_FROM_LPS[:3, :3] @ turn @ RAS_FROM_LPS[:3, :3] @ anatomical
    along = corners @ RAS_FROM_LPS[:3, :3] @ directions
    low, high = along.min(axis=0), along.max(axis=0)
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing_mm
    affine[:3, 3] = directions @ low
    shape = np.ceil((high - low) / spacing_mm).astype(int) + 1
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def box_of(grid: Grid, pose: np.ndarray, low: np.ndarray, high: np.ndarray) -> Box | None:
    """Return the voxels that a local box (low to high, mm) covers; None where it lies outside the grid.

    Args:
        grid: voxels.
        pose: local to world, 4 x 4.
        low: (3,) corner.
        high: (3,) corner.
    """
    to_local = np.linalg.inv(pose) @ grid.to_world
    choose = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    corners = np.where(choose, high, low)
    voxels = (np.linalg.inv(to_local) @ np.c_[corners, np.ones(8)].T)[:3]
    first = np.clip(np.floor(voxels.min(axis=1)).astype(int), 0, grid.shape)
    last = np.clip(np.ceil(voxels.max(axis=1)).astype(int) + 1, 0, grid.shape)
    if np.any(first >= last):
        return None
    axes = np.ogrid[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    local = [sum((row[i] * axes[i]).astype(np.float32) for i in range(3)) + np.float32(row[3])
             for row in to_local[:3]]
    slices = (slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2]))
    return Box(slices, local[0], local[1], local[2], np.abs(to_local[:3, :3]).sum(axis=1))
