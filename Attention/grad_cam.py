"""Grad-CAM++ in any number of dimensions, for a batch of samples at once.

Chattopadhay et al., "Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks", WACV 2018,
arXiv 1710.11063. With A^k the k-th channel of a layer's output, S the score of the class and Y = exp(S):

    alpha_ij^k = g^2 / (2 g^2 + g^3 sum_ab A_ab^k),   g = dS / dA_ij^k        (equation 19)
    w^k        = sum_ij alpha_ij^k relu(dY / dA_ij^k)                         (equation 5)
    map_ij     = relu(sum_k w^k A_ij^k)                                       (equation 6)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

_LINEAR_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ActivationMaps(NamedTuple):
    """Evidence for a class and the class's score, one per sample."""

    maps: Tensor  # (B, 1, *spatial of the input), >= 0, on the samples' common scale
    scores: Tensor  # (B,)


@contextmanager
def recorded_activation(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Records the layer's output as a leaf that gradients stop at; the hook is gone on leaving."""
    recorded: list[Tensor] = []

    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        recorded.append(output.detach().requires_grad_(True))
        return recorded[-1]

    handle = layer.register_forward_hook(record)
    try:
        yield recorded
    finally:
        handle.remove()


def combine(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM++ map from a layer's output and its gradient.

    alpha is written as 1 / (2 + g sum A), the same fraction divided by g^2: behind global pooling g is about
    1e-6, where an absolute epsilon beside g^2 would drown the map and g^3 would leave float32. The factor
    exp(S), one per sample, is left out: it overflows and would let one slice outshine the others.

    Args:
        activation: (B, K, *spatial).
        gradient: (B, K, *spatial).

    Returns:
        (B, 1, *spatial), >= 0.
    """
    axes = tuple(range(2, activation.ndim))
    rise = functional.relu(gradient)
    total = activation.sum(axes, keepdim=True)  # (B, K, 1, ...)
    shares = rise / torch.addcmul(rise.new_tensor(2.0), rise, total)  # alpha relu(g), (B, K, *spatial)
    weights = shares.nan_to_num(0.0, 0.0, 0.0).sum(
        axes
    )  # (B, K); a signed activation can meet 2 + g sum A = 0
    return functional.relu(torch.einsum("bk,bk...->b...", weights, activation)).unsqueeze(1)


def grad_cam_plus_plus(
    network: nn.Module, layer: nn.Module, inputs: Tensor, class_index: int = 0
) -> ActivationMaps:
    """Grad-CAM++ of one class for every sample of a batch.

    Args:
        network: in evaluation mode, so that samples do not influence one another; gives (B,) or (B, classes).
        layer: a convolutional stage of the network; its output is (B, K, *spatial).
        inputs: (B, C, *spatial) with one, two or three spatial axes.
        class_index: which column of the output; ignored for a (B,) output.

    Raises:
        ValueError: the network is in training mode, or never runs the layer.
    """
    if network.training:
        raise ValueError("Grad-CAM++ of a batch needs the network in evaluation mode; call network.eval()")
    with recorded_activation(layer) as recorded, torch.enable_grad():
        outputs = network(inputs)
    if not recorded:
        raise ValueError(f"{type(layer).__name__} was not run by {type(network).__name__}")
    scores = outputs if outputs.ndim == 1 else outputs[:, class_index]  # (B,)
    (gradient,) = torch.autograd.grad(scores.sum(), recorded[-1])
    maps = combine(recorded[-1].detach(), gradient)
    mode = _LINEAR_MODES[inputs.ndim - 2]
    resized = functional.interpolate(maps, size=inputs.shape[2:], mode=mode, align_corners=False)
    return ActivationMaps(resized, scores.detach())
