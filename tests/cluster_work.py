"""What workers of a cluster do in tests: a module, so that every process can import it."""

import os
import signal
import time
from functools import lru_cache
from pathlib import Path

from util.errors import InputError


@lru_cache(maxsize=1)
def model(folder: Path) -> int:
    """Something that is dear to load; each load leaves a file."""
    (folder / f"loaded_{os.getpid()}_{time.monotonic_ns()}").touch()
    return 42


def write_case(folder: Path, case: str) -> str | None:
    """Write a case's file, in a folder that may be relative; the names tell which cases kill their worker."""
    attempts = folder / f"attempts_{case}"
    with attempts.open("a") as file:
        file.write("x")
    if case.startswith("deadly") or (case.startswith("frail") and attempts.stat().st_size == 1):
        time.sleep(0.2)  # the others are at work meanwhile
        os.kill(os.getpid(), signal.SIGKILL)
    if case == "mistake":
        raise InputError(f"{case}: expected a good file, found a bad one; mend it")
    if case == "fault":
        raise ValueError("a fault of the program")
    (folder / case).write_text(f"{case} {model(folder)}")
    return "has something to say" if case == "talking" else None
