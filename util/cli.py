"""What every script shares: flags of a stage, and how a user's mistake is reported."""

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from util.errors import InputError, remedy_of
from util.steps import ROOT

MOST = 2**31 - 1  # seeds beyond it are refused by one library or another


class Main(Protocol):
    """A script's entry point."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def run_script(main: Main) -> int:
    """Run a script's `main` and return its exit status: what a user can mend is one line and status 2."""
    try:
        return by_its_name(main)()
    except (InputError, OSError) as error:
        remedy = remedy_of(error)
        if remedy is None:
            raise
        print(f"error: {remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was written is complete; run again to go on", file=sys.stderr)
        return 130


def by_its_name(main: Main) -> Main:
    """Return the `main` of the script that runs from its module by name, which other processes can import.

    In a script that runs, functions belong to `__main__`; to a worker that is another file.
    """
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    if main.__module__ != "__main__" or not script.resolve().is_relative_to(ROOT):
        return main
    name = ".".join(script.resolve().relative_to(ROOT).with_suffix("").parts)
    return importlib.import_module(name).main


def whole_number(minimum: int) -> Callable[[str], int]:
    """Return an argparse type for a whole number of at least `minimum` that every library takes."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected a whole number, found '{text}'") from error
        if value < minimum:
            raise argparse.ArgumentTypeError(f"expected at least {minimum}, found {value}")
        if value > MOST:
            raise argparse.ArgumentTypeError(f"expected at most {MOST}, found {value}")
        return value

    return parse


def number_from(minimum: float, below: float = math.inf) -> Callable[[str], float]:
    """Return an argparse type for a finite number of at least `minimum` and below a limit."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected a number, found '{text}'") from error
        if not minimum <= value < below:  # written so that NaN fails too
            limit = "a finite number" if below == math.inf else f"a number below {below:g} and"
            raise argparse.ArgumentTypeError(f"expected {limit} of at least {minimum:g}, found {text}")
        return value

    return parse


def number_within(lowest: float, highest: float) -> Callable[[str], float]:
    """Return an argparse type for a number between two, either of them included."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected a number, found '{text}'") from error
        if not lowest <= value <= highest:  # written so that NaN fails too
            raise argparse.ArgumentTypeError(f"expected {lowest:g} to {highest:g}, found {text}")
        return value

    return parse


def add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every stage that works case by case."""
    parser.add_argument("--jobs", type=whole_number(1), default=1, help="cases worked on at the same time")
    add_scheduler_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="redo what is already complete")


def add_scheduler_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag that sends cases to other machines."""
    parser.add_argument(
        "--scheduler", type=host_and_port, metavar="HOST:PORT", help="do the cases on the workers of this "
        "Dask scheduler instead; all must have this version of the project installed, see the same files "
        "under the same paths, and have one thread each (dask worker HOST:PORT --nthreads 1 --nworkers N)")


def host_and_port(text: str) -> str:
    """Return an address as it is, as an argparse type.

    Raises:
        argparse.ArgumentTypeError: it is not of the form `host:port`.
    """
    host, _, port = text.removeprefix("tcp://").removeprefix("tls://").rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise argparse.ArgumentTypeError(f"expected host:port, such as localhost:8786, found '{text}'")
    return text
