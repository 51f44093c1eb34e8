"""Muon: momentum that moves a weight matrix in all its directions alike.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon): a matrix's momentum is replaced by the nearest
matrix with orthonormal rows or columns, so that weak directions are learned as fast as strong ones. Steps
have the size of Adam's (Liu et al. 2025, arXiv:2502.16982): one learning rate serves both. PyTorch's own
takes no convolutions, and reads its rate back from a GPU, which a recorded step must not.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.layers import Head

LEAST_SIDE = 8          # rows or columns; a smaller one has no directions to speak of
MOMENTUM = 0.8          # with few steps to take, the usual 0.95 lags behind (benchmarks/overfit.py)
EARLIER_MOMENTUM = 0.95  # of saved runs that do not say theirs
ADAM_SIZE = 0.2         # root mean square of Adam's steps, in learning rates (Liu et al., section 2.2)
ROUNDS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al.: singular values come to lie within about 0.7..1.2
NORM_FLOOR = 1e-12      # a matrix of zeros stays one


def hidden_matrices(network: nn.Module) -> list[nn.Parameter]:
    """Return what Muon suits: matrices, convolutions as matrices (out, in * kernel), but no heads."""
    heads = {parameter for module in network.modules() if isinstance(module, Head)
             for parameter in module.parameters()}
    return [parameter for parameter in network.parameters() if parameter not in heads and parameter.ndim > 1
            and min(len(parameter), parameter[0].numel()) >= LEAST_SIDE]


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal. It waits for no value on a GPU."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float | Tensor) -> None:
        """Begin.

        Args:
            parameters: of two dimensions or more.
            rate: the learning rate, a tensor where a recorded step is to read it anew.
        """
        super().__init__(parameters, {"lr": rate, "momentum": MOMENTUM})

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up what was saved."""
        super().__setstate__(state)
        for group in self.param_groups:
            group.setdefault("momentum", EARLIER_MOMENTUM)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever evaluated
        """Take a step; matrices of one shape are worked on together."""
        for group in self.param_groups:
            alike = defaultdict[tuple[int, int], list[nn.Parameter]](list)
            for parameter in group["params"]:
                alike[len(parameter), parameter[0].numel()].append(parameter)
            for shape, parameters in alike.items():
                ahead = [self._momentum(each, group["momentum"]) for each in parameters]
                updates = orthogonalised(torch.stack(ahead))
                updates = updates * (ADAM_SIZE * max(shape)**0.5 * group["lr"])
                for parameter, update in zip(parameters, updates, strict=True):
                    parameter.sub_(update.view_as(parameter))

    def _momentum(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        """Take up a gradient; return the momentum that looks one step ahead, (rows, columns)."""
        assert parameter.grad is not None
        gradient = parameter.grad.flatten(1)
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(state["momentum"], momentum)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return matrices of the same singular vectors whose singular values are all near one.

    A polynomial of odd degree, applied again and again, brings them there (Newton and Schulz).

    Args:
        matrices: (N, rows, columns).
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalised(matrices.mT).mT
    first, third, fifth = COEFFICIENTS
    result = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(NORM_FLOOR)
    for _ in range(ROUNDS):
        square = result @ result.mT                                                # (N, rows, rows)
        result = first * result + (third * square + fifth * square @ square) @ result
    return result
