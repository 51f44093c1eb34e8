"""Flags of training."""

import argparse
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from options.base_options import BaseOptions
from util.cli import number_from, whole_number
from util.errors import InputError

# Terms of the generator's objective, as models.losses.ObjectiveWeights names them.
TERMS = {
    "gan": "adversarial, mean of the three discriminators; 0 trains without them",
    "l1": "absolute difference of the restored rows, final CT",
    "coarse_l1": "absolute difference of the restored rows, coarse CT",
    "l2": "squared difference of the restored rows, final CT",
    "coarse_l2": "squared difference of the restored rows, coarse CT",
    "body_dice": "Dice of the restored body",
    "neighbours_dice": "Dice of the healthy neighbours",
    "edge": "edges of the soft body mask (EEM)",
    "height": "relative height error, refinement (SHRM)",
    "coarse_height": "relative height error, coarse stage",
}
# Kinds of augmentation, as data.augmentation names them.
AUGMENTATIONS = {
    "flip": "right and left",
    "intensity": "contrast and brightness",
    "noise": "voxel noise",
    "affine": "rotation by up to 3 degrees, scale 0.9 to 1.1",
    "fracture": "the neighbours lose up to three fifths of their height",
}
LEARNING_RATES = {"residual": 1e-3, "published": 2e-4}  # by --netG; the publication's, and five times that
OPTIMIZERS = {"residual": "muon", "published": "adam"}  # by --netG


