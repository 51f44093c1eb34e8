"""Which device to compute on."""

import os

from util.errors import InputError

MOST_HOST_THREADS = 8  # that read, and that write, beside a GPU: more would wait for Python's lock
MOST_STEP_THREADS = 4  # that work between passes, which hold that lock for longer


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


def use_full_precision() -> None:
    """Have this process's convolutions and products keep all bits on a GPU, for results.

    TF32 keeps ten: a result would depend on the device, and on how many slices go through it together.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


def share_cores(jobs: int, threads: int | None) -> int | None:
    """Return the threads of each job, `threads` where given, and make this process safe to fork for several.

    Neither OpenMP's threads nor CUDA outlive a fork: until then there is one thread, and CUDA devices are
    counted through NVML, which does not start CUDA.
    """
    if jobs == 1:
        return threads
    import torch

    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    torch.set_num_threads(1)
    return threads or max(1, len(os.sched_getaffinity(0)) // jobs)


def host_threads(kind: str, cores: int | None) -> int:
    """Return how many threads of a process read, and as many that write; see MOST_STEP_THREADS for the rest.

    Args:
        kind: `cpu`, whose cores the networks need, or `cuda`.
        cores: that the process may use; None for all of the machine.
    """
    if kind == "cpu":
        return 1
    return max(1, min(MOST_HOST_THREADS, (cores or len(os.sched_getaffinity(0))) // 2))
