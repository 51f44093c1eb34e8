"""Which device to compute on."""

from util.errors import InputError


def choose_device(name: str) -> str:
    """Resolve a device's name: `auto` is the GPU where there is one, else the CPU.

    Args:
        name: `auto`, `cpu`, `cuda` or `cuda:<number>`.

    Raises:
        InputError: a GPU was asked for that is not there.
    """
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda" if found else "cpu"
    number = int(name.partition(":")[2] or 0)
    if name != "cpu" and number >= found:
        raise InputError(f"--device {name}: expected that GPU, found {found} CUDA GPUs; use --device cpu or auto")
    return name
