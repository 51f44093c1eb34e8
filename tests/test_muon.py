"""Muon: what it takes, that its steps are orthogonal, of Adam's size and scale-free, and that it learns."""

import numpy as np
import pytest
import torch
from torch import nn

from models.generator import build_generator
from models.layers import Head
from models.muon import ADAM_SIZE, Muon, hidden_matrices, orthogonalised


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16)])
def test_orthogonalised_keeps_directions_and_evens_their_strength(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape) * torch.tensor([1e-6, 1.0, 1e6])[:, None, None]
    left, before, right = torch.linalg.svd(matrices, full_matrices=False)
    along = left.mT @ orthogonalised(matrices) @ right.mT    # what became of each direction
    strengths = along.diagonal(dim1=1, dim2=2)
    strong = before > 0.05 * before[:, :1]                  # weaker ones need more rounds
    assert strengths[strong].min() > 0.6 and strengths.max() < 1.3
    assert torch.allclose(along, torch.diag_embed(strengths), atol=1e-3)


def test_a_matrix_of_zeros_stays() -> None:
    assert not orthogonalised(torch.zeros(1, 8, 9)).any()


def test_steps_have_adams_size_whatever_the_gradients() -> None:
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.zeros(16, 8, 3, 3)), nn.Parameter(torch.zeros(16, 72))]  # alike, laid out
    optimizer = Muon(weights, 0.01)
    gradient = torch.randn(16, 72)
    weights[0].grad, weights[1].grad = 1e3 * gradient.view(16, 8, 3, 3), 1e-3 * gradient
    optimizer.step()
    assert weights[1].detach().square().mean().sqrt() == pytest.approx(0.01 * ADAM_SIZE, rel=0.2)
    torch.testing.assert_close(weights[0].flatten(1), weights[1], rtol=1e-3, atol=1e-6)
    assert (weights[1] * gradient).sum() < 0


def test_a_rate_that_is_a_tensor_is_read_in_every_step() -> None:
    rate, weight = torch.tensor(0.0), nn.Parameter(torch.ones(8, 8))
    optimizer = Muon([weight], rate)
    weight.grad = torch.eye(8)
    optimizer.step()
    assert (weight == 1).all()
    rate.fill_(1.0)
    optimizer.step()
    assert (weight.diagonal() < 1).all()


def test_a_saved_run_keeps_its_momentum_and_one_that_names_none_had_095() -> None:
    optimizer = Muon([nn.Parameter(torch.ones(8, 8))], 0.01)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["momentum"] = 0.5
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["momentum"] == 0.5
    del saved["param_groups"][0]["momentum"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["momentum"] == 0.95


def test_weak_directions_are_learned_as_fast_as_strong_ones() -> None:
    """Least squares whose directions differ thirtyfold, as far as steps along the gradient would."""
    strength = torch.logspace(0, -1.5, 8)
    weight = nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        (strength * (weight - torch.eye(8))).square().sum().backward()
        optimizer.step()
    learned = weight.detach().diagonal()
    assert learned.min() > 0.15 and learned.min() > 0.3 * learned.max()


@pytest.mark.parametrize("kind", ["residual", "published"])
def test_heads_and_vectors_are_left_to_adam(kind: str) -> None:
    generator = build_generator(kind, ngf=8)
    taken = set(hidden_matrices(generator))
    names = {name for name, parameter in generator.named_parameters() if parameter in taken}
    heads = tuple(name for name, module in generator.named_modules() if isinstance(module, Head))
    assert (len(heads) == 4) == (kind == "residual")
    assert not any(name.startswith(heads) for name in names if heads)
    assert all(parameter.ndim > 1 and min(parameter.shape[:2]) > 1 for parameter in taken)
    share = sum(each.numel() for each in taken) / sum(each.numel() for each in generator.parameters())
    assert np.clip(share, 0.8, 1.0) == share
