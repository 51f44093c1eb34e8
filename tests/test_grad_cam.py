"""Grad-CAM++: equal to MONAI's, to itself in batches, and to a map by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from Attention.grad_cam import combine, grad_cam_plus_plus, recorded_activation


def small_network(axes: int, seed: int = 0) -> nn.Sequential:
    """Two convolutions, a pool and a linear layer, in evaluation mode, with gradients of ordinary size."""
    torch.manual_seed(seed)
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[axes]
    pool = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[axes]
    layers = [
        convolution(1, 4, 3, padding=1),
        nn.ReLU(),
        convolution(4, 6, 3, stride=2, padding=1),
        nn.ReLU(),
    ]
    head = nn.Linear(6, 3)
    head.weight.data.mul_(100.0)  # MONAI's absolute epsilon must not show
    return nn.Sequential(*layers, pool(1), nn.Flatten(), head).double().eval()


@pytest.mark.parametrize("axes", [2, 3])
def test_equals_monai_one_sample_at_a_time(axes: int) -> None:
    from monai.visualize.class_activation_maps import GradCAMpp

    network = small_network(axes)
    inputs = torch.rand(3, 1, *(12, 10, 8)[:axes], dtype=torch.float64)
    ours = grad_cam_plus_plus(network, network[3], inputs, class_index=1).maps
    oracle = GradCAMpp(network, target_layers="3", postprocessing=lambda array: array)
    for index in range(3):
        theirs = torch.as_tensor(oracle(inputs[index : index + 1], class_idx=1))[0]
        torch.testing.assert_close(
            ours[index] / ours[index].max(), theirs / theirs.max(), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("axes", [2, 3])
def test_batch_equals_its_samples(axes: int) -> None:
    network = small_network(axes)
    inputs = torch.rand(2, 1, *(12, 10, 8)[:axes], dtype=torch.float64)
    together = grad_cam_plus_plus(network, network[3], inputs)
    for index in range(2):
        alone = grad_cam_plus_plus(network, network[3], inputs[index : index + 1])
        torch.testing.assert_close(together.maps[index : index + 1], alone.maps)
        torch.testing.assert_close(together.scores[index : index + 1], alone.scores)


def test_combine_by_hand() -> None:
    activation = torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]])  # two channels of 1 x 2, sums 4 and 2
    gradient = torch.tensor([[[[0.5, 0.5]], [[-1.0, -1.0]]]])
    weight = (
        2 * 0.5 / (2 + 0.5 * 4)
    )  # first channel: alpha = 1/4 at both places; the second pulls the other way
    torch.testing.assert_close(combine(activation, gradient), weight * activation[:, :1])


@given(st.integers(-15, 0))
@settings(max_examples=20, deadline=None)
def test_small_gradients_give_the_map_of_the_limit(exponent: int) -> None:
    """At g far below 1, alpha is 1/2 everywhere and the map scales with g; no epsilon drowns it."""
    generator = torch.Generator().manual_seed(0)
    activation = torch.rand(1, 4, 5, 5, generator=generator)
    gradient = torch.rand(1, 4, 5, 5, generator=generator) * 1e-6
    scale = 10.0**exponent
    torch.testing.assert_close(
        combine(activation, gradient * scale) / scale, combine(activation, gradient), rtol=1e-3, atol=0.0
    )


def test_hook_is_gone_after_an_error() -> None:
    layer = nn.Conv2d(1, 1, 1)
    with pytest.raises(RuntimeError, match="expected"), recorded_activation(layer):
        raise RuntimeError("expected")
    assert not layer._forward_hooks


def test_training_mode_is_refused() -> None:
    network = small_network(2).train()
    with pytest.raises(ValueError, match="evaluation mode"):
        grad_cam_plus_plus(network, network[3], torch.rand(1, 1, 8, 8, dtype=torch.float64))
