"""One training step of the published network at the published size against the step as published.

    python benchmarks/train_step.py

Both take the same weights and slices, and define the losses alike: the discriminators look at the same rows
and columns. The plain step is written as the publication's (`plain_step.py`). The fast one is
`Pix2PixModel.optimize_parameters`, in full precision and in bfloat16 (`amp`); on a GPU recorded, and also
compiled. The details hold the plain step with discriminators that look at whole slices, as the publication's
do, and the slices a second of train.py's loop: drawn, gathered from the store, and learned from.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.comparison import Row, Settings, alternate, run_benchmark, seconds
from benchmarks.settled_norms import settle_norms
from util.cli import run_script

if TYPE_CHECKING:
    from torch import Tensor

    from data.slice_cache import SliceStore
    from data.slice_input import RawSlices
    from models.pix2pix_model import Pix2PixModel

SIDE = 256                      # rows and columns of the published slices
BATCH = {"cpu": 4, "cuda": 16}
STEPS = {"cpu": 1, "cuda": 20}  # of a round; a GPU's are recorded in the first, which is not measured
SEED = 0
TOLERANCE, AMP_TOLERANCE = 1e-4, 2e-2  # of each loss, relative
UPDATED_TOLERANCE = 2e-2        # of what is judged after an update: Adam's first step is of signs alone
LEAST_LOSS = 0.01               # a smaller one may differ by the tolerance times this


def build_options(*flags: str) -> Namespace:
    """Return the flags of a run with the published network, without a cohort."""
    from options.train_options import LEARNING_RATES, TrainOptions

    options = TrainOptions().build_parser().parse_args(
        ["--netG=published", f"--crop_cols={SIDE}", f"--seed={SEED}", *flags])
    options.lr = LEARNING_RATES["published"]
    return options


def painted_slices(batch: int) -> "RawSlices":
    """Return noise with a target and two neighbours painted into it; the cost is that of any slices."""
    import torch

    from data.slice_input import RawSlices

    random = torch.Generator().manual_seed(SEED)
    ct, heatmap = torch.randint(0, 120, (2, batch, 1, SIDE, SIDE), generator=random, dtype=torch.uint8)
    body, neighbours = torch.zeros(2, batch, 1, SIDE, SIDE, dtype=torch.uint8)
    top = 112 + torch.arange(batch) % 4
    for sample, first in enumerate(top.tolist()):
        body[sample, :, first:first + 28, 110:145] = 1
        neighbours[sample, :, [*range(first - 34, first - 6), *range(first + 34, first + 62)], 110:145] = 1
    ct += 100 * (body | neighbours)
    return RawSlices(ct, body, neighbours, heatmap, top, top + 28, torch.linspace(-1, 1, batch))


def settled_model(options: Namespace, device: str) -> "Pix2PixModel":
    """Return a fresh model with its batch set and its spectral norms settled."""
    import torch

    from models import create_model

    model = create_model(options, device)
    raw = painted_slices(BATCH[device.partition(":")[0]])
    context = torch.full((len(raw.ct),), 88)
    model.set_input(raw, context, context)
    settle(model)
    return model


def settle(model: "Pix2PixModel") -> None:
    """Settle the spectral norms of all networks."""
    for network in model.networks.values():
        settle_norms(network)


def compare(stage: str, settings: Settings, tolerance: float, *flags: str) -> Row:
    """Compare the losses of the first step from the same weights, then measure."""
    from benchmarks.plain_step import PlainStep

    model = settled_model(build_options(*flags), settings.device)
    plain, with_whole_slices, fast = PlainStep(model), PlainStep(model, False), model.optimize_parameters
    plain()
    fast()
    differences = relative_differences(plain.losses, model.losses)
    updated = differences.pop("gan")
    greatest = max(differences.values())
    batch, steps = len(model.batch[0]), STEPS[settings.device.partition(":")[0]]
    rounds = alternate(partial(repeat, plain, steps), partial(repeat, fast, steps), settings.rounds,
                       settings.device)
    plain_s, fast_s = (each / (batch * steps) for each in rounds)
    if settings.device != "cpu":
        with_whole_slices()  # a GPU's kernels are chosen at the first of each shape
    figures = {"slices_per_second": 1 / fast_s,
               "loop_slices_per_second": loop_slices_per_second(model, batch, steps),
               "plain_with_whole_slices_judged_s": seconds(with_whole_slices, settings.device) / batch}
    details = {"batch_size": batch, "flags": " ".join(flags)} | {
        name: float(f"{value:.4g}") for name, value in figures.items()}
    return Row(stage, plain_s, fast_s, "slice", greatest < tolerance and updated < UPDATED_TOLERANCE,
               f"losses of the first step differ by {greatest:.0e} at most, the adversarial one, after the "
               f"discriminators' update, by {updated:.0e}", details)


def loop_slices_per_second(model: "Pix2PixModel", batch: int, steps: int) -> float:
    """Return how many slices a second train.py's loop learns from, with the slices held on the device."""
    from data.aligned_dataset import epoch_batches

    store = painted_store(batch * steps, str(model.device))
    rate = float(model.optimizers["generator"][0].param_groups[0]["lr"])

    def epoch(number: int) -> None:
        for draw in epoch_batches(store, batch, SEED, number):
            model.set_learning_rate(rate)
            model.set_input(store.gather(draw), draw.context_above, draw.context_below)
            model.optimize_parameters()

    if model.device.type == "cuda":
        epoch(0)
    return len(store) / seconds(lambda: epoch(1), str(model.device))


def painted_store(count: int, device: str) -> "SliceStore":
    """Return vertebrae of one painted slice each."""
    import numpy as np

    from data.aligned_dataset import VertebraSlices
    from data.slice_cache import SliceStore

    ct, body, neighbours, heatmap, top, bottom, _ = painted_slices(count)
    images = np.stack([ct[:, 0], body[:, 0] | neighbours[:, 0] << 1, heatmap[:, 0]], 1)   # (count, 3, R, C)
    vertebrae = [VertebraSlices(f"painted_{number}", images[number:number + 1], np.zeros(1, np.float32),
                                int(top[number]), int(bottom[number])) for number in range(count)]
    return SliceStore(vertebrae, device, on_device=True)


def repeat(step: Callable[[], object], count: int) -> None:
    """Take so many steps."""
    for _ in range(count):
        step()


def relative_differences(expected: dict[str, "Tensor"], found: dict[str, "Tensor"]) -> dict[str, float]:
    """Return the relative differences of losses of the same names."""
    assert expected.keys() == found.keys()
    pairs = {name: (float(value), float(found[name])) for name, value in expected.items()}
    return {name: abs(one - other) / max(abs(one), LEAST_LOSS) for name, (one, other) in pairs.items()}


def measure(settings: Settings) -> list[Row]:
    """Return the row of a processor in full precision and in bfloat16, or that of a GPU."""
    if settings.device.startswith("cuda"):
        return [compare("train_step_gpu", settings, AMP_TOLERANCE, "--amp"),
                compare("train_step_gpu_compiled", settings, AMP_TOLERANCE, "--amp", "--compile")]
    return [compare("train_step_cpu", settings, TOLERANCE),
            compare("train_step_cpu_amp", settings, AMP_TOLERANCE, "--amp")]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the table; return 1 where both sides differ."""
    return run_benchmark(argv, __doc__, "train_step", measure)


if __name__ == "__main__":
    raise SystemExit(run_script(main))
