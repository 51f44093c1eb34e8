"""Contextual attention of the published network: all samples and patches at once against a loop over samples.

    python benchmarks/contextual_attention.py

The loop is the published one: each sample's patches become the kernels of two convolutions, its scores are
fused by convolutions with a diagonal between transpositions. Every sample has its own gap, which the
published code did not allow for. Forward, and forward with backward.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.comparison import Row, Settings, alternate, run_benchmark
from util.cli import run_script

if TYPE_CHECKING:
    from torch import Tensor

BATCH, CHANNELS, SIDE, GAP_SIDE = 16, 64, 64, 256  # of the published network at 256 x 256
SEED = 0
TOLERANCE = 1e-4  # of the greatest value

Attention = Callable[["Tensor", "Tensor"], "Tensor"]


def plain_contextual_attention(features: "Tensor", gap: "Tensor") -> "Tensor":
    """Rebuild features (B, C, R, W) from patches outside the gap (B, 1, k R, k W), a sample at a time."""
    import torch

    samples = zip(features.split(1), gap.split(1), strict=True)
    return torch.cat([attend_one(one, its_gap) for one, its_gap in samples])


def attend_one(features: "Tensor", gap: "Tensor") -> "Tensor":
    """Rebuild one sample's features: (1, C, R, W), (1, 1, k R, k W) -> (1, C, R, W)."""
    from torch.nn import functional

    half = functional.interpolate(features, scale_factor=0.5, mode="nearest")      # (1, C, r, w)
    channels, rows, columns = half.shape[1:]
    large = functional.unfold(features, 4, stride=2, padding=1)[0].T.reshape(-1, channels, 4, 4)
    small = functional.unfold(half, 3, padding=1)[0].T.reshape(-1, channels, 3, 3)
    length = small.flatten(1).norm(dim=1).clamp_min(1e-4)[:, None, None, None]
    scores = functional.conv2d(half, small / length, padding=1)                    # (1, N, r, w)
    scores = fuse_one(scores.reshape(1, 1, rows * columns, rows * columns), rows, columns)
    seen_gap = functional.interpolate(gap, size=(rows, columns), mode="nearest")
    kept = functional.unfold(seen_gap, 3, padding=1).sum(1).eq(0).to(scores.dtype)[..., None, None]
    weights = (10 * scores.reshape(1, -1, rows, columns) * kept).softmax(1) * kept
    return functional.conv_transpose2d(weights, large, stride=2, padding=1) / 4


def fuse_one(scores: "Tensor", rows: int, columns: int) -> "Tensor":
    """Sum scores (1, 1, N, N) along diagonals, in row-major and then in column-major order."""
    import torch
    from torch.nn import functional

    diagonal = torch.eye(3, dtype=scores.dtype, device=scores.device)[None, None]
    scores = functional.conv2d(scores, diagonal, padding=1)
    scores = scores.reshape(rows, columns, rows, columns).permute(1, 0, 3, 2).reshape_as(scores)
    scores = functional.conv2d(scores, diagonal, padding=1)
    return scores.reshape(columns, rows, columns, rows).permute(1, 0, 3, 2).reshape_as(scores)


def sample(device: str) -> tuple["Tensor", "Tensor"]:
    """Return random features, >= 0 as those that the network gives, and a gap elsewhere in each sample."""
    import torch

    random = torch.Generator().manual_seed(SEED)
    features = torch.randn(BATCH, CHANNELS, SIDE, SIDE, generator=random).relu() / 3
    gap = torch.zeros(BATCH, 1, GAP_SIDE, GAP_SIDE)
    for number in range(BATCH):
        gap[number, :, 48 + 8 * number:88 + 8 * number] = 1
    return features.to(device).contiguous(memory_format=torch.channels_last), gap.to(device)


def rebuild(attend: Attention, features: "Tensor", gap: "Tensor") -> "Tensor":
    """Return the rebuilt features, without gradients."""
    import torch

    with torch.no_grad():
        return attend(features, gap)


def differentiate(attend: Attention, features: "Tensor", gap: "Tensor") -> "Tensor":
    """Return the gradient of the features for half the squared result."""
    features = features.detach().requires_grad_()
    (attend(features, gap).square().sum() / 2).backward()
    assert features.grad is not None
    return features.grad


def compare(stage: str, work: Callable[..., "Tensor"], settings: Settings) -> Row:
    """Measure one kind of work with both attentions."""
    from models.contextual_attention import ContextualAttention

    given = sample(settings.device)
    plain = partial(work, plain_contextual_attention, *given)
    fast = partial(work, ContextualAttention(), *given)
    expected, found = plain(), fast()
    difference = float((found - expected).abs().max() / expected.abs().max())
    seconds = alternate(plain, fast, settings.rounds, settings.device)
    return Row(stage, *seconds, "batch of 16", difference < TOLERANCE,
               f"greatest difference {difference:.0e} of the greatest value")


def measure(settings: Settings) -> list[Row]:
    """Return the rows of the forward pass, and of forward and backward; in full precision also on a GPU."""
    import torch

    place = "_gpu" if settings.device.startswith("cuda") else ""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return [compare(f"contextual_attention_b16{place}", rebuild, settings),
                compare(f"contextual_attention_b16_backward{place}", differentiate, settings)]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the table; return 1 where both sides differ."""
    return run_benchmark(argv, __doc__, "contextual_attention", measure)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
