"""Which device to compute on."""

from __future__ import annotations

from util.errors import InputError


def choose_device(name: str) -> str:
    """`auto` is the GPU where there is one, else the CPU.

    Raises:
        InputError: `cuda` was asked for and is not there.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("--device cuda: expected a CUDA GPU, found none; use --device cpu or auto")
    return "cuda" if available and name != "cpu" else "cpu"
