"""Flags of inference."""

import argparse
from argparse import Namespace
from pathlib import Path

from options.base_options import BaseOptions
from util.cli import whole_number
from util.errors import InputError

BEST_GENERATOR = "best_generator.safetensors"


class TestOptions(BaseOptions):
    """Flags of eval_3d_sagittal_twostage.py. Network, plane and columns come from the checkpoint."""

    __test__ = False  # its name makes pytest take it for a test
    description = ("Synthesizes the pseudo-healthy CT of every straightened case: the neighbours first, then "
                   "the target. Writes <output>/CT_fake/ and <output>/label_fake/.")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of inference."""
        super().add_arguments(parser)
        add = parser.add_argument_group("inference").add_argument
        add("--checkpoint", type=Path, nargs="+", help="generator; two, one per plane, are fused; without it "
            f"<checkpoints_dir>/<name>/{BEST_GENERATOR}")
        add("--fuse_name", help="run of the other plane, to fuse with the run --name")
        add("--output", type=Path, default=Path("output"), help="folder for the results")
        add("--split", choices=("all", "train", "test", "val"), default="all", help="cases of which split")
        add("--cases", nargs="+", default=[], help="only these cases")
        add("--iterative", choices=("adjacent", "fractured", "none"), default="adjacent",
            help="which neighbours are restored before the target: both, those graded above 0, or none")
        add("--batch_slices", type=whole_number(1), default=16, help="slices that a network takes at once")
        add("--overwrite", action="store_true", help="redo what is already complete")

    def check(self, args: Namespace) -> None:
        """Refuse more checkpoints than planes.

        Raises:
            InputError: as said.
        """
        super().check(args)
        if args.checkpoint and (len(args.checkpoint) > 2 or args.fuse_name):
            raise InputError(f"--checkpoint: expected one file, or two to fuse, and no --fuse_name, "
                             f"found {len(args.checkpoint)}; name one sagittal and one coronal generator")


def checkpoint_paths(args: Namespace) -> tuple[Path, ...]:
    """Return the generators' files, one per plane."""
    if args.checkpoint:
        return tuple(args.checkpoint)
    names = [args.name] + ([args.fuse_name] if args.fuse_name else [])
    return tuple(args.checkpoints_dir / name / BEST_GENERATOR for name in names)
