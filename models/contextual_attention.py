"""Contextual attention: fill the gap with features of the patches that match it best.

Source: Yu et al. 2018, "Generative Image Inpainting with Contextual Attention" (arXiv:1801.07892).
Each sample's own gap decides which patches may be copied; the batch is one matrix product, without a
loop and without reading a value back from the device.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import patch_matrices, patch_pairs
from models.patch_pairs import NORM_FLOOR, PATCH
from util.geometry import GAP_ROWS

SOFTMAX_SCALE = 10.0


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


def match(queries: Tensor, keys: Tensor) -> Tensor:
    """Return the product of each query with each key of unit length: (B, N, D), (B, M, D) -> (B, N, M)."""
    return queries @ (keys / keys.norm(dim=2, keepdim=True).clamp_min(NORM_FLOOR)).transpose(1, 2)


def weigh(scores: Tensor, excluded: Tensor, scale: float | Tensor) -> Tensor:
    """Return softmax weights over the keys that are not excluded: (B, N, M), (B, M) -> (B, N, M).

    Where every key is excluded, the weights are zero.
    """
    scores = scores.float() if scores.dtype == torch.bfloat16 else scores  # rounded scores shift weights
    weights = (scores * scale).masked_fill(excluded[:, None], torch.finfo(scores.dtype).min).softmax(2)
    return weights.masked_fill(excluded[:, None], 0.0)


class ContextualAttention(nn.Module):
    """The published attention: match at half resolution, copy 4x4 patches at full resolution.

    A patch that touches the gap scores zero and takes its share of the softmax, which is then left out. So
    the weights add up to less than one.
    """

    def forward(self, features: Tensor, gap: Tensor) -> Tensor:
        """Rebuild a feature map from its own patches outside the gap. Never in bfloat16.

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
        pairs = patch_matrices if features.is_cuda else patch_pairs
        half = features[:, :, ::2, ::2]                                            # (B, C, R/2, W/2)
        scores = pairs.fuse(pairs.patch_scores(half))
        excluded = touches_gap(sample_gap(gap, gap.shape[2] // half.shape[2]))     # (B, N)
        kept = (~excluded).to(half.dtype).view(-1, 1, 1, *half.shape[2:])
        weights = scores.mul_(SOFTMAX_SCALE * kept).flatten(3).softmax(3)          # (B, R/2, W/2, N)
        return pairs.paste(features, weights.view(scores.shape), kept)


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