class TrainOptions(BaseOptions):
    """Flags of train.py."""

    description = ("Trains the two-stage generator to draw a healthy vertebra between its neighbours, on the "
                   "healthy vertebrae of the split 'train', watched on those of 'test'. Weights, options, "
                   "log and a page of results land in <checkpoints_dir>/<name>/.")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of training."""
        super().add_arguments(parser)
        self._add_slices(parser)
        self._add_method(parser)
        self._add_course(parser)
        self._add_objective(parser)
        self._add_watching(parser)

    def _add_slices(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument_group("slices", "each is cut once from its volumes").add_argument
        add("--cache", choices=("auto", "memory", "device", "none"), default="auto",
            help="where slices are kept: mapped into memory from --cache_dir; all on the device that trains; "
            "nowhere, so that volumes are read for each draw (slow); auto is device on a GPU where they fill "
            "at most half of the free memory, else memory")
        add("--cache_dir", type=Path, help="folder of cut slices, 3 to 4 MB a vertebra, which runs may share "
            "and anyone may delete; without it 'slices' beside --dataroot")

    def _add_method(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument_group("method").add_argument
        add("--model", choices=("pix2pix",), default="pix2pix", help="the adversarial framework")
        add("--direction", choices=("BtoA", "AtoB"), default="BtoA",
            help="the task fixes it: a removed vertebra (B) becomes a healthy one (A); AtoB is refused")
        add("--plane", choices=("sagittal", "coronal"), default="sagittal", help="whose slices are learned")
        add("--netG", choices=("residual", "published"), default="residual",
            help="generator; 'published' has the layers of the published one, and learns slowly")
        add("--ngf", type=whole_number(1), default=16, help="base width of the generator")
        add("--ndf", type=whole_number(1), default=64, help="base width of the discriminators")
        add("--crop_cols", type=whole_number(16), default=128,
            help="central columns that the networks see; 128 holds all content, 256 is the published input")
        add("--attention", choices=("heatmap", "none"), default="heatmap",
            help="guide the generator by heatmaps of fracture evidence (HGAM), or do without")
        add("--augment", nargs="+", choices=("none", "all", *AUGMENTATIONS), default=["none"], metavar="KIND",
            help="change the slices that are learned from, each time anew: none, all, or some of "
            + "; ".join(f"{kind} ({meaning})" for kind, meaning in AUGMENTATIONS.items()))
        add("--healthy_max_grade", type=int, choices=(0, 1, 2, 3), default=0,
            help="highest Genant grade that counts as healthy; 1 is the publication's choice")
        add("--skip_bad_cases", action="store_true", help="train without the cases that have problems")

    def _add_course(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument_group("course").add_argument
        add("--batch_size", type=whole_number(1), default=16, help="slices a step, each of another vertebra; "
            "under torchrun the processes share them")
        add("--n_epochs", type=whole_number(1), default=1000, help="epochs at the full learning rate")
        add("--n_epochs_decay", type=whole_number(0), default=100,
            help="epochs after those, in which the rate falls linearly to zero")
        add("--max_steps", type=whole_number(1),
            help="end after so many steps if the epochs do not end sooner; the schedule shrinks with them: "
            "the rate falls over the same share of the steps")
        add("--optimizer", choices=("muon", "adam"), help="what moves the generator: Muon its inner "
            "matrices and Adam the rest, or Adam alone, as published; without it "
            + ", ".join(f"{optimizer} for {kind}" for kind, optimizer in OPTIMIZERS.items())
            + "; the discriminators have Adam")
        add("--lr", type=number_from(0.0), help="learning rate; without it "
            + ", ".join(f"{rate:g} for {kind}" for kind, rate in LEARNING_RATES.items()))
        add("--beta1", type=number_from(0.0, below=1.0), default=0.5, help="momentum of Adam")
        add("--seed", type=whole_number(0), default=0, help="of weights, order, slices and contexts")
        add("--continue_train", action="store_true", help="go on exactly where the run of this name stopped")
        add("--stop_after", type=whole_number(1),
            help="stop and save after so many steps of this call, to go on later with --continue_train")
        add("--compile", action="store_true", help="compile the step when the first is taken, which "
            "takes minutes; needs a C++ compiler")
        add("--eager", action="store_true", help="start a step's kernels one by one on a GPU too, as under "
            "torchrun, instead of replaying a recording of them (CUDA graph): slower, easier to debug")
        add("--dry_run", action="store_true", help="check everything, fractured vertebrae and the hold-out "
            "too, train nothing, write nothing")

    def _add_objective(self, parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("objective", "weights; those not given suit the chosen --netG")
        for term, meaning in TERMS.items():
            group.add_argument(f"--lambda_{term}", type=number_from(0.0), help=meaning)

    def _add_watching(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument_group("watching").add_argument
        add("--log_freq", type=whole_number(1), default=20, help="steps between lines of the log")
        add("--val_freq", type=whole_number(1), default=500, help="steps between validations; each saves")
        add("--display", choices=("none", "visdom"), default="none",
            help="show results live; visdom needs requirements-visdom.txt and a server")
        add("--display_server", default="http://localhost", help="address of the visdom server")
        add("--display_port", type=whole_number(1), default=8097, help="port of the visdom server")

    def check(self, args: Namespace) -> None:
        """Refuse a wrong direction and columns that the networks cannot halve often enough; settle the rest.

        Raises:
            InputError: as said.
        """
        super().check(args)
        if args.cache_dir is None:
            args.cache_dir = args.dataroot.parent / "slices"
        if args.lr is None:
            args.lr = LEARNING_RATES[args.netG]
        if args.optimizer is None:
            args.optimizer = OPTIMIZERS[args.netG]
        args.augment = augmentation_kinds(args.augment)
        if args.direction == "AtoB":
            raise InputError("--direction AtoB: expected BtoA, found the inverse task, which would learn to "
                             "erase healthy vertebrae instead of restoring them; use --direction BtoA")
        if args.crop_cols % 16 or args.crop_cols > 256:
            raise InputError(f"--crop_cols {args.crop_cols}: expected a multiple of 16 up to 256, found "
                             f"another number; use 128 (all content) or 256 (the published input)")


def augmentation_kinds(names: Sequence[str]) -> list[str]:
    """Return the kinds that --augment names, in their own order; empty for `none`.

    Raises:
        InputError: `none` stands beside a kind.
    """
    if "none" in names and len(set(names)) > 1:
        raise InputError(f"--augment {' '.join(names)}: expected none, or kinds of augmentation, found both; "
                         f"leave out none")
    return [kind for kind in AUGMENTATIONS if kind in names or "all" in names]


def run_folder(args: Namespace) -> Path:
    """Return the folder of a run's weights, options, log and page."""
    return args.checkpoints_dir / args.name
