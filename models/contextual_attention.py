"""Contextual attention: fill the gap with features of the patches that match it best.

Source: Yu et al. 2018, "Generative Image Inpainting with Contextual Attention" (arXiv:1801.07892).
Each sample's own gap decides which patches may be copied; the batch is one matrix product, without a
loop and without reading a value back from the device.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from util.geometry import GAP_ROWS

PATCH = 3             # patches are 3 x 3
SOFTMAX_SCALE = 10.0
NORM_FLOOR = 1e-4     # a patch of zeros matches nothing

Steps = list[tuple[tuple[Any, ...], tuple[Any, ...]]]  # pairs of views: earlier on a diagonal, and the next


def unfold_patches(features: Tensor) -> Tensor:
    """Return the 3x3 patch around every position, zero beyond the edge: (B, C, R, W) -> (B, R * W, 9 * C)."""
    return functional.unfold(features, PATCH, padding=PATCH // 2).transpose(1, 2)


def touches_gap(gap: Tensor) -> Tensor:
    """Tell which positions have a gap pixel in their 3x3 patch: (B, 1, R, W) -> (B, R * W) bool."""
    return functional.max_pool2d(gap, PATCH, stride=1, padding=PATCH // 2).flatten(1) > 0


def sample_gap(gap: Tensor, factor: int) -> Tensor:
    """Return the gap at 1 / factor of the size by taking every `factor`-th pixel, as published."""
    return gap[:, :, ::factor, ::factor]


def shrink_gap(gap: Tensor, factor: int) -> Tensor:
    """Return the gap at 1 / factor of the size; a position that holds any gap pixel is gap."""
    return functional.max_pool2d(gap, factor)


class DiagonalSum(torch.autograd.Function):
    """Add to each score those of the pairs before and after it. The operation is its own adjoint."""

    @staticmethod
    def forward(context: Any, scores: Tensor, steps: Steps) -> Tensor:
        """Return scores[later] + scores + scores[earlier] for each of the steps; any shape, kept."""
        context.steps = steps
        total = scores.clone()
        for earlier, later in steps:
            total[earlier] += scores[later]
            total[later] += scores[earlier]
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Sum gradients along the same diagonals."""
        return DiagonalSum.apply(gradients[0], context.steps), None


class BlockSum(torch.autograd.Function):
    """From weights of patches to weights of the blocks that they are made of, 2x2 blocks a patch."""

    @staticmethod
    def forward(context: Any, weights: Tensor) -> Tensor:
        """Map (B, R, W, R, W), of patch pairs, to (B, R + 1, W + 1, R + 1, W + 1), of block pairs."""
        rows, columns = weights.shape[1:3]
        total = weights.new_zeros(len(weights), rows + 1, columns + 1, rows + 1, columns + 1)
        for part in block_views(total):
            part += weights
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        """Collect each patch pair's share of its four block pairs."""
        first, second, third, fourth = block_views(gradients[0])
        return (first + second).add_(third).add_(fourth)


def block_views(blocks: Tensor) -> list[Tensor]:
    """Return, for each of a patch's four blocks, its block pairs laid out by patch pairs."""
    halves = slice(0, -1), slice(1, None)
    return [blocks[:, rows, columns, rows, columns] for rows in halves for columns in halves]


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
    products = (pixels.flatten(2).transpose(1, 2) @ pixels.flatten(2)).flatten(1)  # (B, P * P)
    for distance in (1, columns):
        step = distance * (rows * columns + 1)
        products = DiagonalSum.apply(products, [((..., slice(0, -step)), (..., slice(step, None)))])
    return products.unflatten(1, (rows, columns, rows, columns))[:, 1:-1, 1:-1, 1:-1, 1:-1]


def fuse(scores: Tensor, columns: int) -> Tensor:
    """Favour matches whose neighbours match too, along rows and along columns (section 3.1 of the source).

    The next position along columns is the one below, and from the foot of a column the head of the next:
    two ranges of row-major positions, so nothing is transposed.

    Args:
        scores: (B, N, N), positions in row-major order.
        columns: of the image.

    Returns:
        The same shape and order.
    """
    along_rows = [(slice(0, -1), slice(1, None))]
    along_columns = [(slice(0, -columns), slice(columns, None)), (slice(-columns, -1), slice(1, columns))]
    for ranges in (along_rows, along_columns):
        steps = [((..., earlier, before), (..., later, after))
                 for earlier, later in ranges for before, after in ranges]
        scores = DiagonalSum.apply(scores, steps)
    return scores


