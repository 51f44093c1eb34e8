"""Heatmap of a straightened volume: where a fracture classifier sees evidence of fracture.

Every body that lies whole in the view is judged at the centre of its own crop, in all its slices, so that a
fractured neighbour is as hot as a fractured target. Scale: Grad-CAM++ is divided by its maximum over the
volume and weighted by the probability that the body in question is fractured. A healthy body stays cool by
its probability, its weakly convincing slices by the common maximum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from Attention.body_slices import BodySlices, central_part, cut_body_slices, paste_slices
from Attention.classifier import FractureClassifier, signed
from Attention.classifier_data import CENTRAL_FRACTION
from Attention.grad_cam import grad_cam_plus_plus
from util.volume import present_labels

BATCH_SLICES = {"cpu": 16, "cuda": 64}  # a GPU is filled by a whole body, caches by less
LEVELS = 255  # the generator's sample builder keeps heatmaps as uint8; coarser floats compress to a tenth


def whole_bodies(label: np.ndarray) -> list[int]:
    """Labels whose bodies do not touch the volume's first or last row, where the view cuts them off."""
    cut_off = {*present_labels(label[0]), *present_labels(label[-1])}
    return [value for value in present_labels(label) if value not in cut_off]


def body_evidence(
    classifier: FractureClassifier, slices: BodySlices, batch_slices: int, device: torch.device | str
) -> tuple[Tensor, float]:
    """Grad-CAM++ maps (S, rows, columns) of a body's slices and the body's probability of fracture.

    The probability is that of the mean logit over the central slices, as in training.
    """
    maps, logits = [], []
    for images in torch.as_tensor(slices.images).split(batch_slices):
        result = grad_cam_plus_plus(classifier, classifier.evidence_layer, signed(images, device))
        maps.append(result.maps[:, 0].cpu())
        logits.append(result.scores.cpu())
    central = central_part(len(slices.images), CENTRAL_FRACTION)
    return torch.cat(maps), float(torch.sigmoid(torch.cat(logits)[central].mean()))


def volume_heatmap(
    classifier: FractureClassifier,
    settings: dict[str, Any],
    ct: np.ndarray,
    label: np.ndarray,
    batch_slices: int | None = None,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, dict[int, float]]:
    """Evidence of fracture in a straightened volume.

    Args:
        classifier: in evaluation mode.
        settings: its `plane`, `rows` and `columns`.
        ct: (rows, anterior-posterior, right-left) uint8.
        label: bodies, uint8, same shape.
        batch_slices: slices per pass through the network; None for what suits the device.
        device: where to compute.

    Returns:
        Heatmap, float32 in 0..1 in steps of 1/255, shape of the CT, zero outside the bodies' slices and
        crops; and the probability of fracture of each body.
    """
    heat = np.zeros(ct.shape, np.float32)
    found = {}
    batch_slices = batch_slices or BATCH_SLICES[torch.device(device).type]
    for value in whole_bodies(label):
        slices = cut_body_slices(ct, label == value, settings["plane"], settings["rows"], settings["columns"])
        found[value] = slices, *body_evidence(classifier, slices, batch_slices, device)
    strongest = max((float(maps.max()) for _, maps, _ in found.values()), default=0.0)
    for slices, maps, probability in found.values():
        if strongest > 0.0:
            paste_slices(heat, (maps * (probability / strongest)).numpy(), slices, settings["plane"])
    return np.rint(heat * LEVELS) / np.float32(LEVELS), {value: found[value][2] for value in found}
