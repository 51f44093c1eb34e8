"""Flags that training and inference share."""

import argparse
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from util.cli import whole_number
from util.errors import InputError
from util.vertebrae import read_cohort

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
        add("--gpu_ids", help="number of the one GPU to use; -1 is the CPU; overrides --device")
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
        """Refuse what the parser alone cannot see, and fill in what follows from other flags.

        Raises:
            InputError: a flag's value does not do, or the cohort file is missing or faulty.
        """
        if args.gpu_ids is not None:
            args.device = device_of(args.gpu_ids)
        check_run_name(args.name)
        paths = read_cohort(args.cohort).paths
        for flag, (key, folder) in DEFAULT_FOLDERS.items():
            if getattr(args, flag) is None:
                setattr(args, flag, Path(paths.get(key, folder)))


def check_run_name(name: str) -> None:
    """Check that --name names a folder in --checkpoints_dir.

    Raises:
        InputError: it does not.
    """
    if name in ("", "..") or Path(name).name != name:
        raise InputError(f"--name '{name}': expected a plain folder name, found a path; "
                         f"use --checkpoints_dir for the folder around it")


def device_of(gpu_ids: str) -> str:
    """Return the device that --gpu_ids names.

    Raises:
        InputError: it is not one whole number.
    """
    try:
        number = int(gpu_ids)
    except ValueError as error:
        raise InputError(f"--gpu_ids: expected the number of one GPU, or -1 for the CPU, found '{gpu_ids}'; "
                         f"on several, train by torchrun --nproc_per_node <number of GPUs> train.py, without "
                         f"this flag; CUDA_VISIBLE_DEVICES chooses them") from error
    return "cpu" if number < 0 else f"cuda:{number}"


def resolved(args: Namespace) -> dict[str, Any]:
    """Return the flags as JSON-ready values, in the order of their names."""
    return {name: str(value) if isinstance(value, Path) else value
            for name, value in sorted(vars(args).items())}
