"""Every patch of an image against every other, as plain products of matrices: what suits a GPU.

A GPU multiplies matrices faster than it adds up what `models.patch_pairs` saves on a processor. Results are
the same but for rounding.
"""

from torch import Tensor
from torch.nn import functional

from models.patch_pairs import PATCH, inverse_patch_lengths


def patch_scores(features: Tensor) -> Tensor:
    """Return the product of the 3x3 patches around every two positions, the second of unit length.

    Args:
        features: (B, C, R, W).

    Returns:
        (B, R, W, R, W).
    """
    patches = functional.unfold(features, PATCH, padding=PATCH // 2)                # (B, 9C, N)
    scores = patches.transpose(1, 2) @ (patches * inverse_patch_lengths(features).flatten(1)[:, None])
    return scores.view(len(features), *features.shape[2:], *features.shape[2:])


def fuse(scores: Tensor) -> Tensor:
    """Favour matches whose neighbours match too, along rows, then along columns: (B, R, W, R, W) -> same."""
    along_rows = add_next(scores)
    return add_next(along_rows.permute(0, 2, 1, 4, 3)).permute(0, 2, 1, 4, 3)


def add_next(scores: Tensor) -> Tensor:
    """Add to each pair the pair before it and the one after it, both positions in the order of memory."""
    pairs = scores.flatten(3).flatten(1, 2)                                         # (B, N, N)
    before = functional.pad(pairs[:, :-1, :-1], (1, 0, 1, 0))
    after = functional.pad(pairs[:, 1:, 1:], (0, 1, 0, 1))
    return (pairs + before + after).view(scores.shape)


def paste(features: Tensor, weights: Tensor, kept: Tensor) -> Tensor:
    """Do what `models.patch_pairs.paste` does, of the same shapes."""
    patches = functional.unfold(features, 4, padding=1, stride=2)                   # (B, 16C, N)
    pairs = weights.flatten(3).flatten(1, 2)                                        # (B, N, N)
    copied = (patches * kept.flatten(3).flatten(1, 2)) @ pairs.transpose(1, 2)      # (B, 16C, N)
    return functional.fold(copied, features.shape[2:], 4, padding=1, stride=2) / 4
