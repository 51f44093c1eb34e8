"""Pictures of height loss: the axial map and the curve from anterior to posterior.

matplotlib is used through its objects (no pyplot, no display), so cases can be drawn in parallel.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluation.heights import GENANT_LIMITS, PROFILE_POSITIONS, relative_loss
from util.body_heights import THIRDS
from util.paths import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from evaluation.rhlv.uncertainty import LossUncertainty

LOSS_RANGE_PERCENT = (-30.0, 60.0)  # of every map, so that maps compare; beyond it the colour saturates
ORIGINAL_COLOUR, SYNTHETIC_COLOUR, LOSS_COLOUR = "#c2410c", "#0f766e", "#1e293b"
GUIDE_COLOUR = "#94a3b8"
CAPTION_INCHES, TITLE_INCHES = 0.5, 0.3  # room below and above the axes
CLASS_COLOURS = ("#3b82f6", "#facc15", "#f97316", "#b91c1c")  # by rising grade


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of a size in inches, with the layout that keeps labels inside."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(path: str | Path, figure: "Figure", caption: str = "") -> None:
    """Write a figure as PNG, atomically, its caption (if any) below it and in the file as its description."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if caption:
        figure.supxlabel(caption, fontsize=7.5, color="#334155")
    canvas = FigureCanvasAgg(figure)
    with atomic_path(path) as temporary:
        canvas.print_png(temporary, metadata={"Description": caption})


def caption_of(path: Path) -> str:
    """Return the caption in a PNG file; empty where it has none."""
    from PIL import Image

    with Image.open(path) as picture:
        return str(picture.info.get("Description", ""))


def caption(uncertainty: "LossUncertainty | None") -> str:
    """Return what a calibration says of a vertebra: losses with intervals, grades; empty without one."""
    if uncertainty is None:
        return ""
    parts = uncertainty.calibrated, uncertainty.low, uncertainty.high
    percent = np.rint([100.0 * values[:len(THIRDS)] for values in parts]).astype(int)
    losses = "   ".join(f"{third} {loss} % ({low} to {high})"
                        for third, (loss, low, high) in zip(THIRDS, percent.T, strict=True))
    grades = "   ".join(f"P(grade ≥ {grade}) = {probability:.2f}"
                        for grade, probability in enumerate(uncertainty.grade_probabilities, 1))
    title = f"Calibrated loss and {100 * uncertainty.level:g} % interval"
    return f"{title}\n{losses}\n{grades}".replace("-", "−")


def draw_map(path: str | Path, loss: np.ndarray, title: str,
             uncertainty: "LossUncertainty | None" = None) -> None:
    """Draw the axial map of height loss as radiologists see it: anterior up, the patient's right on the left.

    Args:
        path: PNG to write.
        loss: (columns, slices) relative loss, NaN outside the body.
        title: above the map.
        uncertainty: for the caption, if known.
    """
    from matplotlib.colors import TwoSlopeNorm

    rows, columns = (np.flatnonzero(np.isfinite(loss).any(axis=axis)) for axis in (1, 0))
    percent = 100.0 * loss[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]
    figure, bottom, top = _captioned_figure(4.6, 4.0, uncertainty)
    axes = figure.add_axes((0.07, bottom + 0.06, 0.66, top - bottom - 0.10))
    low, high = LOSS_RANGE_PERCENT
    image = axes.imshow(percent, cmap="RdBu_r", norm=TwoSlopeNorm(0.0, low, high), aspect="equal")
    bar = figure.colorbar(image, cax=figure.add_axes((0.80, bottom + 0.10, 0.03, top - bottom - 0.18)),
                          extend="both", ticks=[low, -15, 0, 20, 40, high])
    bar.set_label("height loss (%)")
    _mark_directions(axes)
    axes.set_title(title, fontsize=10, y=1.0, pad=16)  # a place of its own need not be worked out
    save_figure(path, figure, caption(uncertainty))


def _captioned_figure(width: float, height: float,
                      uncertainty: "LossUncertainty | None") -> "tuple[Figure, float, float]":
    """Return a figure of a size in inches, which a caption makes higher, and the place (0..1) for its axes.

    Their margins are fixed: working them out anew for every picture takes longer than drawing it.
    """
    from matplotlib.figure import Figure

    whole = height + (CAPTION_INCHES if uncertainty else 0.0)
    return Figure(figsize=(width, whole)), (whole - height) / whole, 1 - TITLE_INCHES / whole


def _mark_directions(axes: "Axes") -> None:
    """Write the four anatomical directions around an axial map, and take the frame away."""
    for text, x, y in (("A", 0.5, 1.03), ("P", 0.5, -0.04), ("R", -0.03, 0.5), ("L", 1.03, 0.5)):
        axes.text(x, y, text, transform=axes.transAxes, ha="center", va="center", color="#64748b", fontsize=9)
    axes.set_axis_off()


