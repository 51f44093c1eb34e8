"""What every trained model has: networks, their optimisers, and a state that can be saved whole."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.muon import Muon
from util.distributed import ALONE
from util.errors import InputError

T = TypeVar("T")

OF_THE_DEVICE = ("fused", "foreach", "capturable")  # settings of an optimiser that are not its run's


class BaseModel(ABC):
    """Networks and their optimisers, by the same names."""

    def __init__(self, device: str, compiles: bool = False) -> None:
        """Begin without networks.

        Args:
            device: where they will be.
            compiles: whether training goes through torch.compile.

        Raises:
            InputError: that cannot be done here.
        """
        self.device, self.compiles = torch.device(device), compiles
        if compiles:
            check_compiler(self.device)
        self.networks: dict[str, nn.Module] = {}
        self.compilations: dict[str, Callable[..., Any]] = {}  # of parts of a step, by their names
        self.optimizers: dict[str, list[torch.optim.Optimizer]] = {}
        self.world, self.share = ALONE, 1.0  # the processes that train it; what this one has of a batch
        self.losses: dict[str, Tensor] = {}  # of the last step, detached, on the device

    @abstractmethod
    def optimize_parameters(self) -> None:
        """Take one step with the batch that was set."""

    def add_network(self, name: str, network: nn.Module, rate: float, betas: tuple[float, float],
                    matrices: Sequence[nn.Parameter] = ()) -> None:
        """Place a network on the device and give it an Adam of its own (arXiv:1412.6980).

        Args:
            name: by which it is known.
            network: a fresh one.
            rate: learning rate.
            betas: of Adam.
            matrices: parameters of it that Muon has instead (`models.muon`).
        """
        self.networks[name] = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        taken = set(matrices)
        others = [each for each in network.parameters() if each not in taken]
        adam = torch.optim.Adam(others, self._own_rate(rate), betas, fused=True,
                                capturable=self.device.type == "cuda")
        self.optimizers[name] = [adam, Muon(matrices, self._own_rate(rate))] if matrices else [adam]

    def compiled(self, work: Callable[..., T]) -> Callable[..., T]:
        """Return a method of this model compiled; its first call takes a minute.

        Networks stay as they are, so that saved weights bear the same names, compiled or not.
        """
        if work.__name__ not in self.compilations:
            options: Any = {"combo_kernels": self.device.type == "cuda"}  # small kernels run as one
            self.compilations[work.__name__] = torch.compile(work, dynamic=False, options=options)
        return self.compilations[work.__name__]

    def _own_rate(self, rate: float) -> float | Tensor:
        """Return a learning rate as an optimiser keeps it: on a GPU where a recorded step reads it anew."""
        return torch.tensor(rate, device=self.device) if self.device.type == "cuda" else rate

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of every optimiser."""
        for optimizer in chain.from_iterable(self.optimizers.values()):
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def summary(self) -> str:
        """Return the networks' names and how many numbers each learns."""
        return ", ".join(f"{name} of {sum(each.numel() for each in network.parameters()):,} parameters"
                         for name, network in self.networks.items())

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {"networks": {name: network.state_dict() for name, network in self.networks.items()},
                "optimizers": {name: [each.state_dict() for each in own]
                               for name, own in self.optimizers.items()}}

    def load_state(self, state: dict[str, Any]) -> None:
        """Undo `state`, also of a run on another device, or of one whose networks had an Adam each."""
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
            saved = state["optimizers"][name]
            for own, one in zip(self.optimizers[name], saved if isinstance(saved, list) else [saved],
                                strict=True):
                self._load_optimizer(own, one)

    def _load_optimizer(self, optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
        """Take up what an optimiser remembers; how it works here is up to this device."""
        own = {key: value for key, value in optimizer.param_groups[0].items() if key in OF_THE_DEVICE}
        groups = [group | own | {"lr": self._own_rate(float(group["lr"]))} for group in saved["param_groups"]]
        optimizer.load_state_dict(saved | {"param_groups": groups})


def check_compiler(device: torch.device) -> None:
    """Compile something small.

    Raises:
        InputError: it cannot be done, as without a C++ compiler.
    """
    length = 2 + time.time_ns() % 2**20  # of no earlier call, whose result would be found in a cache
    try:
        torch.compile(lambda values: values * 2)(torch.ones(length, device=device))
    except Exception as error:  # torch, Triton and the compiler each raise their own
        reason = str(error).strip().partition("\n")[0]
        needed = "C++ compiler" if device.type == "cpu" else "Triton and C compiler"
        raise InputError(f"--compile: expected a {needed} that torch.compile can use, found "
                         f"{type(error).__name__} ({reason}); install g++, or leave out --compile") from error


def set_requires_grad(parameters: Iterable[nn.Parameter], wanted: bool) -> None:
    """Switch gradients of parameters on or off: a frozen network passes them through without keeping any."""
    for parameter in parameters:
        parameter.requires_grad_(wanted)
