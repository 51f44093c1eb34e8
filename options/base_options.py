"""Flags that training and inference share."""

import argparse
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from util.cli import whole_number
from util.errors import InputError

if TYPE_CHECKING:
    from util.vertebrae import Cohort

# Flags without a value of their own take the cohort file's `paths`, and where that says nothing, these.
DEFAULT_FOLDERS = {"dataroot": ("straightened", Path("dataset/straightened")),
                   "heatmaps": ("heatmap", Path("Attention/heatmap"))}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show defaults, save where the default is 'nothing given'."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class BaseOptions:
    """Flags of every script that holds a generator. A subclass adds its own and may refuse combinations."""

    description = ""

    def build_parser(self) -> argparse.ArgumentParser:
        """Return the command line."""
        parser = argparse.ArgumentParser(description=self.description, formatter_class=HelpFormatter)
        self.add_arguments(parser)
        return parser

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add flags to a parser."""
        add = parser.add_argument_group("data and place").add_argument
        add("--dataroot", type=Path, help="folder of straightened cases, holding CT/ and label/; without it "
            "'straightened' of the cohort's paths, else dataset/straightened")
        add("--cohort", type=Path, default=Path("vertebra_data.json"), help="the list of cases")
        add("--heatmaps", type=Path, help="folder of heatmaps; without it 'heatmap' of the cohort's "
            "paths, else Attention/heatmap")
        add("--name", default="HealthiVert_experiment", help="name of the run, a folder in --checkpoints_dir")
        add("--checkpoints_dir", type=Path, default=Path("checkpoints"), help="where runs are kept")
        add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
        add("--gpu_ids", help="number of the GPU to use; -1 is the CPU; overrides --device")
        add("--amp", action="store_true", help="convolutions in bfloat16: faster on recent GPUs, and on CPUs "
            "with AVX512-BF16 or AMX")
        add("--threads", type=whole_number(1), help="processor threads of the networks; else all cores")
        add("--jobs", type=whole_number(1), default=2, help="cases read or worked on at the same time")

    def parse(self, argv: Sequence[str] | None = None) -> Namespace:
        """Parse a command line once and check it.

        Raises:
            InputError: flags that contradict each other or the task.
        """
        args = self.build_parser().parse_args(argv)
        self.check(args)
        return args

    def check(self, args: Namespace) -> None:
        """Refuse what the parser alone cannot see.

        Raises:
            InputError: a flag's value does not do.
        """
        if args.gpu_ids is not None and not args.gpu_ids.lstrip("-").isdecimal():
            raise InputError(f"--gpu_ids {args.gpu_ids}: expected the number of one GPU, or -1 for the CPU, "
                             f"found '{args.gpu_ids}'; a run uses a single GPU")
        if not args.name or Path(args.name).name != args.name:
            raise InputError(f"--name '{args.name}': expected a plain folder name, found a path; "
                             f"use --checkpoints_dir for the folder around it")


def choose_folders(args: Namespace, cohort: "Cohort") -> None:
    """Fill in the folders that no flag named: from the cohort's `paths`, else the defaults."""
    for flag, (key, folder) in DEFAULT_FOLDERS.items():
        if getattr(args, flag) is None:
            setattr(args, flag, Path(cohort.paths.get(key, folder)))


def prepare_torch(args: Namespace) -> str:
    """Apply --threads and return the device that --device and --gpu_ids ask for.

    Raises:
        InputError: a GPU was asked for that is not there.
    """
    import torch

    from util.device import choose_device

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.gpu_ids is None:
        return choose_device(args.device)
    number = int(args.gpu_ids)
    if number < 0:
        return "cpu"
    if number >= torch.cuda.device_count():
        raise InputError(f"--gpu_ids {number}: expected a GPU of that number, found "
                         f"{torch.cuda.device_count()} GPUs; use another number, or -1 for the CPU")
    return f"cuda:{number}"


def resolved(args: Namespace) -> dict[str, Any]:
    """Return the flags as JSON-ready values, in the order of their names."""
    return {name: str(value) if isinstance(value, Path) else value
            for name, value in sorted(vars(args).items())}
