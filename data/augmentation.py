"""Training augmentation of raw slices, so that what the network sees and what it should draw change together.

Parameters are drawn apart from their application. `draw_augmentation` takes all chance from a generator,
`augment` takes none: it is the same for a batch and for its elements, on any device.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data.context_fracture import PROFILES, ContextFractures, press_neighbours
from data.slice_affine import turn_and_scale
from data.slice_input import RawSlices
from data.slice_sampling import to_bytes

KINDS = ("flip", "intensity", "noise", "affine", "fracture")
GAIN = (0.85, 1.15)            # of the contrast with water, as between tube voltages
OFFSET = (-8.0, 8.0)           # grey levels; 35 HU
WATER = 69.5                   # grey level of 0 HU
NOISE = (0.0, 14.0)            # standard deviation in grey levels; up to 60 HU
ANGLE_DEG = (-3.0, 3.0)
SCALE = (0.9, 1.1)
SHARE = 0.5                    # of the slices that are made noisy, and of those that are turned and scaled
FRACTURE_SHARE = 0.3           # of the neighbours that are pressed, above and below alike
LOSS = (0.0, 0.6)
NEAR_SHARE = (0.35, 0.65)
COMPACTION = (0.2, 0.8)
HEAT = (0.6, 1.0)              # strongest evidence in fractured bodies of the phantom: 0.63 to 1
HEAT_PLACE = (0.2, 0.8)
KINDS_IN_PLANE = {"sagittal": ("wedge", "biconcave", "crush"), "coronal": ("biconcave", "crush")}


class Augmentation(NamedTuple):
    """What changes in each slice of a batch; (B,) float32 unless said otherwise."""

    mirror_columns: Tensor   # bool: right becomes left in a coronal slice
    mirror_distance: Tensor  # bool: a sagittal slice of the right is one of the left
    gain: Tensor             # of the contrast with water
    offset: Tensor           # grey levels
    noise: Tensor            # standard deviation, grey levels
    noise_seed: Tensor       # int64
    angle_deg: Tensor
    scale: Tensor
    fractures: ContextFractures

    def map(self, change: Callable[[Tensor], Tensor]) -> "Augmentation":
        """Return it with every tensor changed in the same way, as by an index."""
        *tensors, fractures = self
        return Augmentation._make([*map(change, tensors), ContextFractures(*map(change, fractures))])


def draw_augmentation(batch: int, kinds: Collection[str], plane: str,
                      generator: torch.Generator) -> Augmentation:
    """Draw the changes of a batch.

    Args:
        batch: slices.
        kinds: of KINDS; the others change nothing, and do not change what is drawn for these.
        plane: `sagittal` or `coronal`. A sagittal slice is never mirrored front to back.
        generator: source of chance.
    """
    def between(limits: tuple[float, float], *shape: int) -> Tensor:
        return limits[0] + (limits[1] - limits[0]) * torch.rand(batch, *shape, generator=generator)

    def chosen(share: float, kind: str, *shape: int) -> Tensor:
        return (torch.rand(batch, *shape, generator=generator) < share) & (kind in kinds)

    mirrored = chosen(0.5, "flip")
    tinted, noisy, moved = chosen(1.0, "intensity"), chosen(SHARE, "noise"), chosen(SHARE, "affine")
    pressed = chosen(FRACTURE_SHARE, "fracture", 2)
    forms = torch.tensor([list(PROFILES).index(form) for form in KINDS_IN_PLANE[plane]])
    return Augmentation(
        mirror_columns=mirrored & (plane == "coronal"),
        mirror_distance=mirrored & (plane == "sagittal"),
        gain=torch.where(tinted, between(GAIN), 1.0),
        offset=torch.where(tinted, between(OFFSET), 0.0),
        noise=torch.where(noisy, between(NOISE), 0.0),
        noise_seed=torch.randint(2**62, (batch,), generator=generator),
        angle_deg=torch.where(moved, between(ANGLE_DEG), 0.0),
        scale=torch.where(moved, between(SCALE), 1.0),
        fractures=ContextFractures(
            loss=torch.where(pressed, between(LOSS, 2), 0.0),
            kind=forms[torch.randint(len(forms), (batch, 2), generator=generator)],
            near_share=between(NEAR_SHARE, 2), compaction=between(COMPACTION, 2),
            heat=between(HEAT, 2), heat_place=between(HEAT_PLACE, 2)))


def augment(raw: RawSlices, augmentation: Augmentation) -> RawSlices:
    """Change slices as was drawn; without chance, and equal for a batch and its elements.

    The target, its extent, the neighbours, the heatmap and the distance stay consistent with the CT. Pixels
    of exactly 0, outside the scan or air, are neither tinted nor noisy.

    Args:
        raw: slices, on any device.
        augmentation: (B,) each.
    """
    changes = augmentation.map(lambda tensor: tensor.to(raw.ct.device, non_blocking=True))
    if augmentation.fractures.loss.any():
        raw = press_neighbours(raw, changes.fractures)
    if ((augmentation.scale != 1.0) | (augmentation.angle_deg != 0.0)).any():
        raw = turn_and_scale(raw, changes.angle_deg, changes.scale)
    raw = mirror(raw, changes.mirror_columns, changes.mirror_distance)
    ct = tint(raw.ct, changes.gain, changes.offset)
    if augmentation.noise.any():
        ct = add_noise(ct, changes.noise, changes.noise_seed)
    return raw._replace(ct=ct)


def mirror(raw: RawSlices, columns: Tensor, distance: Tensor) -> RawSlices:
    """Mirror the slices, or what their distance says, where (B,) bool says so."""
    def mirrored(images: Tensor) -> Tensor:
        return torch.where(columns[:, None, None, None], images.flip(3), images)

    return raw._replace(
        ct=mirrored(raw.ct), body=mirrored(raw.body), neighbours=mirrored(raw.neighbours),
        heatmap=mirrored(raw.heatmap), distance=torch.where(distance, -raw.distance, raw.distance))


def tint(ct: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Stretch the contrast of CT (B, 1, R, C) uint8 about water and shift it; 0 stays 0.

    Args:
        ct: grey levels.
        gain, offset: (B,).
    """
    gain, offset = gain[:, None, None, None], offset[:, None, None, None]
    return torch.where(ct > 0, to_bytes(WATER + (ct - WATER) * gain + offset), ct)