def draw_curve(path: str | Path, original_mm: np.ndarray, synthetic_mm: np.ndarray, rhlv: np.ndarray,
               title: str, uncertainty: "LossUncertainty | None" = None) -> None:
    """Draw heights and height loss from anterior to posterior: mean over slices, and one SD either side.

    Args:
        path: PNG to write.
        original_mm, synthetic_mm: (slices, positions) as `central_profiles_mm` returns them.
        rhlv: (3 or more,) loss of the thirds, drawn as bars.
        title: above the curves.
        uncertainty: drawn as the calibrated losses with their intervals, if known.
    """
    figure, bottom, top = _captioned_figure(4.6, 4.4, uncertainty)
    heights, losses = figure.subplots(2, 1, sharex=True)
    figure.subplots_adjust(left=0.13, right=0.98, bottom=bottom + 0.11, top=top, hspace=0.08)
    position = 100.0 * PROFILE_POSITIONS
    _draw_band(heights, position, synthetic_mm, SYNTHETIC_COLOUR, "synthetic")
    _draw_band(heights, position, original_mm, ORIGINAL_COLOUR, "original")
    heights.set_ylabel("height (mm)")
    heights.set_ylim(bottom=0)
    heights.legend(loc="lower right", frameon=False, fontsize=8)
    heights.set_title(title, fontsize=10, y=1.0)
    _draw_loss(losses, position, 100.0 * relative_loss(synthetic_mm, original_mm), 100.0 * rhlv[:3])
    if uncertainty:
        _draw_intervals(losses, uncertainty)
    save_figure(path, figure, caption(uncertainty))


def _draw_intervals(axes: "Axes", uncertainty: "LossUncertainty") -> None:
    """Draw the calibrated loss of each third with its interval, in the middle of the third."""
    calibrated, low, high = (100.0 * values[:len(THIRDS)]
                             for values in (uncertainty.calibrated, uncertainty.low, uncertainty.high))
    axes.errorbar(100 / 3 * (np.arange(len(THIRDS)) + 0.5), calibrated, (calibrated - low, high - calibrated),
                  fmt="o", color=LOSS_COLOUR, markersize=4, capsize=4, linewidth=1.2)
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, low.min() - 5), max(top, high.max() + 30))


def _draw_band(axes: "Axes", position: np.ndarray, curves: np.ndarray, colour: str, name: str) -> None:
    """Draw the mean of curves (slices, positions) with a band of one standard deviation."""
    mean, spread = curves.mean(axis=0), curves.std(axis=0)
    axes.plot(position, mean, color=colour, linewidth=1.8, label=name)
    axes.fill_between(position, mean - spread, mean + spread, color=colour, alpha=0.18, linewidth=0)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_loss(axes: "Axes", position: np.ndarray, loss_percent: np.ndarray,
               thirds_percent: np.ndarray) -> None:
    """Draw the loss curve over its thirds, with the limits of the Genant grades."""
    defined = loss_percent[np.isfinite(loss_percent).all(axis=1)]
    for third, loss in enumerate(thirds_percent):
        axes.bar(100 / 3 * (third + 0.5), loss, width=32, color=GUIDE_COLOUR, alpha=0.3)
        axes.text(100 / 3 * (third + 0.5), 0.98, f"{THIRDS[third]}\n{loss:.0f} %", ha="center", va="top",
                  fontsize=8, color="#475569", transform=axes.get_xaxis_transform())
    for limit in GENANT_LIMITS:
        axes.axhline(100 * limit, color=GUIDE_COLOUR, linewidth=0.8, linestyle=":")
    axes.axhline(0, color=GUIDE_COLOUR, linewidth=0.8)
    if len(defined):
        _draw_band(axes, position, defined, LOSS_COLOUR, "loss")
    lowest, highest = float(np.nanmin(thirds_percent)), float(np.nanmax(thirds_percent))
    axes.set_ylim(min(-15.0, lowest - 5), max(75.0, highest + 30))
    axes.set_ylabel("height loss (%)")
    axes.set_xlabel("depth from anterior (0) to posterior (100), %")
    axes.spines[["top", "right"]].set_visible(False)


def draw_scatter(path: str | Path, rhlv: np.ndarray, classes: np.ndarray, names: Sequence[str]) -> None:
    """Draw vertebrae in the space of their three losses, coloured by true class.

    Args:
        path: PNG to write.
        rhlv: (N, 3) anterior, middle, posterior.
        classes: (N,) indices into `names`.
        names: of the classes.
    """
    from mpl_toolkits.mplot3d import Axes3D

    figure = new_figure(6.4, 5.4)
    axes = figure.add_subplot(projection=Axes3D.name)
    percent = 100.0 * rhlv
    for index, name in enumerate(names):
        chosen = percent[classes == index]
        axes.scatter(*chosen.T, color=CLASS_COLOURS[index], s=26, label=f"{name} ({len(chosen)})",
                     edgecolors="white", linewidths=0.4, depthshade=False)
    for axis, third in zip("xyz", THIRDS, strict=True):
        getattr(axes, f"set_{axis}label")(f"{third} loss (%)")
    axes.view_init(elev=22, azim=-58)
    axes.legend(loc="upper left", frameon=False, fontsize=9)
    axes.set_box_aspect(None, zoom=0.9)
    save_figure(path, figure)
