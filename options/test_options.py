"""Flags of inference."""

import argparse
from argparse import Namespace
from pathlib import Path

from options.base_options import BaseOptions
from util.cli import add_scheduler_argument, whole_number
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
        parser.set_defaults(jobs=1)  # every further process holds the networks again
        add = parser.add_argument_group("inference").add_argument
        add("--checkpoint", type=Path, help="generator; without it "
            f"<checkpoints_dir>/<name>/{BEST_GENERATOR}")
        add("--checkpoint_coronal", type=Path, help="generator of the other plane, to fuse with the first")
        add("--name_coronal", help="the same by the name of its run")
        add("--output", type=Path, default=Path("output"), help="folder for the results")
        add("--split", choices=("all", "train", "test", "val"), default="all", help="cases of which split")
        add("--cases", nargs="+", default=[], help="only these cases")
        add("--iterative", choices=("adjacent", "fractured", "none"), default="adjacent",
            help="which neighbours are restored before the target: both, those graded above 0, or none")
        add("--heights", choices=("agreed", "head", "drawn"), default="agreed",
            help="height of a restored body: as the scan's other vertebrae (by the checkpoint's height "
            "prior) and the height heads agree; as the heads predict; or as the body was drawn")
        add("--batch_slices", type=whole_number(1), help="slices that a network takes at once, of several "
            "vertebrae where there is room; bounds the memory; without it 16 on the CPU, 256 on a GPU")
        add("--overwrite", action="store_true", help="redo what is already complete")
        add_scheduler_argument(parser)

    def check(self, args: Namespace) -> None:
        """Resolve names to `args.checkpoints`, one file per plane.

        Raises:
            InputError: as `BaseOptions.check`, or the second plane is named twice.
        """
        super().check(args)
        if args.checkpoint_coronal and args.name_coronal:
            raise InputError("--name_coronal: expected it or --checkpoint_coronal, found both; leave one out")
        first = args.checkpoint or args.checkpoints_dir / args.name / BEST_GENERATOR
        second = args.checkpoint_coronal
        if args.name_coronal:
            second = args.checkpoints_dir / args.name_coronal / BEST_GENERATOR
        args.checkpoints = (first, second) if second else (first,)
