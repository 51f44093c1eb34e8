"""Loss terms: values counted by hand, and a gradient that moves what it should."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.losses import (
    ObjectiveWeights,
    edge_loss,
    gan_loss,
    masked_l1,
    masked_l2,
    relative_height_loss,
    sobel_edges,
    soft_dice,
)


def box(top: int, bottom: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, 16, 16)
    mask[:, :, top:bottom, 4:12] = 1
    return mask


def test_gan_loss_of_an_undecided_discriminator_is_log_two() -> None:
    assert float(gan_loss(torch.zeros(2, 1, 4, 4), True)) == pytest.approx(0.6931, abs=1e-4)
    certain = torch.full((1,), 9.0)
    assert float(gan_loss(certain, True)) < 0.001 < 8 < float(gan_loss(certain, False))


@given(batch=st.integers(1, 5))
def test_masked_l1_does_not_depend_on_the_batch(batch: int) -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[:, :, 2:4, 0:5] = 1                                             # 10 pixels
    image = torch.full((batch, 1, 8, 8), 0.5)
    published_term = 200 * masked_l1(image, torch.zeros_like(image), mask)
    assert published_term.item() == pytest.approx(12.5 * 10 * 0.5)


def test_masked_l2_sums_squares_in_the_same_unit() -> None:
    mask = box(4, 8)                                                     # 32 pixels
    image = torch.full((3, 1, 16, 16), 0.5)
    assert masked_l2(image, torch.zeros_like(image), mask).item() == pytest.approx(32 * 0.25 / 16)


def test_soft_dice_counts_overlap() -> None:
    truth = box(4, 8)                                                    # 32 pixels
    assert float(soft_dice(truth, truth)) == pytest.approx(0)
    assert float(soft_dice(box(6, 10), truth)) == pytest.approx(1 - (2 * 16 + 1) / (64 + 1))
    assert float(soft_dice(torch.zeros_like(truth), torch.zeros_like(truth))) == pytest.approx(0)


def test_soft_dice_weighs_samples_alike() -> None:
    truth = torch.cat([box(4, 8), box(4, 5)])
    guess = torch.cat([box(4, 8), box(10, 11)])
    assert float(soft_dice(guess, truth)) == pytest.approx((1 - 1 / 17) / 2)


def test_sobel_finds_the_edge_of_a_box() -> None:
    edges = sobel_edges(box(4, 12))[0, 0]
    assert float(edges[8, 8]) == pytest.approx(0.001)                    # the root of the epsilon
    assert float(edges[3, 8]) == float(edges[4, 8]) == pytest.approx(0.5, abs=1e-5)
    assert float(edges[8, 0]) == pytest.approx(0.001)                    # the image's border is no edge


def test_edge_loss_is_zero_for_the_true_mask_alone() -> None:
    assert float(edge_loss(box(4, 12), box(4, 12))) == 0
    assert float(edge_loss(box(5, 12), box(4, 12))) > 0


def test_relative_height_loss() -> None:
    loss = relative_height_loss(torch.tensor([22.0, 30.0]), torch.tensor([20.0, 30.0]))
    assert loss.item() == pytest.approx(0.05)


@pytest.mark.parametrize("start", [0.0, 0.5, 1.0])
def test_every_term_gives_a_finite_gradient_even_on_flat_masks(start: float) -> None:
    truth = box(4, 12)
    for term in (soft_dice, edge_loss, lambda guess, truth: masked_l1(guess, 2 * truth - 3, truth)):
        guess = torch.full_like(truth, start).requires_grad_()
        term(guess, truth).backward()
        assert torch.isfinite(guess.grad).all()
    guess = torch.full_like(truth, 0.5).requires_grad_()
    soft_dice(guess, truth).backward()
    assert guess.grad.any()


def test_edge_loss_moves_a_blurred_mask_towards_the_truth() -> None:
    truth = box(4, 12)
    logits = (4 * torch.nn.functional.avg_pool2d(box(5, 12), 3, 1, 1) - 2).requires_grad_()
    before = edge_loss(logits.sigmoid(), truth)
    before.backward()
    after = edge_loss((logits - logits.grad.sign() * 0.05).sigmoid(), truth)
    assert float(after.detach()) < float(before.detach())


def test_published_weights() -> None:
    weights = ObjectiveWeights.for_generator("published")
    assert (weights.l1, weights.body_dice, weights.neighbours_dice, weights.edge) == (200, 15, 10, 800)
    assert weights.gan / 3 == pytest.approx(1 / 6) and weights.l2 == weights.coarse_l2 == 0
    assert ObjectiveWeights.for_generator("residual") == ObjectiveWeights.default()
