"""Slices of many vertebrae in memory, as uint8: 3 to 4 MB a vertebra, so 700 of them fit in 3 GB.

Each case is read and unpacked once, before the first step; a batch is then a few copies in memory.
"""

from collections.abc import Sequence

import numpy as np
import torch

from data.aligned_dataset import Draw, VertebraSlices, slice_weights
from data.slice_input import RawSlices
from util.vertebrae import split_case


class SliceStore:
    """Vertebrae by number, with the weight of each of their slices."""

    def __init__(self, vertebrae: Sequence[VertebraSlices]) -> None:
        self.cases = [vertebra.case for vertebra in vertebrae]
        self.images = [torch.from_numpy(vertebra.images) for vertebra in vertebrae]       # (S, K, R, C) each
        self.distances = [torch.from_numpy(vertebra.distance) for vertebra in vertebrae]  # (S,) each
        self.top = torch.tensor([vertebra.top for vertebra in vertebrae])                 # (V,)
        self.bottom = torch.tensor([vertebra.bottom for vertebra in vertebrae])           # (V,)
        longest = max((len(vertebra.distance) for vertebra in vertebrae), default=0)
        weights = np.zeros((len(vertebrae), longest))
        for row, vertebra in zip(weights, vertebrae, strict=True):
            row[:len(vertebra.distance)] = slice_weights(vertebra.distance)
        self.weights = torch.from_numpy(weights)                                          # (V, longest)

        self.measures_mm = [vertebra.measures_mm for vertebra in vertebrae]               # (5,) or None each

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def megabytes(self) -> float:
        """Memory that the slices take."""
        return sum(images.numel() for images in self.images) / 1e6

    def measures_by_patient(self) -> list[dict[int, np.ndarray]]:
        """Return each patient's vertebrae that can be measured: label -> thirds, depth, width (5,) in mm."""
        patients: dict[str, dict[int, np.ndarray]] = {}
        for case, measures_mm in zip(self.cases, self.measures_mm, strict=True):
            patient, label = split_case(case)
            if measures_mm is not None:
                patients.setdefault(patient, {})[label] = measures_mm
        return list(patients.values())

    def gather(self, draw: Draw) -> RawSlices:
        """Return the slices of a draw as a batch, in the original frame."""
        pairs = list(zip(draw.vertebra.tolist(), draw.place.tolist(), strict=True))
        images = torch.stack([self.images[vertebra][place] for vertebra, place in pairs])     # (B, K, R, C)
        distance = torch.stack([self.distances[vertebra][place] for vertebra, place in pairs])
        ct, masks = images[:, 0:1], images[:, 1:2]
        heatmap = images[:, 2:3] if images.shape[1] > 2 else torch.zeros_like(ct)
        return RawSlices(ct, masks & 1, masks >> 1, heatmap, self.top[draw.vertebra],
                         self.bottom[draw.vertebra], distance)
