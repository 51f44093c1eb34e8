"""Every patch of an image against every other, at a fraction of the multiplications: what suits a processor.

Neighbouring patches share pixels, so do neighbouring pairs of patches. What contextual attention does with
pairs (Yu et al. 2018, arXiv:1801.07892) is therefore done with pixels and blocks, and summed along the
diagonals of (first position, second position). Results are those of the patches, but for rounding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

PATCH = 3             # patches that are matched are 3 x 3
NORM_FLOOR = 1e-4     # a patch of zeros matches nothing

Stage = list[tuple[tuple[Any, ...], tuple[Any, ...]]]  # ranges of pairs, and those one step later


class DiagonalSums(torch.autograd.Function):
    """Sum scores along diagonals, in place, in stages: an operation whose adjoint is itself, backwards.

    One spare copy serves all stages; memory that a process asks for anew costs more than the sums.
    """

    @staticmethod
    def forward(context: Any, scores: Tensor, shape: Sequence[int], stages: Sequence[Stage]) -> Tensor:
        """Add to each score, in each stage, those of the pairs before and after it.

        Args:
            context: of the differentiation.
            scores: contiguous; they are overwritten.
            shape: in which the stages' ranges are meant.
            stages: for each, ranges that lie one step apart on the diagonals.
        """
        context.shape, context.stages = shape, stages
        context.mark_dirty(scores)
        return sum_diagonals(scores, shape, stages)

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Sum the gradient along the same diagonals, the last stage first."""
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        return sum_diagonals(gradient, context.shape, context.stages[::-1]), None, None


def sum_diagonals(scores: Tensor, shape: Sequence[int], stages: Sequence[Stage]) -> Tensor:
    """Do what `DiagonalSums` says; return the scores, overwritten."""
    spare = torch.empty_like(scores)
    total, term = scores.view(shape), spare.view(shape)
    for stage in stages:
        spare.copy_(scores)
        for earlier, later in stage:
            total[earlier].add_(term[later])
            total[later].add_(term[earlier])
    return scores


class BlockWeights(torch.autograd.Function):
    """From weights of patches to weights of the blocks that they are made of, 2x2 blocks a patch."""

    @staticmethod
    def forward(context: Any, weights: Tensor, kept: Tensor) -> Tensor:
        """Add up the weights of the patches that bring a block to a place.

        Args:
            context: of the differentiation.
            weights: (B, R, W, R, W), of the second patch in the place of the first.
            kept: (B, 1, 1, R, W), 0 for patches that are left out, else 1.

        Returns:
            (B, R + 1, W + 1, R + 1, W + 1).
        """
        context.save_for_backward(kept)
        rows, columns = weights.shape[1:3]
        total = weights.new_zeros(len(weights), rows + 1, columns + 1, rows + 1, columns + 1)
        for part in block_views(total):
            part.addcmul_(weights, kept)
        return total

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Collect what each patch's four blocks say."""
        first, second, third, fourth = block_views(gradient)
        return (first + second).add_(third).add_(fourth).mul_(*context.saved_tensors), None


def block_views(pairs: Tensor) -> list[Tensor]:
    """Return, for each of a patch's four blocks, its block pairs laid out by patch pairs."""
    halves = slice(0, -1), slice(1, None)
    return [pairs[:, rows, columns, rows, columns] for rows in halves for columns in halves]


def patch_products(features: Tensor) -> Tensor:
    """Return the product of the 3x3 patches around every two positions, zero beyond the edge.

    A patch's product is the sum of its nine pixels' products, which neighbouring patches share. So pixels
    are multiplied once and summed along the diagonals of both positions, first of columns, then of rows:
    a ninth of the multiplications of patches. In the flattened matrix of a padded image one step along a
    diagonal is one distance, without regard to edges.

    Args:
        features: (B, C, R, W).

    Returns:
        (B, R, W, R, W).
    """
    pixels = functional.pad(features, (1, 1, 1, 1))                                # (B, C, R + 2, W + 2)
    rows, columns = pixels.shape[2:]
    products = pixels.flatten(2).transpose(1, 2) @ pixels.flatten(2)               # (B, P, P)
    steps = [distance * (rows * columns + 1) for distance in (1, columns)]
    stages = [[((..., slice(0, -step)), (..., slice(step, None)))] for step in steps]
    products = DiagonalSums.apply(products, (len(products), -1), stages)
    pairs = products.unflatten(2, (rows, columns)).unflatten(1, (rows, columns))
    return pairs[:, 1:-1, 1:-1, 1:-1, 1:-1]


def patch_scores(features: Tensor) -> Tensor:
    """Return `patch_products`, the second patch of unit length: (B, C, R, W) -> (B, R, W, R, W)."""
    return patch_products(features) * inverse_patch_lengths(features)[:, None, None]


def fuse(scores: Tensor) -> Tensor:
    """Favour matches whose neighbours match too, along rows and along columns (section 3.1 of the source).

    The next position along columns is the one below, and from the foot of a column the head of the next:
    two ranges of row-major positions, so nothing is transposed.

    Args:
        scores: (B, R, W, R, W), contiguous; they are overwritten.

    Returns:
        The same shape.
    """
    rows, columns = scores.shape[1:3]
    along_rows = [(slice(0, -1), slice(1, None))]
    along_columns = [(slice(0, -columns), slice(columns, None)), (slice(-columns, -1), slice(1, columns))]
    stages = [[((..., earlier, before), (..., later, after)) for earlier, later in ranges
               for before, after in ranges] for ranges in (along_rows, along_columns)]
    return DiagonalSums.apply(scores, (len(scores), rows * columns, rows * columns), stages)


def inverse_patch_lengths(features: Tensor) -> Tensor:
    """Return 1 / length of the 3x3 patch around every position: (B, C, R, W) -> (B, R, W)."""
    squares = features.square().sum(1, keepdim=True)
    total = functional.avg_pool2d(squares, PATCH, stride=1, padding=PATCH // 2, divisor_override=1)
    return total.squeeze(1).clamp_min(NORM_FLOOR**2).rsqrt()


def paste(features: Tensor, weights: Tensor, kept: Tensor) -> Tensor:
    """Replace each 4x4 patch, two pixels from the next, by the weighted sum of all; overlaps are averaged.

    A patch is made of 2x2 blocks of 2x2 pixels. Blocks are copied instead of patches, with the sum of the
    weights of the patches that lay them there: a quarter of the multiplications.

    Args:
        features: (B, C, R, W), R and W even.
        weights: (B, R / 2, W / 2, R / 2, W / 2), of the second patch in the place of the first.
        kept: (B, 1, 1, R / 2, W / 2), 0 for patches that are left out, else 1.

    Returns:
        (B, C, R, W).
    """
    blocks = functional.pixel_unshuffle(functional.pad(features, (1, 1, 1, 1)), 2)  # (B, 4C, R/2+1, W/2+1)
    pairs = BlockWeights.apply(weights, kept).flatten(3).flatten(1, 2)              # (B, M, M)
    copied = blocks.flatten(2) @ pairs.transpose(1, 2)                              # (B, 4C, M)
    return functional.pixel_shuffle(copied.view_as(blocks), 2)[:, :, 1:-1, 1:-1] / 4
