"""How far bfloat16 moves the losses of a training: the same steps on the same slices, with and without --amp.

    python benchmarks/precision.py --netG residual --steps 200 --dataroot dataset/straightened

Every flag of train.py applies, and those of overfit.py. Losses are means over the last steps. Two trainings
drift apart by rounding alone, so a third one, in full precision from weights moved by a millionth, tells how
far; a difference within that is chance. Writes `<out>/<netG>.json`.
"""

from argparse import Namespace
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.learning_curves import half_decayed
from benchmarks.overfit import OverfitOptions, fixed_batches, fixed_draw
from util.cli import run_script
from util.paths import write_json

if TYPE_CHECKING:
    from data.slice_input import RawSlices

LAST_STEPS = 20
NUDGE = 1e-6  # of each weight, up or down


class PrecisionOptions(OverfitOptions):
    """Flags of train.py, and how long to train."""

    description = __doc__.split("\n\n")[0] if __doc__ else ""
    folder = Path("output/precision")


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
            total = float(model.losses["total"])
            print(f"{name}: step {step} of {options.steps}, total {total:.4g}", flush=True)
    return {term: sum(float(losses[term]) for losses in last) / len(last) for term in last[0]}


def differences_percent(reference: dict[str, float], found: dict[str, float]) -> dict[str, float]:
    """Return by how much losses differ from those of the same name."""
    return {name: 100 * (found[name] / value - 1) for name, value in reference.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Train three times, print and write the differences; return 0."""
    options = PrecisionOptions().parse(argv)

    from data.integrity import read_cohort_slices

    store = read_cohort_slices(options).train
    raw = store.gather(fixed_draw(store, options.slices))
    in_bfloat16 = copy(options)
    options.amp, in_bfloat16.amp = False, True
    reference = final_losses("full precision", options, raw)
    nudged = differences_percent(reference, final_losses("moved by a millionth", options, raw, NUDGE))
    rounded = differences_percent(reference, final_losses("--amp", in_bfloat16, raw))
    print(f"{options.netG}, the last {LAST_STEPS} of {options.steps} steps\n\n"
          "| loss | full precision | moved by a millionth, % | --amp, % |\n| --- | ---: | ---: | ---: |")
    for name, value in reference.items():
        print(f"| {name} | {value:.4g} | {nudged[name]:+.2f} | {rounded[name]:+.2f} |")
    write_json(options.out / f"{options.netG}.json", {
        "steps": options.steps, "full_precision": reference, "nudged_percent": nudged,
        "amp_percent": rounded})
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
