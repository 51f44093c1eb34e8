"""Batches for the fracture classifier: balanced draws of slices, and their augmentation.

Chance is apart from work: `draw_*` takes a generator, the rest is deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from Attention.body_slices import central_part, cut_body_slices
from data.straightened import read_straightened
from util.errors import InputError
from util.vertebrae import split_case
from util.wording import counted

CENTRAL_FRACTION = 0.8  # beyond it a slice cuts the body's flank, whose height says little


class Vertebra(NamedTuple):
    """One vertebra's slices from the central part of its body."""

    case: str
    grade: int
    images: np.ndarray  # (S, rows, columns) uint8


class Augmentation(NamedTuple):
    """How each slice of a batch is changed."""

    affine: Tensor  # (B, 2, 3) output to input, in units of half the image
    gain: Tensor  # (B, 1, 1, 1)
    offset: Tensor  # (B, 1, 1, 1) in units of the full intensity range
    noise: Tensor  # (B, 1, R, C) likewise


def read_vertebrae(
    dataroot: Path, grades: dict[str, int], plane: str, rows: int, columns: int, title: str
) -> list[Vertebra]:
    """Reads the central slices of every case.

    Raises:
        InputError: one line that lists every case that cannot be read.
    """
    from tqdm import tqdm

    vertebrae, problems = [], []
    for case, grade in tqdm(grades.items(), desc=f"reading {title}", unit="vertebra"):
        try:
            ct, label = read_straightened(dataroot, case)
        except InputError as error:
            problems.append(str(error))
            continue
        slices = cut_body_slices(ct.array, label.array == split_case(case)[1], plane, rows, columns)
        kept = central_part(len(slices.images), CENTRAL_FRACTION)
        vertebrae.append(Vertebra(case, grade, slices.images[kept]))
    if problems:
        raise InputError(f"{len(problems)} of {counted(len(grades), 'case')} of {title}: "
                         f"{'; '.join(problems)}")
    return vertebrae


def draw_balanced(
    grades: Sequence[int], healthy_max_grade: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Indices (count,) of vertebrae, healthy and fractured in turn."""
    fractured = np.asarray(grades) > healthy_max_grade
    pools = np.flatnonzero(~fractured), np.flatnonzero(fractured)
    drawn = np.empty(count, int)
    for offset, pool in enumerate(pools):
        drawn[offset::2] = rng.choice(pool, len(drawn[offset::2]))
    return drawn


def draw_slice(count: int, rng: np.random.Generator) -> int:
    """One of `count` slices, the central one twice as likely as the outermost."""
    distance = np.abs(np.linspace(-1.0, 1.0, count)) if count > 1 else np.zeros(1)
    weights = 1.0 - 0.5 * distance
    return int(rng.choice(count, p=weights / weights.sum()))


def draw_batch(
    vertebrae: Sequence[Vertebra], healthy_max_grade: int, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Slices (count, rows, columns) uint8 and whether each is fractured (count,) float32."""
    drawn = [
        vertebrae[index]
        for index in draw_balanced([vertebra.grade for vertebra in vertebrae], healthy_max_grade, count, rng)
    ]
    images = np.stack([vertebra.images[draw_slice(len(vertebra.images), rng)] for vertebra in drawn])
    return images, np.array([vertebra.grade > healthy_max_grade for vertebra in drawn], np.float32)


def _between(low: float, high: float, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Uniform draws."""
    return low + (high - low) * torch.rand(*shape, generator=generator)


def draw_augmentation(shape: Sequence[int], plane: str, generator: torch.Generator) -> Augmentation:
    """Shift by up to 4 mm, scale by 8 %, tilt by 5 degrees, contrast, brightness, noise, mirroring.

    Mirroring swaps the upper and lower side and, in coronal slices, right and left; never front and back,
    which tell a wedge fracture.

    Args:
        shape: (B, 1, R, C) of the batch.
        plane: `sagittal` or `coronal`.
        generator: source of chance.
    """
    batch, _, rows, columns = shape
    angle = torch.deg2rad(_between(-5.0, 5.0, (batch,), generator))
    scale = _between(0.92, 1.08, (batch,), generator)
    row_sign, column_sign = (torch.randint(0, 2, (2, batch), generator=generator) * 2 - 1).float()
    if plane == "sagittal":
        column_sign = torch.ones(batch)
    cosine, sine, aspect = torch.cos(angle) * scale, torch.sin(angle) * scale, rows / columns
    shift = _between(-4.0, 4.0, (2, batch), generator)  # mm
    across = torch.stack([cosine * column_sign, -sine * aspect * row_sign, shift[0] * 2 / columns], dim=1)
    along = torch.stack([sine / aspect * column_sign, cosine * row_sign, shift[1] * 2 / rows], dim=1)
    strength = _between(0.0, 0.06, (batch, 1, 1, 1), generator)
    return Augmentation(
        affine=torch.stack([across, along], dim=1),
        gain=_between(0.8, 1.25, (batch, 1, 1, 1), generator),
        offset=_between(-0.08, 0.08, (batch, 1, 1, 1), generator),
        noise=strength * torch.randn(*shape, generator=generator),
    )


def augment(slices: Tensor, changes: Augmentation) -> Tensor:
    """Applies an augmentation to slices (B, 1, R, C) in -1..1; what comes in from outside is air."""
    unit = (slices + 1.0) / 2.0
    grid = functional.affine_grid(changes.affine.to(slices), list(slices.shape), align_corners=False)
    moved = functional.grid_sample(unit, grid, align_corners=False)
    tinted = moved * changes.gain.to(slices) + changes.offset.to(slices) + changes.noise.to(slices)
    return tinted.clamp(0.0, 1.0) * 2.0 - 1.0
