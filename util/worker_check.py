"""Whether the workers of a cluster would do what this process does: same code, packages and folders."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from util.errors import InputError
from util.paths import visible
from util.steps import ROOT

if TYPE_CHECKING:
    from distributed import Client

# Packages whose version may decide the last bits of a result.
PACKAGES = ("numpy", "scipy", "SimpleITK", "nibabel", "scikit-image", "opencv-python-headless", "monai",
            "torch")
CODE = "this project's code"
SETTLE = ("have the same packages and this version of the project in every machine's environment, then "
          "restart the workers")


class Worker(NamedTuple):
    """What a worker says of itself."""

    software: dict[str, str]
    has_folder: bool  # the very one from which it was asked


@cache
def software() -> dict[str, str]:
    """Return versions of Python and of packages, and a digest of the project's code.

    Once per process: one that has loaded code which was changed since gives itself away.
    """
    found = {"Python": "{}.{}".format(*sys.version_info)}
    for package in PACKAGES:
        found[package] = "none"
        with suppress(PackageNotFoundError):
            found[package] = version(package).partition("+")[0]  # builds for CPUs and GPUs may meet
    packages = [path.parent for path in visible(ROOT, "*/__init__.py") if path.parent.name != "tests"]
    files = [*visible(ROOT, "*.py"), *(path for folder in packages for path in visible(folder, "**/*.py"))]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found | {CODE: digest.hexdigest()[:12]}


def worker(mark: Path) -> Worker:
    """Run on a worker: tell what it is.

    Args:
        mark: what exists in the folder from which is asked, and hardly in another of that name.
    """
    return Worker(software(), mark.exists())


def check_workers(client: "Client", address: str) -> None:
    """Ask every worker of a cluster what it is.

    Raises:
        InputError: one has several threads, cannot import the project, has other versions of what decides a
            result, or does not see the folder in which this process runs.
    """
    crowded = [name for name, threads in client.nthreads().items() if threads > 1]
    if crowded:
        raise InputError(f"--scheduler {address}: expected workers of one thread, found {crowded[0]} with "
                         f"more; start them with: dask worker {address} --nthreads 1 --nworkers <number>")
    with _marked_folder() as mark:
        found = client.run(worker, mark, on_error="return")
    for name, answer in found.items():
        problem = _problem(answer)
        if problem:
            raise InputError(f"--scheduler {address}: worker {name}: {problem}")


@contextmanager
def _marked_folder() -> Iterator[Path]:
    """Make a file of a new name in this folder for a while; the folder itself stands in where none can be."""
    try:
        number, mark = tempfile.mkstemp(dir=Path.cwd(), prefix=".shared_with_workers_")
    except OSError:
        yield Path.cwd()
        return
    os.close(number)
    try:
        yield Path(mark)
    finally:
        Path(mark).unlink()


def _problem(answer: Worker | BaseException) -> str | None:
    """Return what is wrong with a worker, if anything is."""
    if isinstance(answer, BaseException):
        return (f"expected this project to be installed there, found that it cannot be imported "
                f"({type(answer).__name__}: {answer}); {SETTLE}")
    other = differences(software(), answer.software)
    if other:
        return f"expected the software of this process, found {', '.join(other)}; {SETTLE}"
    if not answer.has_folder:
        return (f"expected the folder {Path.cwd()} with the same files as here, found none or another; "
                f"share it, and the folders of data and results, under the same paths with every machine")
    return None


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> list[str]:
    """Return in words what is not the same."""
    return [f"{name} {there.get(name, 'none')} (here {value})" for name, value in here.items()
            if there.get(name) != value]
