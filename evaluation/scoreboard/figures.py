"""Plots of the benchmark: Bland-Altman, calibration of measured against true loss, ROC."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.rhlv.figures import CLASS_COLOURS, GUIDE_COLOUR, new_figure, save_figure
from evaluation.scoreboard import measures as of_rows
from evaluation.scoreboard.metrics import SEVERITIES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

PLOTS = ("bland_altman", "calibration", "roc")
SEVERITY_COLOURS = dict(zip(SEVERITIES, ("#64748b", *CLASS_COLOURS), strict=True))
METHOD_COLOURS = ("#0f766e", "#c2410c", "#6d28d9", "#0369a1", "#a16207", "#be185d", "#334155")
GENERATOR_WIDTH, OTHER_WIDTH = 2.4, 1.3
LOSS_BINS = np.array([-0.5, 0.5, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 90.0])  # percent; the first holds 0
PANEL_INCHES = 2.9
ACROSS = 4  # panels side by side


def methods_of(table: "pd.DataFrame") -> dict[str, "pd.DataFrame"]:
    """Return the judged rows by method, in the table's order."""
    judged = table[table["split"] == "val"]
    return {str(name): rows for name, rows in judged.groupby("method", sort=False)}


def draw_all(folder: Path, table: "pd.DataFrame", report: dict[str, Any], prefix: str = "") -> None:
    """Draw every plot of the tidy table and its report as `<prefix><plot>.png` into a folder."""
    draw_bland_altman(folder / f"{prefix}bland_altman.png", table)
    draw_calibration(folder / f"{prefix}calibration.png", table)
    draw_roc(folder / f"{prefix}roc.png", report["methods"])


