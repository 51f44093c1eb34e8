"""How fast a generator learns to restore what it has not seen: a short training on a small cohort.

    python benchmarks/short_run.py --netG residual --steps 300 --cohort cohort.json --dataroot straightened

Every flag of train.py applies. Trains on the split `train` and measures on `test` as train.py's validation
does, at the predicted height. Writes what `overfit.py` writes, to another folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.learning_curves import METRICS, CurveOptions, half_decayed, learn, write_result
from util.cli import run_script
from util.wording import vertebrae

if TYPE_CHECKING:
    from data.slice_cache import SliceStore
    from models.pix2pix_model import Pix2PixModel


class ShortRunOptions(CurveOptions):
    """Flags of train.py, and of a learning curve."""

    description = __doc__.split("\n\n")[0] if __doc__ else ""
    folder = Path("output/short_run")


def measure(model: "Pix2PixModel", store: "SliceStore", batch_size: int) -> dict[str, float]:
    """Return the curves' metrics, means over the central slices of all vertebrae of a store."""
    from evaluation.validation import validate

    metrics, _ = validate(model.generator, store, batch_size, str(model.device))
    return {name: metrics.get(name, metrics["psnr"]) for name in METRICS}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, write the curve, draw all curves; return 0."""
    options = ShortRunOptions().parse(argv)

    from data.integrity import read_cohort_slices
    from models import create_model
    from util.device import choose_device

    slices = read_cohort_slices(options)
    model = create_model(options, choose_device(options.device))
    print(f"{vertebrae(len(slices.train))} to learn from, {len(slices.test)} to watch; {model.summary()}")
    schedule = half_decayed(options, -(-len(slices.train) // options.batch_size))
    draws = schedule.draws(slices.train, options.batch_size, options.seed, 0, options.augment, options.plane)
    batches = ((slices.train.gather(draw), draw.context_above, draw.context_below, draw.augmentation)
               for draw in draws)
    curve = learn(model, schedule, batches, lambda: measure(model, slices.test, options.batch_size),
                  options.every)
    write_result(options, model, curve)
    return 0


if __name__ == "__main__":
    raise SystemExit(run_script(main))
