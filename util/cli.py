"""What every script shares: flags of a stage, and how a user's mistake is reported."""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from util.errors import InputError

MOST = 2**31 - 1  # seeds beyond it are refused by one library or another


class Main(Protocol):
    """A script's entry point."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def run_script(main: Main) -> int:
    """Run a script's `main` and return its exit status: an `InputError` is one line and status 2."""
    try:
        return main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was written is complete; run again to go on", file=sys.stderr)
        return 130


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


def add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every stage that works case by case."""
    parser.add_argument("--jobs", type=whole_number(1), default=1, help="cases worked on at the same time")
    parser.add_argument("--overwrite", action="store_true", help="redo what is already complete")
