"""Contextual attention's pairs of patches: the processor's way and the GPU's give the same."""

import pytest
import torch

from models import patch_matrices, patch_pairs
from models.contextual_attention import ContextualAttention


def features(channels: int, rows: int, columns: int) -> torch.Tensor:
    """Two random images, with patches of nothing at all, and a gradient to be asked for."""
    values = torch.randn(2, channels, rows, columns, dtype=torch.float64,
                         generator=torch.Generator().manual_seed(0)).relu()
    values[:, :, :3] = 0
    return values.requires_grad_()


def assert_same(results: list[torch.Tensor], gradients: list[torch.Tensor]) -> None:
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients)


def test_scores_are_the_same_fused_or_not() -> None:
    for fused in (False, True):
        given = [features(5, 12, 10) for _ in range(2)]
        results = []
        for way, image in zip((patch_pairs, patch_matrices), given, strict=True):
            scores = way.patch_scores(image)
            results.append(way.fuse(scores) if fused else scores)
            results[-1].square().sum().backward()
        assert_same(results, [image.grad for image in given])


def test_a_score_by_hand() -> None:
    image = torch.zeros(1, 1, 4, 5)
    image[0, 0, 1, 1], image[0, 0, 1, 2] = 3.0, 4.0
    scores = patch_matrices.patch_scores(image)
    assert scores[0, 1, 1, 1, 1] == pytest.approx(5.0)            # 3, 4 with itself, over its length
    assert scores[0, 1, 1, 1, 2] == pytest.approx(12.0 / 5.0)     # one column on: 3 meets 4
    assert scores[0, 1, 1, 3, 4] == 0.0                           # nothing there


def test_pasted_blocks_are_the_same() -> None:
    random = torch.Generator().manual_seed(1)
    weights = torch.rand(2, 6, 5, 6, 5, dtype=torch.float64, generator=random)
    kept = (torch.rand(2, 1, 1, 6, 5, generator=random) > 0.3).double()
    given = [features(5, 12, 10) for _ in range(2)]
    results = []
    for way, image in zip((patch_pairs, patch_matrices), given, strict=True):
        results.append(way.paste(image, weights, kept))
        results[-1].square().sum().backward()
    assert_same(results, [image.grad for image in given])


def test_attention_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    gap = torch.zeros(2, 1, 48, 40, dtype=torch.float64)
    gap[0, :, 10:30], gap[1, :, 16:40] = 1, 1
    given = [features(5, 12, 10) for _ in range(2)]
    results = [ContextualAttention()(given[0], gap)]
    for name in ("patch_scores", "fuse", "paste"):
        monkeypatch.setattr(patch_pairs, name, getattr(patch_matrices, name))
    results.append(ContextualAttention()(given[1], gap))
    for result in results:
        result.square().sum().backward()
    assert_same(results, [image.grad for image in given])
