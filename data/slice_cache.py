"""Slices of many vertebrae, ready to be gathered: each 0.1 MB of uint8, 3 to 4 MB a vertebra.

Where they lie is --cache: `memory` maps the files of a store on disk, which the system keeps in memory and
shares among processes; `device` holds all of them as one tensor on the device that trains; `none` keeps
none and reads the volumes again for every slice. A draw gives the same bytes everywhere.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from data.aligned_dataset import Draw, SliceImages, VertebraSlices, slice_weights
from data.slice_input import RawSlices
from util.errors import InputError
from util.vertebrae import split_case

DEVICE_SHARE = 0.5  # of the free memory of a GPU that slices may take; the rest is for training


class Gathering(Protocol):
    """Images of all slices of a store."""

    def take(self, draw: Draw, index: Tensor) -> Tensor:
        """Return the slices of a draw, (B, K, R, C) uint8 on the store's device.

        Args:
            draw: on the CPU.
            index: (B,) the same slices, counted over all vertebrae, on the device.
        """
        ...


class HostImages:
    """Images in the host's memory, mapped into it, or cut as they are asked for."""

    def __init__(self, parts: Sequence[SliceImages], device: str) -> None:
        self.parts, self.device = parts, device         # one part a vertebra

    def take(self, draw: Draw, index: Tensor) -> Tensor:
        """Copy slices side by side, for a GPU into pinned memory, from which they travel unwaited for."""
        pairs = zip(draw.vertebra.tolist(), draw.place.tolist(), strict=True)
        slices = [self.parts[vertebra][place] for vertebra, place in pairs]              # (K, R, C) each
        batch = torch.empty(len(slices), *slices[0].shape, dtype=torch.uint8,
                            pin_memory=self.device.startswith("cuda"))
        np.stack(slices, out=batch.numpy())
        return batch.to(self.device, non_blocking=True)


class DeviceImages:
    """Images of all slices as one tensor on the device."""

    def __init__(self, parts: Sequence[SliceImages], device: str) -> None:
        counts = [len(part) for part in parts]
        self.images = torch.empty(sum(counts), *parts[0][0].shape, dtype=torch.uint8, device=device)
        for part, place in zip(parts, self.images.split(counts), strict=True):            # (S, K, R, C)
            place.copy_(torch.from_numpy(np.asarray(part)))

    def take(self, draw: Draw, index: Tensor) -> Tensor:
        """Index the tensor; the host waits for nothing."""
        return self.images.index_select(0, index)


class SliceStore:
    """Vertebrae by number, with the weight of each of their slices.

    Args:
        vertebrae: in the order in which they are numbered.
        device: where batches are wanted.
        on_device: keep all images there.
    """

    def __init__(self, vertebrae: Sequence[VertebraSlices], device: str = "cpu", *,
                 on_device: bool = False) -> None:
        self.cases = [vertebra.case for vertebra in vertebrae]
        self.measures_mm = [vertebra.measures_mm for vertebra in vertebrae]               # (5,) or None each
        counts = [len(vertebra.distance) for vertebra in vertebrae]
        weights = np.zeros((len(vertebrae), max(counts, default=0)))
        for row, vertebra in zip(weights, vertebrae, strict=True):
            row[:len(vertebra.distance)] = slice_weights(vertebra.distance)
        self.weights = torch.from_numpy(weights)                                          # (V, longest)
        self.first = torch.tensor([0, *counts]).cumsum(0)                                 # (V + 1,)
        images = [vertebra.images for vertebra in vertebrae]
        self.images: Gathering = (DeviceImages if on_device and images else HostImages)(images, device)
        self._describe(vertebrae, device)

    def _describe(self, vertebrae: Sequence[VertebraSlices], device: str) -> None:
        """Keep what goes with each slice on the device, (N,) each."""
        extents = torch.tensor([(vertebra.top, vertebra.bottom) for vertebra in vertebrae]).reshape(-1, 2)
        extents = extents.long().repeat_interleave(self.first.diff(), 0)                  # (N, 2)
        distance = np.concatenate([np.zeros(0, np.float32), *(vertebra.distance for vertebra in vertebrae)])
        self.top, self.bottom = extents.to(device).unbind(1)
        self.distance = torch.from_numpy(distance).to(device)

    def __len__(self) -> int:
        return len(self.cases)

    def measures_by_patient(self) -> list[dict[int, np.ndarray]]:
        """Return each patient's vertebrae that can be measured: label -> thirds, depth, width (5,) in mm."""
        patients: dict[str, dict[int, np.ndarray]] = {}
        for case, measures_mm in zip(self.cases, self.measures_mm, strict=True):
            patient, label = split_case(case)
            if measures_mm is not None:
                patients.setdefault(patient, {})[label] = measures_mm
        return list(patients.values())

    def gather(self, draw: Draw) -> RawSlices:
        """Return the slices of a draw as a batch on the device, in the original frame.

        Args:
            draw: on the CPU; all that leaves it is one index, and with `HostImages` the images.
        """
        index = (self.first[draw.vertebra] + draw.place).to(self.top.device, non_blocking=True)   # (B,)
        images = self.images.take(draw, index)                                            # (B, K, R, C)
        ct, masks = images[:, 0:1], images[:, 1:2]
        heatmap = images[:, 2:3] if images.shape[1] > 2 else torch.zeros_like(ct)
        return RawSlices(ct, masks & 1, masks >> 1, heatmap, self.top[index], self.bottom[index],
                         self.distance[index])


def choose_cache(wanted: str, device: str, needed: int) -> str:
    """Resolve where slices are kept, say it, and for `auto` why.

    Args:
        wanted: `auto`, `memory` or `device`.
        device: where training runs.
        needed: bytes of all slices.

    Returns:
        `memory` or `device`.

    Raises:
        InputError: `device` is wanted and has no room.
    """
    megabytes = f"{needed / 1e6:,.0f} MB"
    free = free_bytes(device)
    if wanted == "device" and free is not None and needed > free:
        raise InputError(f"--cache device: expected room for {megabytes} on {device}, found "
                         f"{free / 1e6:,.0f} MB; use --cache memory")
    fits = free is not None and needed <= DEVICE_SHARE * free
    chosen = wanted if wanted != "auto" else "device" if fits else "memory"
    place = f"held on {device}" if chosen == "device" else "mapped into memory from --cache_dir"
    reason = ("training runs on the CPU" if free is None else
              f"{device} has {free / 1e6:,.0f} MB free, and {DEVICE_SHARE:.0%} of it shall stay so")
    print(f"slices: {megabytes} {place}" + (f", since {reason}" if wanted == "auto" else ""))
    return chosen


def free_bytes(device: str) -> int | None:
    """Return the free memory of a GPU; None for the CPU."""
    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else None
