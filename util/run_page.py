"""A page of a run's current results: web/index.html with the newest pictures, numbers and curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from util.paths import atomic_path
from util.run_log import curve

STYLE = """body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem }
img { max-width: 100% } .slices { image-rendering: pixelated }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { border-bottom: 1px solid #ccc; padding: .2rem .8rem; text-align: right } th { font-weight: 600 }
pre { background: #f4f4f4; padding: 1rem; overflow-x: auto } .small { color: #555 }"""
METRICS = {"psnr": "PSNR in the band, dB", "ssim": "SSIM in the band", "body_dice": "Dice, body",
           "neighbours_dice": "Dice, neighbours", "height_error_percent": "height error, %",
           "height_error_mm": "height error, mm", "height_bias_mm": "height bias, mm"}
HIDDEN = ("step", "kind", "learning_rate", "samples_per_second")


def write_page(folder: Path, options: dict[str, Any], lines: Sequence[dict[str, Any]],
               pictures: Sequence[str], best_step: int | None, ended: str = "") -> Path:
    """Write the page and its curves.

    Args:
        folder: the run's web/ folder; pictures lie in it.
        options: resolved flags.
        lines: of the run's record.
        pictures: names of the pictures, newest first.
        best_step: of the best validation so far.
        ended: in words, how far a run came that goes on no more; the page of one that does loads itself anew.

    Returns:
        The page's path.
    """
    from dominate import document, tags

    write_curves(folder / "curves.png", lines)
    validations = [line for line in lines if line["kind"] == "validation"]
    page = document(title=f"{options['name']}: training")
    with page.head:
        _head(reloads=not ended)
    with page:
        tags.h1(options["name"])
        step = lines[-1]["step"] if lines else 0
        tags.p(ended or f"Step {step}. The page reloads every minute.", cls="small")
        _metrics_table(validations, best_step)
        tags.h2("Curves")
        tags.img(src="curves.png", alt="losses and metrics over the steps")
        _restored_slices(pictures)
        tags.h2("Options")
        tags.pre("\n".join(f"{name}: {value}" for name, value in options.items()))
    with atomic_path(folder / "index.html") as temporary:
        temporary.write_text(page.render(), encoding="utf-8")
    return folder / "index.html"


def _head(*, reloads: bool) -> None:
    """Fill the open head."""
    from dominate import tags
    from dominate.util import raw

    tags.meta(charset="utf-8")
    if reloads:
        tags.meta(http_equiv="refresh", content="60")
    tags.style(raw(STYLE))


def _restored_slices(pictures: Sequence[str]) -> None:
    """Add the pictures to the open page."""
    from dominate import tags

    tags.h2("Restored slices")
    tags.p("Of each vertebra, from left to right: what the generator sees; restored at the predicted "
           "height; the true slice; restored, with the outlines of the restored body (orange) and of the "
           "true one (blue).", cls="small")
    for name in pictures:
        title = f"Step {int(Path(name).stem.rpartition('_')[2])}"
        tags.h3(title)
        tags.img(src=name, alt=f"restored slices, {title}", cls="slices")


def _metrics_table(validations: Sequence[dict[str, Any]], best_step: int | None) -> None:
    """Add the newest, the best and the first validation to the open page."""
    from dominate import tags

    if not validations:
        tags.p("No validation yet.")
        return
    best = [line for line in validations if line["step"] == best_step]
    shown = {"newest": validations[-1], **({"best": best[-1]} if best else {}), "first": validations[0]}
    with tags.table():
        tags.tr([tags.th("validation"), tags.th("step"), *(tags.th(title) for title in METRICS.values())])
        for title, line in shown.items():
            values = [line.get(name) for name in METRICS]
            tags.tr([tags.th(title), tags.td(str(line["step"])),
                     *(tags.td("undefined" if value is None else f"{value:.3g}") for value in values)])


def write_curves(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Draw every loss and every metric over the steps, a small plot each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    plots = [("validation", name, title) for name, title in METRICS.items()]
    plots += [("losses", name, f"loss: {name}") for name in _loss_names(lines)]
    curves = [(title, curve(lines, kind, name)) for kind, name, title in plots]
    curves = [(title, points) for title, points in curves if len(points)]
    rows = max(1, -(-len(curves) // 4))
    figure = Figure(figsize=(13, 2.2 * rows), layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False).ravel()
    for axis, (title, points) in zip(axes, curves, strict=False):
        axis.plot(points[:, 0], points[:, 1], color="#1b6ca8", linewidth=1.2, marker=".", markersize=3)
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes[len(curves):]:
        axis.set_visible(False)
    with atomic_path(path) as temporary:
        FigureCanvasAgg(figure).print_figure(temporary, dpi=90, format="png")


def _loss_names(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Return the losses that the record holds, in order of appearance."""
    return list(dict.fromkeys(name for line in lines if line["kind"] == "losses" for name in line
                              if name not in HIDDEN))
