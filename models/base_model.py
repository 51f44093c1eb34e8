"""What every trained model has: networks, an optimiser for each, and a state that can be saved whole."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from util.distributed import ALONE


class BaseModel(ABC):
    """Networks and their optimisers, by the same names."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.world, self.share = ALONE, 1.0  # the processes that train it; what this one has of a batch
        self.losses: dict[str, Tensor] = {}  # of the last step, detached, on the device

    @abstractmethod
    def optimize_parameters(self) -> None:
        """Take one step with the batch that was set."""

    def add_network(self, name: str, network: nn.Module, rate: float, betas: tuple[float, float]) -> None:
        """Place a network on the device and give it an Adam of its own (arXiv:1412.6980)."""
        self.networks[name] = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizers[name] = torch.optim.Adam(network.parameters(), rate, betas)

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of every optimiser."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate

    def summary(self) -> str:
        """Return the networks' names and how many numbers each learns."""
        return ", ".join(f"{name} of {sum(each.numel() for each in network.parameters()):,} parameters"
                         for name, network in self.networks.items())

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {"networks": {name: network.state_dict() for name, network in self.networks.items()},
                "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo `state`."""
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
            self.optimizers[name].load_state_dict(state["optimizers"][name])


def set_requires_grad(parameters: Iterable[nn.Parameter], wanted: bool) -> None:
    """Switch gradients of parameters on or off: a frozen network passes them through without keeping any."""
    for parameter in parameters:
        parameter.requires_grad_(wanted)
