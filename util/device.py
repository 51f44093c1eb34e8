"""Which device to compute on."""

from util.errors import InputError


def choose_device(name: str) -> str:
    """Resolve a device flag: `auto` is the GPU where there is one, else the CPU.

    Args:
        name: `auto`, `cpu`, `cuda`, or `cuda:1` for the second GPU.

    Raises:
        InputError: `cuda` was asked for and is not there.
    """
    import torch

    count = torch.cuda.device_count()
    if name in ("auto", "cpu"):
        return "cuda" if count and name == "auto" else "cpu"
    if int(name.partition(":")[2] or 0) >= count:
        raise InputError(f"--device {name}: expected that CUDA GPU, found {count or 'none'}; "
                         f"use --device cpu or auto")
    return name
