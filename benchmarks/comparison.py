"""What every speed benchmark shares: a fast path against the plain loop that it replaces, in one run.

A benchmark module has `measure(settings) -> list[Row]`. Both sides are timed in turn, so that whatever else
the machine does hits both alike, and the quickest round of each counts: noise only ever adds time.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from util.cli import whole_number
from util.paths import read_json, write_json


@dataclass(frozen=True)
class Settings:
    """How to measure."""

    device: str = "cpu"                      # cpu, cuda or cuda:<number>
    rounds: int = 3                          # of each side; the quickest counts
    scratch: Path = Path("output/speed")     # for phantom data and results
    jobs: int = 2                            # processes that may be used where a stage takes --jobs


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        stage: its name, of words joined by underscores.
        plain, fast: seconds per `unit`, of the plain loop and of what replaces it.
        unit: what the seconds are for, e.g. `slice`.
        equal: whether both gave the same result.
        equality: how that was judged, with the greatest difference found.
        details: further absolute figures, with units in their names.
        machine: where it was measured, see `machine`.
    """

    stage: str
    plain: float
    fast: float
    unit: str
    equal: bool
    equality: str
    details: dict[str, Any] = field(default_factory=dict)
    machine: str = ""

    @property
    def ratio(self) -> float:
        """Return how many times faster the fast path is."""
        return self.plain / self.fast

    def as_json(self) -> dict[str, Any]:
        """Return the row with its ratio, times to four digits."""
        figures = {"plain": self.plain, "fast": self.fast, "ratio": self.ratio}
        return asdict(self) | {name: float(f"{value:.4g}") for name, value in figures.items()}


def alternate(plain: Callable[[], object], fast: Callable[[], object], rounds: int,
              device: str = "cpu") -> tuple[float, float]:
    """Return the seconds of the quickest round of each side; one unmeasured round of `fast` comes first."""
    fast()
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for side, run in enumerate((plain, fast)):
            best[side] = min(best[side], seconds(run, device))
    return best[0], best[1]


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """Return how long a call takes until its work is done, also on a GPU."""
    finish(device)
    begun = time.perf_counter()
    run()
    finish(device)
    return time.perf_counter() - begun


def finish(device: str) -> None:
    """Wait for a GPU's queue."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


def machine(device: str) -> str:
    """Return the processor, its usable cores, the GPU if it is used, and PyTorch's version, in one line."""
    import torch

    parts = [processor(), f"{len(os.sched_getaffinity(0))} cores"]
    if device.startswith("cuda"):
        parts.append(torch.cuda.get_device_name(device))
    return ", ".join([*parts, f"PyTorch {torch.__version__}"])


def processor() -> str:
    """Return the processor's name, as Linux tells it, or its architecture where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| stage | plain | fast | ratio | equal? |", "| --- | ---: | ---: | ---: | --- |"]
    lines += [f"| {row.stage} | {quantity(row.plain)} per {row.unit} | {quantity(row.fast)} | "
              f"{row.ratio:.1f} x | {'yes' if row.equal else 'NO'}: {row.equality} |" for row in rows]
    return "\n".join(lines)


def details_table(rows: Sequence[Row]) -> str:
    """Return the further figures of rows as a Markdown table."""
    lines = ["| stage | figure | value |", "| --- | --- | ---: |"]
    for row in rows:
        for name, value in row.details.items():
            shown = value if isinstance(value, str) else f"{value:.4g}"
            lines.append(f"| {row.stage} | {name.replace('_', ' ')} | {shown} |")
    return "\n".join(lines)


def quantity(value: float) -> str:
    """Return seconds in the unit that suits them, to three digits."""
    power, unit = (1, "s") if value >= 1 else (1e3, "ms") if value >= 1e-3 else (1e6, "µs")
    return f"{value * power:.3g} {unit}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every speed benchmark."""
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu", help="where to compute")
    parser.add_argument("--rounds", type=whole_number(1), default=Settings.rounds,
                        help="of each side; the quickest counts")
    parser.add_argument("--scratch", type=Path, default=Settings.scratch,
                        help="folder for phantom data and results")
    parser.add_argument("--jobs", type=whole_number(1), default=Settings.jobs,
                        help="processes, where a stage works on several cases at the same time")


def read_settings(args: argparse.Namespace) -> Settings:
    """Return the settings that the flags give."""
    from util.device import choose_device

    return Settings(choose_device(args.device), args.rounds, args.scratch, args.jobs)


def run_benchmark(argv: Sequence[str] | None, description: str | None, stage: str,
                  measure: Callable[[Settings], list[Row]]) -> int:
    """Be the `main` of one benchmark: measure, print the table, write `<scratch>/<stage>.json`.

    Returns:
        0, or 1 where the two sides differ.
    """
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    settings = read_settings(parser.parse_args(argv))
    rows = measured_here(measure(settings), settings)
    print(table(rows))
    write_rows(settings.scratch / f"{stage}.json", rows)
    return 0 if all(row.equal for row in rows) else 1


def measured_here(rows: Sequence[Row], settings: Settings) -> list[Row]:
    """Return rows with the machine that they were measured on."""
    here = machine(settings.device)
    return [replace(row, machine=here) for row in rows]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as JSON."""
    write_json(path, {"rows": [row.as_json() for row in rows]})
    print(f"figures: {path}")


def read_rows(path: Path) -> list[Row]:
    """Undo `write_rows`; without the file there are none."""
    content = read_json(path)["rows"] if path.is_file() else []
    return [Row(**{name: value for name, value in row.items() if name != "ratio"}) for row in content]
