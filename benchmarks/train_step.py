"""One training step of the published network at the published size against the step as published.

    python benchmarks/train_step.py

Both take the same weights and slices, and define the losses alike: the discriminators look at the same rows
and columns. The plain step is written as the publication's: attention a sample at a time, features doubled
before they are convolved and joined to the planes beside them, real and restored judged one after the other,
each pass with spectral norms of its own, contiguous memory, Adam parameter by parameter. The fast one is
`Pix2PixModel.optimize_parameters`, in full precision and in bfloat16 (`amp`); on a GPU recorded, and also
compiled.
The details hold the plain step with discriminators that look at whole slices, as the publication's do.
"""

from argparse import Namespace
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.comparison import Row, Settings, alternate, run_benchmark, seconds
from util.cli import run_script

if TYPE_CHECKING:
    from torch import Tensor, nn

    from data.slice_input import RawSlices
    from models.pix2pix_model import Pix2PixModel

SIDE = 256                      # rows and columns of the published slices
BATCH = {"cpu": 4, "cuda": 16}
STEPS = {"cpu": 1, "cuda": 20}  # of a round; a GPU's are recorded in the first, which is not measured
SEED = 0
SETTLING_PASSES = 30            # after which the spectral norms of both sides no longer move
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
    """Take steps of every spectral norm's power iteration until it stands."""
    import torch

    from models.discriminator import NormalisedConv
    from models.layers import SpectralConv

    with torch.no_grad():
        for module in [each for network in model.networks.values() for each in network.modules()]:
            for _ in range(SETTLING_PASSES):
                if isinstance(module, SpectralConv):
                    module.weight()
                elif isinstance(module, NormalisedConv):
                    module.norm()


def in_plain_order(network: "nn.Module") -> Any:
    """Return a copy whose weights lie in memory channel by channel."""
    import torch

    return deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


class PlainStep:
    """The step as published, with copies of a model's networks."""

    def __init__(self, model: "Pix2PixModel", crops: bool = True) -> None:
        """Copy the networks.

        Args:
            model: its batch is set.
            crops: whether the discriminators look at the model's crops, or at whole slices.
        """
        import torch

        from models.pix2pix_model import BETA2

        self.model, self.crops = model, crops
        self.generator, discriminators = (in_plain_order(network) for network in model.networks.values())
        self.discriminators = [discriminators.image, discriminators.mask, discriminators.target]
        rate = model.optimizers["generator"].param_groups[0]["lr"]
        self.optimizers = [torch.optim.Adam(network.parameters(), rate, (0.5, BETA2), foreach=False)
                           for network in (self.generator, discriminators)]
        self.losses: dict[str, Tensor] = {}

    def __call__(self) -> None:
        """Take one step."""
        from benchmarks.plain_generator import plain_generator

        output = plain_generator(self.generator, self.model.seen)
        composed = self.model.compose_true(output.ct)
        self._step_discriminators(self._views(composed.detach(), output.body.detach()))
        self._step_generator(output, composed)

    def _views(self, image: "Tensor", mask: "Tensor") -> list["Tensor"]:
        """Return what each discriminator looks at."""
        from models.discriminator import crop_to_box
        from models.pix2pix_model import IMAGE_ROWS, MASK_ROWS, central_rows

        if not self.crops:
            return [image, mask, image * self.model.body]
        image, body = central_rows(image, IMAGE_ROWS), central_rows(self.model.body, IMAGE_ROWS)
        return [image, central_rows(mask, MASK_ROWS), crop_to_box(image, body)]

    def _step_discriminators(self, restored: list["Tensor"]) -> None:
        """Judge real and restored one after the other, and update."""
        from models.losses import gan_loss

        real = self._views(self.model.truth.ct, self.model.truth.body)
        self._freeze(False)
        self.optimizers[1].zero_grad()
        names = ("D_image", "D_mask", "D_target")
        for name, judge, false, true in zip(names, self.discriminators, restored, real, strict=True):
            loss = (gan_loss(judge(false), False) + gan_loss(judge(true), True)) / 2
            loss.backward()
            self.losses[name] = loss.detach()
        self.optimizers[1].step()

    def _step_generator(self, output: Any, composed: "Tensor") -> None:
        """Judge the restored again, add the other terms, and update."""
        import torch

        from models.losses import gan_loss

        weights = self.model.weights
        self._freeze(True)
        self.optimizers[0].zero_grad()
        views = zip(self.discriminators, self._views(composed, output.body), strict=True)
        adversarial = torch.stack([gan_loss(judge(view), True) for judge, view in views]).mean()
        terms = self.model.reconstruction_terms(output, composed) | {"gan": adversarial}
        total = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        total.backward()
        self.optimizers[0].step()
        self.losses |= {name: term.detach() for name, term in terms.items()} | {"total": total.detach()}

    def _freeze(self, frozen: bool) -> None:
        """Switch the discriminators' own gradients off or on."""
        for judge in self.discriminators:
            judge.requires_grad_(not frozen)


def compare(stage: str, settings: Settings, tolerance: float, *flags: str) -> Row:
    """Compare the losses of the first step from the same weights, then measure."""
    model = settled_model(build_options(*flags), settings.device)
    plain, with_whole_slices, fast = PlainStep(model), PlainStep(model, False), model.optimize_parameters
    plain()
    fast()
    differences = relative_differences(plain.losses, model.losses)
    updated = differences.pop("gan")
    greatest = max(differences.values())
    batch, steps = len(model.body), STEPS[model.device.type]
    rounds = alternate(partial(repeat, plain, steps), partial(repeat, fast, steps), settings.rounds,
                       settings.device)
    plain_s, fast_s = (each / (batch * steps) for each in rounds)
    if model.device.type == "cuda":
        with_whole_slices()  # a GPU's kernels are chosen at the first of each shape
    whole_slices_s = seconds(with_whole_slices, settings.device) / batch
    details = {"batch_size": batch, "flags": " ".join(flags), "slices_per_second": round(1 / fast_s, 3),
               "plain_with_whole_slices_judged_s": round(whole_slices_s, 3)}
    return Row(stage, plain_s, fast_s, "slice", greatest < tolerance and updated < UPDATED_TOLERANCE,
               f"losses of the first step differ by {greatest:.0e} at most, the adversarial one, after the "
               f"discriminators' update, by {updated:.0e}", details)


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