def inverse_patch_lengths(features: Tensor) -> Tensor:
    """Return 1 / length of the 3x3 patch around every position: (B, C, R, W) -> (B, R, W)."""
    squares = features.square().sum(1, keepdim=True)
    total = functional.avg_pool2d(squares, PATCH, stride=1, padding=PATCH // 2, divisor_override=1)
    return total.squeeze(1).clamp_min(NORM_FLOOR**2).rsqrt()


def paste(features: Tensor, weights: Tensor) -> Tensor:
    """Replace each 4x4 patch, two pixels from the next, by the weighted sum of all; overlaps are averaged.

    A patch is made of 2x2 blocks of 2x2 pixels. Blocks are copied instead of patches, with the sum of the
    weights of the patches that lay them there: a quarter of the multiplications.

    Args:
        features: (B, C, R, W), R and W even.
        weights: (B, R / 2, W / 2, R / 2, W / 2), of the second patch in the place of the first.

    Returns:
        (B, C, R, W).
    """
    blocks = functional.pixel_unshuffle(functional.pad(features, (1, 1, 1, 1)), 2)  # (B, 4C, R/2+1, W/2+1)
    weights = BlockSum.apply(weights).flatten(3).flatten(1, 2)                     # (B, M, M)
    copied = blocks.flatten(2) @ weights.transpose(1, 2)                           # (B, 4C, M)
    return functional.pixel_shuffle(copied.view_as(blocks), 2)[:, :, 1:-1, 1:-1] / 4


def match(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the product of each query with each key of unit length: (B, N, D), (B, M, D) -> (B, N, M)."""
    return queries @ (keys / keys.norm(dim=2, keepdim=True).clamp_min(NORM_FLOOR)).transpose(1, 2)


def weigh(scores: Tensor, excluded: Tensor, scale: float | Tensor) -> Tensor:
    """Return softmax weights over the keys that are not excluded: (B, N, M), (B, M) -> (B, N, M).

    Where every key is excluded, the weights are zero.
    """
    weights = (scores * scale).masked_fill(excluded[:, None], torch.finfo(scores.dtype).min).softmax(2)
    return weights.masked_fill(excluded[:, None], 0.0)


def weigh_all(scores: Tensor, excluded: Tensor, scale: float) -> Tensor:
    """Return the published weights: (B, N, M), (B, M) -> (B, N, M).

    A key that is excluded scores zero and takes its share of the softmax, which is then left out. So the
    weights add up to less than one.
    """
    kept = (~excluded[:, None]).to(scores.dtype)
    return (scores * (scale * kept)).softmax(2) * kept


class ContextualAttention(nn.Module):
    """The published attention: match at half resolution, copy 4x4 patches at full resolution."""

    def forward(self, features: Tensor, gap: Tensor) -> Tensor:
        """Rebuild a feature map from its own patches outside the gap. In full precision always.

        Args:
            features: (B, C, R, W), R and W even.
            gap: (B, 1, k R, k W) for a whole k, 1 in the gap.

        Returns:
            (B, C, R, W); overlapping patches are averaged.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._rebuild(features.to(gap.dtype), gap)

    def _rebuild(self, features: Tensor, gap: Tensor) -> Tensor:
        """Be `forward`, the precision settled."""
        half = features[:, :, ::2, ::2]                                            # (B, C, R/2, W/2)
        rows, columns = half.shape[2:]
        scores = patch_products(half) * inverse_patch_lengths(half)[:, None, None]
        scores = fuse(scores.flatten(3).flatten(1, 2), columns)                    # (B, N, N)
        excluded = touches_gap(sample_gap(gap, gap.shape[2] // rows))              # (B, N)
        weights = weigh_all(scores, excluded, SOFTMAX_SCALE)
        return paste(features, weights.unflatten(2, (rows, columns)).unflatten(1, (rows, columns)))


class GapAttention(nn.Module):
    """Contextual attention for the gap's rows alone, with learned queries, keys and values.

    What lies outside the gap keeps its features, so only the gap's rows ask; each sample's rows are
    gathered from where its own gap lies.
    """

    def __init__(self, channels: int, match_channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, match_channels, 1)
        self.key = nn.Conv2d(channels, match_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.tensor(SOFTMAX_SCALE))

    def forward(self, features: Tensor, gap: Tensor) -> Tensor:
        """Add to the features of the gap's rows what they attend to outside.

        Args:
            features: (B, C, R, W).
            gap: (B, 1, k R, k W) for a whole k, 1 in the gap; at most 40 rows high.

        Returns:
            (B, C, R, W), equal to `features` outside the gap's rows.
        """
        channels, rows, columns = features.shape[1:]
        factor = gap.shape[2] // rows
        small_gap = shrink_gap(gap, factor)                                        # (B, 1, R, W)
        asking = gap_rows(small_gap, GAP_ROWS // factor + 1)                       # (B, Q)
        queries = unfold_patches(self.query(features)).unflatten(1, (rows, columns))
        index = asking[:, :, None, None].expand(-1, -1, columns, queries.shape[3])
        queries = functional.normalize(queries.gather(1, index).flatten(1, 2), dim=2)      # (B, Q W, 9D)
        scores = match(queries, unfold_patches(self.key(features)))                # (B, Q W, R W)
        weights = weigh(scores, touches_gap(small_gap), self.scale)
        found = weights @ self.value(features).flatten(2).transpose(1, 2)          # (B, Q W, C)
        found = found.transpose(1, 2).unflatten(2, (-1, columns))                  # (B, C, Q, W)
        where = asking[:, None, :, None].expand(-1, channels, -1, columns)
        return features + torch.zeros_like(features).scatter(2, where, found) * small_gap


def gap_rows(gap: Tensor, count: int) -> Tensor:
    """Return `count` distinct rows that begin with each sample's first gap row: (B, 1, R, W) -> (B, count).

    Near the image's lower edge they begin earlier, so that all of them lie inside it.
    """
    rows = gap.shape[2]
    before = (gap[:, 0, :, 0].cumsum(1) == 0).sum(1)                               # (B,)
    count = min(count, rows)
    return before.clamp(max=rows - count)[:, None] + torch.arange(count, device=gap.device)