def draw_bland_altman(path: Path, table: "pd.DataFrame") -> None:
    """Draw errors of the restored height, and below them of the loss, against the truth, for every method."""
    methods = methods_of(table)
    lines = math.ceil(len(methods) / ACROSS)
    figure = new_figure(PANEL_INCHES * min(len(methods), ACROSS) + 0.6, PANEL_INCHES * 2 * lines)
    above, below = figure.subfigures(2, 1, squeeze=False)[:, 0]
    heights = _panels(above, len(methods), "true height (mm)", "restored - true height (mm)")
    losses = _panels(below, len(methods), "true loss of a third (%)", "measured - true loss (points)")
    for of_height, of_loss, (name, rows) in zip(heights, losses, methods.items(), strict=True):
        _scatter(of_height, rows, of_rows.true_overall_mm(rows)[:, None], of_rows.reference_error_mm(rows))
        true_percent = 100.0 * of_rows.columns(rows, "true_loss_{}")
        _scatter(of_loss, rows, true_percent, of_rows.rhlv_error_points(rows))
        of_height.set_title(name, fontsize=10)
        of_loss.set_title(name, fontsize=10)
    handles = {text: handle for axes in below.axes
               for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    below.legend(handles.values(), handles.keys(), loc="outside lower center", frameon=False, fontsize=8,
                  ncols=min(7, 2 * len(methods)), markerscale=1.6)
    save_figure(path, figure)


def _panels(figure: "FigureBase", count: int, x_label: str, y_label: str) -> "list[Axes]":
    """Return so many panels with common axes, four side by side; the outer ones carry the labels."""
    across = min(count, ACROSS)
    grid = figure.subplots(math.ceil(count / across), across, sharex=True, sharey=True, squeeze=False)
    for number, axes in enumerate(grid.flat):
        axes.set_visible(number < count)
        axes.set_xlabel(x_label if number + across >= count else "")
        axes.set_ylabel(y_label if number % across == 0 else "")
        axes.tick_params(labelbottom=number + across >= count)
    return list(grid.flat[:count])


def _scatter(axes: "Axes", rows: "pd.DataFrame", true: np.ndarray, error: np.ndarray) -> None:
    """Draw errors (N, m) over true values, coloured by severity, with bias and limits of agreement."""
    bins = rows["severity"].to_numpy(str)
    for severity, colour in SEVERITY_COLOURS.items():
        chosen = bins == severity
        if chosen.any():
            axes.scatter(true[chosen].ravel(), error[chosen].ravel(), s=7, color=colour, alpha=0.75,
                         linewidths=0, label=severity)
    axes.axhline(0.0, color=GUIDE_COLOUR, linewidth=0.8)
    known = error[np.isfinite(error)]
    if len(known) > 1:
        bias, half = float(known.mean()), of_rows.LIMITS_SD * float(known.std(ddof=1))
        for value, style, label in ((bias, "-", "bias"), (bias - half, "--", "95 % limits"),
                                    (bias + half, "--", None)):
            axes.axhline(value, color="#0f172a", linewidth=0.9, linestyle=style, label=label)
            axes.text(0.99, value, f"{value:+.1f}", fontsize=7, ha="right", va="bottom",
                      transform=axes.get_yaxis_transform())
    _bare(axes)


def draw_calibration(path: Path, table: "pd.DataFrame") -> None:
    """Draw measured against true loss of every third: each one, and means and SD of bins of true loss."""
    methods = methods_of(table)
    lines = math.ceil(len(methods) / ACROSS)
    figure = new_figure(PANEL_INCHES * min(len(methods), ACROSS) + 0.4, 3.4 * lines)
    panels = _panels(figure, len(methods), "true loss of a third (%)", "measured loss (%)")
    for axes, (name, rows) in zip(panels, methods.items(), strict=True):
        true = 100.0 * of_rows.columns(rows, "true_loss_{}").ravel()
        measured = 100.0 * of_rows.columns(rows, "rhlv_{}").ravel()
        axes.plot([-5, 70], [-5, 70], color=GUIDE_COLOUR, linewidth=0.9)
        axes.scatter(true, measured, s=6, color=METHOD_COLOURS[0], alpha=0.35, linewidths=0)
        axes.errorbar(*_bin_means(true, measured), fmt="o", color="#0f172a", markersize=4, capsize=2,
                      linewidth=1.0)
        axes.set_title(name, fontsize=10)
        axes.set(aspect="equal", xlim=(-5, 70), ylim=(-25, 75))
        _bare(axes)
    save_figure(path, figure)


def _bin_means(true: np.ndarray, measured: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean true loss, mean measured loss and its SD of each bin that holds two points or more."""
    known = np.isfinite(measured)
    true, measured = true[known], measured[known]
    place = np.digitize(true, LOSS_BINS)
    filled = [number for number in np.unique(place) if (place == number).sum() > 1]
    parts = [(true[place == number], measured[place == number]) for number in filled]
    return (np.array([one.mean() for one, _ in parts]), np.array([one.mean() for _, one in parts]),
            np.array([one.std(ddof=1) for _, one in parts]))


def draw_roc(path: Path, methods: dict[str, Any]) -> None:
    """Draw the ROC curves of all methods: true losses of 25 % and more against 0, thresholds marked."""
    figure = new_figure(5.2, 4.6)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GUIDE_COLOUR, linewidth=0.8)
    for place, (name, report) in enumerate(methods.items()):
        curve = report["roc"]
        if not curve:
            continue
        colour = METHOD_COLOURS[place % len(METHOD_COLOURS)]
        area = report["roc_auc"]["value"]
        axes.plot(curve["false_positive_rate"], curve["sensitivity"], color=colour,
                  label=f"{name}, area {area:.3f}", zorder=4 if place == 0 else 3,
                  linewidth=GENERATOR_WIDTH if place == 0 else OTHER_WIDTH)
        _mark_thresholds(axes, report, colour, is_first=place == 0)
    axes.set(xlabel="false alarms: 1 - specificity (true loss 0)",
             ylabel="sensitivity (true loss of 25 % and more)", xlim=(-0.02, 1.02),
             ylim=(-0.02, 1.02), aspect="equal")
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    _bare(axes)
    save_figure(path, figure)


def _mark_thresholds(axes: "Axes", report: dict[str, Any], colour: str, *, is_first: bool) -> None:
    """Mark where the thresholds lie on a method's curve."""
    for suffix, marker, text in (("_at_20", "s", "20 %"), ("_at_25", "^", "25 %"), ("", "o", "calibrated")):
        found, whole = report[f"sensitivity_loss25{suffix}"]["value"], report[f"specificity{suffix}"]["value"]
        if found is not None and whole is not None:
            axes.plot(1.0 - whole, found, marker=marker, color=colour, markersize=6, markeredgecolor="white",
                      linestyle="none", label=f"threshold {text}" if is_first else None,
                      zorder=5)


def _bare(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
