"""What every script shares: flags of a stage, and how a user's mistake is reported."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from util.errors import InputError


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
    """Return an argparse type for a whole number of at least `minimum`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected a whole number, found '{text}'") from error
        if value < minimum:
            raise argparse.ArgumentTypeError(f"expected at least {minimum}, found {value}")
        return value

    return parse


def number_from(minimum: float) -> Callable[[str], float]:
    """Return an argparse type for a finite number of at least `minimum`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"expected a number, found '{text}'") from error
        if not minimum <= value < float("inf"):
            raise argparse.ArgumentTypeError(f"expected a finite number of at least {minimum}, found {text}")
        return value

    return parse


def add_stage_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every stage that works case by case."""
    parser.add_argument("--jobs", type=whole_number(1), default=1, help="cases worked on at the same time")
    parser.add_argument("--overwrite", action="store_true", help="redo what is already complete")
