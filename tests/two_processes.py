"""Two processes of one run on this machine, which find each other as torchrun's do.

They come from a server that has imported PyTorch once: quicker than torchrun, which imports it three times.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PATIENCE_SECONDS = 300  # far more than a busy machine takes


def start(work: Callable[..., int], *arguments: Any, told: Path) -> list[BaseProcess]:
    """Start a function of a module in two processes; each ends with the status that it returns.

    Args:
        work: the function.
        arguments: its arguments, which can be pickled.
        told: gets the output of each process, in files named by rank.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "nibabel", "scipy.ndimage"])
    told.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes = [context.Process(target=_be, daemon=True,
                                 args=(rank, port, told / str(rank), work, arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    return processes


def ended(processes: list[BaseProcess]) -> list[int | None]:
    """Wait for the processes' ends; return their statuses, negative for a signal's number.

    One that hangs is ended: it has -9.
    """
    for process in processes:
        process.join(PATIENCE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def what_was_told(folder: Path) -> str:
    """Return the output of both processes, the first one's first."""
    return "".join((folder / str(rank)).read_text() for rank in range(2))


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _be(rank: int, port: int, told: Path, work: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    """Be one of the two processes."""
    import torch

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with told.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        status = work(*arguments)
    raise SystemExit(status)
