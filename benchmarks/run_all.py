"""Every speed benchmark: the fast path against the plain loop that it replaces, as one table.

    python -m benchmarks.run_all

Prints one table and writes `<scratch>/performance.json`. A GPU adds its rows to those of the processor;
`--device cuda` measures them alone. With --docs the rows replace those of the same stages in the folder's
`performance.json`, and the tables of its `performance.md` are written anew. Each benchmark also runs alone,
e.g. `python benchmarks/loader.py`.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.comparison import (
    Row,
    Settings,
    add_arguments,
    details_table,
    measured_here,
    read_rows,
    read_settings,
    table,
    write_rows,
)
from util.cli import run_script
from util.marked_page import fill_page

MODULES = ("contextual_attention", "inference", "loader", "rhlv", "straightening", "train_step")
GPU_MODULES = ("contextual_attention", "inference", "loader", "train_step")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES, help="these benchmarks")
    parser.add_argument("--docs", type=Path, help="also write the figures to this folder")
    return parser


def chosen_places(args: argparse.Namespace) -> Iterator[tuple[Settings, Sequence[str]]]:
    """Yield how to measure on each device, and the modules that do."""
    settings = read_settings(args)
    if args.device != "cuda":
        yield replace(settings, device="cpu"), args.only
    if settings.device != "cpu":
        yield settings, [name for name in args.only if name in GPU_MODULES]


def forget_settings() -> None:
    """Undo what a benchmark has set in PyTorch for its whole process, as training and inference do."""
    import torch

    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = False


def publish(docs: Path, rows: Sequence[Row]) -> None:
    """Put rows in the place of those of the same stages, and write the page's tables anew."""
    measured = {row.stage for row in rows}
    kept = [row for row in read_rows(docs / "performance.json") if row.stage not in measured]
    rows = sorted([*kept, *rows], key=lambda row: row.stage)
    write_rows(docs / "performance.json", rows)
    fill_page(docs / "performance.md", {"machine": machines(rows), "rows": table(rows),
                                        "details": details_table(rows)})


def machines(rows: Sequence[Row]) -> str:
    """Return which stages were measured where, one machine a line."""
    stages: dict[str, list[str]] = {}
    for row in rows:
        stages.setdefault(row.machine, []).append(row.stage)
    return "\n".join(f"- {machine}: {', '.join(names)}" for machine, names in stages.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 0, or 1 where a fast path differs from its plain loop."""
    args = build_parser().parse_args(argv)
    rows: list[Row] = []
    for settings, modules in chosen_places(args):
        for name in modules:
            print(f"\n{name} on {settings.device}", flush=True)
            forget_settings()
            found = measured_here(import_module(f"benchmarks.{name}").measure(settings), settings)
            print(table(found), flush=True)
            rows += found
    print(f"\n{table(rows)}")
    write_rows(args.scratch / "performance.json", rows)
    if args.docs:
        publish(args.docs, rows)
    return 0 if all(row.equal for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(run_script(main))