def add_noise(ct: Tensor, strength: Tensor, seed: Tensor) -> Tensor:
    """Add noise to CT (B, 1, R, C) uint8; 0 stays 0.

    Args:
        ct: grey levels.
        strength: (B,) standard deviation in grey levels.
        seed: (B,) int64; one seed gives one pattern, on every device.
    """
    noise = strength[:, None] * white_noise(seed, ct[0].numel())                          # (B, R * C)
    return torch.where(ct > 0, to_bytes(ct + noise.view_as(ct)), ct)


def white_noise(seed: Tensor, count: int) -> Tensor:
    """Return nearly normal noise of mean 0 and standard deviation 1, (B, count), from seeds (B,).

    Each number is the sum of the four 16-bit words of a hashed counter (as SplitMix64, Steele et al. 2014):
    whole numbers to the end, so that nothing depends on the device or on the batch.
    """
    state = seed[:, None] + torch.arange(count, device=seed.device) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        state = (state ^ _shifted(state, shift)) * factor
    state = state ^ _shifted(state, 31)
    words: Any = sum((state >> shift) & 0xFFFF for shift in (0, 16, 32, 48))
    return (words.float() - 2 * 65535.0) / (65536.0 / 3**0.5)


def _shifted(state: Tensor, places: int) -> Tensor:
    """Shift int64 to the right and fill with zeros."""
    return (state >> places) & (2**(64 - places) - 1)
