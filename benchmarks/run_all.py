"""Every speed benchmark: the fast path against the plain loop that it replaces, as one table.

    python -m benchmarks.run_all

Writes `<scratch>/performance.json` and prints the table; with --docs also `performance.json` and the tables
of `performance.md` in that folder. Each benchmark also runs alone, e.g. `python benchmarks/loader.py`.
"""

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.comparison import (
    Row,
    add_arguments,
    details_table,
    machine,
    read_settings,
    table,
    write_rows,
)
from util.cli import run_script
from util.marked_page import fill_page

MODULES = ("contextual_attention", "inference", "loader", "rhlv", "straightening", "train_step")


def build_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=MODULES, default=MODULES, help="these benchmarks")
    parser.add_argument("--docs", type=Path, help="also write the figures to this folder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; return 0, or 1 where a fast path differs from its plain loop."""
    args = build_parser().parse_args(argv)
    settings = read_settings(args)
    rows: list[Row] = []
    for name in args.only:
        print(f"\n{name}", flush=True)
        found = import_module(f"benchmarks.{name}").measure(settings)
        print(table(found), flush=True)
        rows += found
    print(f"\n{table(rows)}")
    for folder in filter(None, (settings.scratch, args.docs)):
        write_rows(folder / "performance.json", rows, settings)
    if args.docs:
        fill_page(args.docs / "performance.md", {"machine": f"Measured on {machine(settings.device)}.",
                                                 "rows": table(rows), "details": details_table(rows)})
    return 0 if all(row.equal for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(run_script(main))
