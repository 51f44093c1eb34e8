"""The objective's terms: callables of tensors, each with its source and unit. No network is known here."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

PUBLISHED_BATCH = 16    # the batch at which the publication's L1 weight holds
SOBEL_EPSILON = 1e-6    # under the root of the edge strength: its gradient stays finite where nothing changes
DICE_SMOOTH = 1.0       # pixels; an empty mask predicted empty costs nothing


def gan_loss(logits: Tensor, is_real: bool) -> Tensor:
    """Return the vanilla adversarial loss (Goodfellow et al. 2014, arXiv:1406.2661), non-saturating.

    Args:
        logits: any shape, a discriminator's answer.
        is_real: what the discriminator should answer, or for the generator's loss what it should believe.
    """
    return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(is_real)))


def masked_l1(image: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Return the absolute difference summed over a mask, per sample, in the publication's unit.

    Weight 200 then means 12.5 times the sum of each sample (200 / 16, the published batch), at any batch.

    Args:
        image, truth: (B, C, R, W).
        mask: broadcastable to them, 1 where the difference counts.
    """
    return masked_sum((image - truth).abs(), mask)


def masked_l2(image: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """Return the squared difference summed over a mask, per sample, and divided as in `masked_l1`.

    Args:
        image, truth, mask: as there.
    """
    return masked_sum((image - truth).square(), mask)


def masked_sum(differences: Tensor, mask: Tensor) -> Tensor:
    """Return differences, (B, C, R, W), summed over a mask per sample, averaged, in the published unit."""
    per_sample = (differences * mask).flatten(1).sum(1)                            # (B,)
    return per_sample.mean() / PUBLISHED_BATCH


def soft_dice(probability: Tensor, truth: Tensor) -> Tensor:
    """Return 1 - Dice per sample, averaged (Milletari et al. 2016, arXiv:1606.04797).

    Args:
        probability: (B, 1, R, C) in 0..1.
        truth: the same shape, 0 or 1.
    """
    shared = (probability * truth).flatten(1).sum(1)                               # (B,)
    total = (probability + truth).flatten(1).sum(1)
    return (1 - (2 * shared + DICE_SMOOTH) / (total + DICE_SMOOTH)).mean()


def sobel_edges(mask: Tensor) -> Tensor:
    """Return the strength of a soft mask's edges: (B, 1, R, C) -> same. The border repeats the last pixel.

    Differentiable everywhere: an epsilon stands under the root.
    """
    steps = torch.arange(-1, 2, device=mask.device, dtype=mask.dtype)              # made where it is needed
    smooth, slope = (2 - steps.abs()) / 4, steps / 2
    kernels = torch.stack([torch.outer(smooth, slope), torch.outer(slope, smooth)])[:, None]   # (2, 1, 3, 3)
    gradient = functional.conv2d(functional.pad(mask, (1, 1, 1, 1), mode="replicate"), kernels)
    return (gradient.square().sum(1, keepdim=True) + SOBEL_EPSILON).sqrt()


def edge_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """Return the mean absolute difference of edge strengths (EEM of HealthiVert-GAN, on soft masks).

    Args:
        probability, truth: (B, 1, R, C) in 0..1.
    """
    return (sobel_edges(probability) - sobel_edges(truth)).abs().mean()


def relative_height_loss(height_mm: Tensor, true_height_mm: Tensor) -> Tensor:
    """Return the mean of |h - h_true| / h_true (SHRM of HealthiVert-GAN). Both (B,), in mm."""
    return ((height_mm - true_height_mm).abs() / true_height_mm).mean()


@dataclass(frozen=True)
class ObjectiveWeights:
    """The weight of each term of the generator's objective. Zero leaves a term out."""

    gan: float                  # of the mean over the three discriminators
    l1: float                   # masked L1 of the final CT, in the publication's unit
    coarse_l1: float            # masked L1 of the coarse CT
    l2: float                   # masked squares of the final CT
    coarse_l2: float            # masked squares of the coarse CT
    body_dice: float
    neighbours_dice: float
    edge: float                 # EEM
    height: float               # SHRM
    coarse_height: float

    @classmethod
    def published(cls) -> "ObjectiveWeights":
        """Return the publication's balance: three adversarial terms divided by 6."""
        return cls(gan=0.5, l1=200.0, coarse_l1=200.0, l2=0.0, coarse_l2=0.0, body_dice=15.0,
                   neighbours_dice=10.0, edge=800.0, height=40.0, coarse_height=40.0)

    @classmethod
    def default(cls) -> "ObjectiveWeights":
        """Return the balance of the default generator.

        The publication's L1 is a sum over thousands of pixels and outweighs the masks a hundredfold;
        here masks and height keep pace with it (benchmarks/short_run.py). Squares beside it bring the grey
        values near in two thirds of the steps (benchmarks/overfit.py): far off, signs alone say little.
        """
        return cls(gan=0.06, l1=0.3, coarse_l1=0.1, l2=0.9, coarse_l2=0.3, body_dice=2.0,
                   neighbours_dice=1.0, edge=20.0, height=10.0, coarse_height=10.0)

    @classmethod
    def for_generator(cls, kind: str) -> "ObjectiveWeights":
        """Return the balance that goes with a generator's name."""
        return cls.published() if kind == "published" else cls.default()
