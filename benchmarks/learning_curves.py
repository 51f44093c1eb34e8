"""Learning curves: training with measurements on the way, the picture, and steps to another's quality.

A folder holds one result for each generator, `<netG>.json`: its settings, its curve, and what copying a
neighbour's rows reaches where that was measured.
"""

import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.comparison import finish
from options.base_options import resolved
from options.train_options import LEARNING_RATES, TrainOptions
from util.cli import whole_number
from util.paths import atomic_path, read_json, write_json

if TYPE_CHECKING:
    from models.pix2pix_model import Pix2PixModel
    from models.schedule import Schedule

METRICS = {  # name -> axis label
    "psnr_db": "PSNR in the band, dB",
    "body_dice": "Dice of the body",
    "neighbours_dice": "Dice of the neighbours",
    "height_error_percent": "height error, %",
}
FALLING = ("height_error_percent",)  # better the smaller
AXES = {"step": "step", "seconds": "seconds of training"}

Curve = Sequence[dict[str, float]]  # rows of METRICS with step and seconds


class CurveOptions(TrainOptions):
    """Flags of train.py, and of a learning curve."""

    folder = Path("output/curves")

    def add_arguments(self, parser: Any) -> None:
        """Add the benchmark's own flags."""
        super().add_arguments(parser)
        add = parser.add_argument_group("benchmark").add_argument
        add("--steps", type=whole_number(1), default=300, help="training steps")
        add("--every", type=whole_number(1), default=10, help="steps between measurements")
        add("--out", type=Path, default=self.folder, help="folder of curves")
        parser.set_defaults(batch_size=4, attention="none")


def half_decayed(options: Namespace, steps_per_epoch: int = 1) -> "Schedule":
    """Return the schedule of a short run: the rate falls in its second half."""
    from models.schedule import Schedule

    return Schedule(options.steps, options.steps // 2, steps_per_epoch, options.lr)


def learn(model: "Pix2PixModel", schedule: "Schedule", batches: Iterable[Sequence[Any]],
          measure: Callable[[], dict[str, float]], every: int) -> list[dict[str, float]]:
    """Train and measure on the way.

    Args:
        model: a fresh one.
        schedule: how many steps, at what rate.
        batches: one for each step, as `set_input` takes it.
        measure: returns METRICS.
        every: steps between measurements.

    Returns:
        The curve, from step 0. Seconds are those of training alone.
    """
    rows, seconds = [measure() | {"step": 0, "seconds": 0.0}], 0.0
    for step, batch in enumerate(batches, start=1):
        begun = time.perf_counter()
        model.set_learning_rate(schedule.learning_rate(step - 1))
        model.set_input(*batch)
        model.optimize_parameters()
        finish(str(model.device))
        seconds += time.perf_counter() - begun
        if step % every == 0 or step == schedule.steps:
            rows.append(measure() | {"step": step, "seconds": seconds})
            print("  ".join(f"{name} {value:.4g}" for name, value in rows[-1].items()), flush=True)
    return rows


def write_result(options: Namespace, model: "Pix2PixModel", curve: Curve, **figures: float) -> None:
    """Write a generator's result, and of all results in the folder the picture and the comparison."""
    write_json(options.out / f"{options.netG}.json", {
        "settings": resolved(options) | model.settings(), **figures, "curve": curve})
    results = read_results(options.out)
    draw_curves(options.out / "curves.png", results)
    print(f"curves: {options.out / 'curves.png'}")
    if {"residual", "published"} <= results.keys():
        rows = compare_steps(*(results[name]["curve"] for name in ("residual", "published")))
        write_json(options.out / "steps_to_quality.json", {"rows": rows})
        print(f"{steps_table(rows)}\nfigures: {options.out / 'steps_to_quality.json'}")


def read_results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results of a folder by the generator's name."""
    paths = {name: folder / f"{name}.json" for name in LEARNING_RATES}
    return {name: read_json(path) for name, path in paths.items() if path.is_file()}


def compare_steps(default: Curve, published: Curve) -> list[dict[str, Any]]:
    """Return, for each metric, when the default first is as good as the published network ever gets.

    Rows hold the published network's `best` with its `published_step` and `published_seconds`, and
    `default_step`, `default_seconds` (None where it never gets there). `share_of_steps` is of the steps to
    that best, `share_of_run` of all that the published network took: an untrained network may be at its
    best by accident, as a mask that is everywhere has a fair Dice within the vertebra's rows.
    """
    rows = []
    for metric in METRICS:
        sign = -1 if metric in FALLING else 1
        goodness = [sign * row[metric] for row in published]
        best = published[goodness.index(max(goodness))]
        reached = [row for row in default if sign * row[metric] >= max(goodness)]
        first: Any = reached[0] if reached else dict.fromkeys(AXES)
        share = first["step"] / best["step"] if reached and best["step"] else None
        share_of_run = first["step"] / published[-1]["step"] if reached else None
        rows.append({"metric": metric, "best": best[metric], "share_of_steps": share,
                     "share_of_run": share_of_run}
                    | {f"published_{axis}": best[axis] for axis in AXES}
                    | {f"default_{axis}": first[axis] for axis in AXES})
    return rows


def steps_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows of `compare_steps` as a Markdown table."""
    lines = ["| | published, best | at step | seconds | default as good at step | seconds | share of steps "
             "| of the whole run |", "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for row in rows:
        figures = [row["best"], row["published_step"], row["published_seconds"], row["default_step"],
                   row["default_seconds"], row["share_of_steps"], row["share_of_run"]]
        cells = ["–" if figure is None else f"{figure:.3g}" for figure in figures]
        lines.append(" | ".join([f"| {METRICS[row['metric']]}", *cells]) + " |")
    return "\n".join(lines)


def draw_curves(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """Draw every curve, per step and per second, with the copy's PSNR as a dashed line where it is known."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 7), layout="constrained")
    panels = figure.subplots(2, len(METRICS))
    for row, (axis, label) in zip(panels, AXES.items(), strict=True):
        for panel, (metric, title) in zip(row, METRICS.items(), strict=True):
            draw_panel(panel, results, axis, metric)
            panel.set(xlabel=label, ylabel=title)
    panels[0, 0].legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def draw_panel(panel: Any, results: dict[str, dict[str, Any]], axis: str, metric: str) -> None:
    """Draw one measure of all generators."""
    for name, result in results.items():
        panel.plot([row[axis] for row in result["curve"]], [row[metric] for row in result["curve"]],
                   marker=".", label={"residual": "default"}.get(name, name))
    copied = [result["copied_psnr_db"] for result in results.values() if "copied_psnr_db" in result]
    if metric == "psnr_db" and copied:
        panel.axhline(copied[0], color="grey", linestyle="--", label="neighbour's rows")
    if axis == "seconds":
        panel.set_xscale("symlog")
        panel.set_xlim(left=0)
