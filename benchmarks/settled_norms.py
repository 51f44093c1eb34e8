"""Spectral norms of fresh networks, which are guesses at first, iterated until they stand."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

PASSES = 30  # after which they no longer move


def settle_norms(network: "nn.Module") -> None:
    """Take steps of every spectral norm's power iteration until it stands; the network is in training."""
    import torch

    from models.discriminator import NormalisedConv
    from models.spectral_conv import SpectralConv, normalised_weights

    modules = list(network.modules())
    layers = [module for module in modules if isinstance(module, SpectralConv)]
    with torch.no_grad():
        for _ in range(PASSES):
            normalised_weights(layers)
            for module in modules:
                if isinstance(module, NormalisedConv):
                    module.norm()
