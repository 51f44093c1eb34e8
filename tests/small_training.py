"""Small trainings on box spines: their flags, their run, and a model with its first batch."""

from argparse import Namespace
from pathlib import Path

import torch
from box_spine import BoxCohort

import train
from data.aligned_dataset import epoch_batches
from data.slice_cache import SliceStore
from models import create_model
from models.pix2pix_model import Pix2PixModel
from options.train_options import TrainOptions

SMALL = ["--ngf=8", "--ndf=4", "--crop_cols=64", "--batch_size=2", "--gpu_ids=-1", "--val_freq=3",
         "--log_freq=1"]


def parse(boxes: BoxCohort, *flags: str) -> Namespace:
    """Resolve flags of a small run."""
    return TrainOptions().parse([*boxes.flags, *SMALL, *flags])


def run(boxes: BoxCohort, folder: Path, name: str, *flags: str) -> int:
    """Run train.py's main for a small run."""
    return train.main([*boxes.flags, *SMALL, f"--checkpoints_dir={folder}", f"--name={name}", *flags])


def model_with_batch(boxes: BoxCohort, store: SliceStore, *flags: str) -> Pix2PixModel:
    """A fresh model that has been given its first batch."""
    options = parse(boxes, *flags)
    model = create_model(options, "cpu")
    draw = next(epoch_batches(store, 2, 0, 0))
    model.set_input(store.gather(draw), draw.context_above, draw.context_below)
    return model


def assert_equal(one: object, other: object) -> None:
    """Compare nested states to the last bit."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for first, second in zip(one, other, strict=True):
            assert_equal(first, second)
    else:
        assert one == other
