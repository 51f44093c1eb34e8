"""How far bfloat16 moves the losses of a training: the same steps on the same slices, with and without --amp.

    python benchmarks/precision.py --netG residual --steps 200 --repeats 4 --dataroot dataset/straightened

Every flag of train.py applies, and those of overfit.py. Losses are means over the last steps. Two trainings
drift apart by rounding alone, so a third one, in full precision from weights moved by a millionth, tells how
far; a difference within that is chance. Each repeat trains all three from another seed, and the differences
of their means stand with standard errors. Writes `<out>/<netG>.json`.
"""

import argparse
from argparse import Namespace
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from benchmarks.learning_curves import half_decayed
from benchmarks.overfit import OverfitOptions, fixed_batches, fixed_draw
from util.cli import run_script, whole_number
from util.paths import write_json

if TYPE_CHECKING:
    from data.slice_input import RawSlices

LAST_STEPS = 20
NUDGE = 1e-6  # of each weight, up or down

Losses = Mapping[str, float]


class PrecisionOptions(OverfitOptions):
    """Flags of train.py, and how long and how often to train."""

    description = __doc__.split("\n\n")[0] if __doc__ else ""
    folder = Path("output/precision")

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the benchmark's own flags."""
        super().add_arguments(parser)
        parser.add_argument("--repeats", type=whole_number(2), default=4,
                            help="trainings of each kind, from --seed and the seeds after it")
        parser.set_defaults(steps=200, every=100)


class Difference(NamedTuple):
    """Of the means of a loss over repeats, in % of the reference."""

    percent: float
    standard_error: float

    def __str__(self) -> str:
        return f"{self.percent:+.2f} ± {self.standard_error:.2f}"


def final_losses(name: str, options: Namespace, raw: "RawSlices", nudge: float = 0.0) -> dict[str, float]:
    """Train afresh and say how it goes; return the mean of each loss over the last steps."""
    import torch

    from models import create_model
    from util.device import choose_device

    model, schedule = create_model(options, choose_device(options.device)), half_decayed(options)
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.mul_(1 + nudge * (2 * torch.randint_like(parameter, 2) - 1))
    last = []
    for step, batch in enumerate(fixed_batches(raw, options), start=1):
        model.set_learning_rate(schedule.learning_rate(step - 1))
        model.set_input(*batch)
        model.optimize_parameters()
        if step > options.steps - LAST_STEPS:
            last.append(model.losses)
        if step % options.every == 0:
            print(f"{name}, seed {options.seed}: step {step} of {options.steps}, total "
                  f"{float(model.losses['total']):.4g}", flush=True)
    return {term: sum(float(losses[term]) for losses in last) / len(last) for term in last[0]}


def differences(reference: Sequence[Losses], found: Sequence[Losses]) -> dict[str, Difference]:
    """Return by how much losses differ from those of the same name and repeat, on average."""
    result = {}
    for name in reference[0]:
        before = np.array([losses[name] for losses in reference])
        change = 100 * (np.array([losses[name] for losses in found]) - before) / before.mean()
        result[name] = Difference(change.mean(), change.std(ddof=1) / len(change) ** 0.5)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print and write the differences; return 0."""
    options = PrecisionOptions().parse(argv)

    from data.integrity import read_cohort_slices

    store = read_cohort_slices(options).train
    raw = store.gather(fixed_draw(store, options.slices))
    full, nudged, rounded = [], [], []
    for seed in range(options.seed, options.seed + options.repeats):
        in_full, in_bfloat16 = copy(options), copy(options)
        in_full.seed = in_bfloat16.seed = seed
        in_full.amp, in_bfloat16.amp = False, True
        full.append(final_losses("full precision", in_full, raw))
        nudged.append(final_losses("moved by a millionth", in_full, raw, NUDGE))
        rounded.append(final_losses("--amp", in_bfloat16, raw))
    means = {name: sum(losses[name] for losses in full) / len(full) for name in full[0]}
    by_chance, by_rounding = differences(full, nudged), differences(full, rounded)
    print(f"{options.netG}, last {LAST_STEPS} of {options.steps} steps, {options.repeats} trainings of each\n"
          "\n| loss | full precision | moved by a millionth, % | --amp, % |\n| --- | ---: | ---: | ---: |")
    for name, value in means.items():
        print(f"| {name} | {value:.4g} | {by_chance[name]} | {by_rounding[name]} |")
    write_json(options.out / f"{options.netG}.json", {
        "steps": options.steps, "repeats": options.repeats, "full_precision": means,
        "nudged": {name: each._asdict() for name, each in by_chance.items()},
        "amp": {name: each._asdict() for name, each in by_rounding.items()}})
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
