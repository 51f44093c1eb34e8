"""Training: healthy vertebrae in, a generator that draws healthy vertebrae out.

    python train.py --dataroot ./dataset/straightened --name HealthiVert_experiment --model pix2pix \
        --direction BtoA --batch_size 16 --n_epochs 1000

Writes `<checkpoints_dir>/<name>/`: best and latest generator, state to go on from, options.json, log.jsonl
and web/index.html.
"""

import argparse
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from options.base_options import resolved
from options.train_options import TrainOptions, run_folder
from util.cli import run_script
from util.distributed import World, joined_world
from util.wording import counted, vertebrae

if TYPE_CHECKING:  # PyTorch takes seconds to import, and --help does without
    from data.aligned_dataset import Draw
    from data.slice_cache import SliceStore
    from models.pix2pix_model import Pix2PixModel


def build_parser() -> argparse.ArgumentParser:
    """Return the script's parser."""
    return TrainOptions().build_parser()


def train(options: Namespace, world: World) -> int:
    """Train; return 0, or 1 if cases had to be skipped, or 130 if the run was stopped before its end."""
    from data.integrity import read_cohort_slices
    from evaluation.training_results import results_of
    from evaluation.validation import validate
    from models import create_model
    from models.height_prior import height_prior
    from models.run_state import RunState, check_writable
    from models.schedule import Schedule, StopRequest

    world.first(lambda: check_writable(run_folder(options)))
    with world.together():
        device = world.own_device(options.device)
    slices = world.in_turn(lambda: read_cohort_slices(options, device))
    with world.together():
        model = create_model(options, device, world)
    settings = resolved(options) | model.settings()
    print("\n".join(f"{name}: {value}" for name, value in settings.items()))
    schedule = Schedule.of(options, len(slices.train))
    print(f"{vertebrae(len(slices.train))} to learn from, {len(slices.test)} to watch; {model.summary()}; "
          f"{counted(schedule.steps, 'step')} on {world.say(device)}")
    run = RunState(run_folder(options), options, model, slices.train.cases, slices.test.cases,
                   height_prior(slices.train))
    if options.continue_train:
        world.first(run.check_same_run)
    if options.dry_run:
        return slices.status
    with run.held(), StopRequest() as stop:
        run.begin(settings)
        results = results_of(run, settings, schedule.steps)
        for draw in schedule.draws(slices.train, options.batch_size, options.seed, run.step,
                                   options.augment, options.plane):
            learn(model, slices.train, draw, schedule.learning_rate(run.step), world)
            run.step += 1
            results.count(model.losses, len(draw.place))
            if results.is_due(options.log_freq):
                results.write_losses(schedule.learning_rate(run.step - 1))
            if results.is_due(options.val_freq):
                results.write_validation(*validate(model.generator, slices.test, options.batch_size, device))
                run.save()
            if stop.agreed(world) or run.step - results.start == options.stop_after:
                break
        world.first(run.save)
        world.first(results.close)  # torchrun ends all once one has left a run before its end
    return 130 if stop.is_set else slices.status


def learn(model: "Pix2PixModel", slices: "SliceStore", draw: "Draw", rate: float, world: World) -> None:
    """Take one step with this process's part of a batch."""
    own = draw.at(world.part(len(draw.place)))
    model.set_learning_rate(rate)
    model.set_input(slices.gather(own), own.context_above, own.context_below, own.augmentation,
                    world.share(len(draw.place)))
    model.optimize_parameters()


def main(argv: Sequence[str] | None = None) -> int:
    """Train, alone or with the other processes of torchrun; return the exit status."""
    with joined_world() as world:
        with world.together():
            options = TrainOptions().parse(argv)
            world.check_batch(options.batch_size)
        return train(options, world)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
