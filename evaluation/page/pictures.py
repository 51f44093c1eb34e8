"""Pictures of the report: mid-sagittal slices with contours, and the course of the training."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.rhlv.figures import ORIGINAL_COLOUR, SYNTHETIC_COLOUR, new_figure, save_figure
from util.paths import fake_ct, fake_label, straightened_ct, straightened_label
from util.picture import write_picture
from util.run_log import curve
from util.vertebrae import split_case
from util.volume import CONTENT_COLUMNS, STRAIGHTENED_CENTRE, crop_columns, read_ct_and_mask

ROWS_AROUND = 72           # shown above and below the target's centre: a neighbour on either side
ENLARGEMENT = 2
NEIGHBOUR_COLOUR = "#e2e8f0"
JPEG_QUALITY = 92
LINE_COLOURS = ("#0f766e", "#c2410c", "#1d4ed8", "#a21caf")
TRAINING_PANELS = {  # title: kind of line, names in it
    "objective": ("losses", ("total",)),
    "overlap and similarity": ("validation", ("body_dice", "neighbours_dice", "ssim")),
    "PSNR in the band (dB)": ("validation", ("psnr",)),
    "height error (%)": ("validation", ("height_error_percent",)),
}


def draw_slices(path: Path, case: str, dataroot: Path, output: Path) -> None:
    """Write the mid-sagittal slice of a case before and after synthesis, side by side, bodies outlined.

    Raises:
        InputError: a volume is missing or damaged.
    """
    import cv2

    pairs = ((straightened_ct(dataroot, case), straightened_label(dataroot, case), ORIGINAL_COLOUR),
             (fake_ct(output, case), fake_label(output, case), SYNTHETIC_COLOUR))
    halves = []
    for ct_path, label_path, colour in pairs:
        ct, labels = read_ct_and_mask(ct_path, label_path)
        halves.append(outlined_slice(ct.array, labels.array, split_case(case)[1], colour))
    gap = np.full((halves[0].shape[0], 3 * ENLARGEMENT, 3), 255, np.uint8)
    picture = np.concatenate([halves[0], gap, halves[1]], axis=1)
    write_picture(path, picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])


def outlined_slice(ct: np.ndarray, labels: np.ndarray, label: int, colour: str) -> np.ndarray:
    """Return the central sagittal slice around the target, enlarged, its body in `colour`, others in grey.

    Args:
        ct, labels: (rows, columns, slices) uint8, straightened.
        label: of the target.
        colour: of the target's outline, '#rrggbb'.

    Returns:
        (2 x 144, 2 x 128, 3) uint8, blue-green-red; smaller where the volume is.
    """
    import cv2

    middle_row = min(STRAIGHTENED_CENTRE[0], ct.shape[0] // 2)
    window = slice(max(middle_row - ROWS_AROUND, 0), middle_row + ROWS_AROUND)
    middle_slice = ct.shape[2] // 2
    plane, regions = (np.ascontiguousarray(crop_columns(array[window, :, middle_slice], CONTENT_COLUMNS))
                      for array in (ct, labels))
    size = (plane.shape[1] * ENLARGEMENT, plane.shape[0] * ENLARGEMENT)
    picture = cv2.cvtColor(cv2.resize(plane, size, interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2BGR)
    for value in (*sorted(set(np.unique(regions)) - {0, label}), label):
        mask = cv2.resize((regions == value).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        own = value == label
        cv2.drawContours(picture, contours, -1, _blue_green_red(colour if own else NEIGHBOUR_COLOUR),
                         2 if own else 1, cv2.LINE_AA)
    return picture


def _blue_green_red(colour: str) -> tuple[int, int, int]:
    """Return '#rrggbb' as OpenCV wants it."""
    red, green, blue = (int(colour[start:start + 2], 16) for start in (1, 3, 5))
    return blue, green, red


def draw_training(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Draw the course of a run, as `util.run_log` keeps it: the objective, and the measures of validation.

    Args:
        path: PNG to write.
        lines: of the run's log.
    """
    panels = {title: [(name, curve(lines, kind, name)) for name in names]
              for title, (kind, names) in TRAINING_PANELS.items()}
    filled = {title: [(name, points) for name, points in curves if len(points)]
              for title, curves in panels.items()}
    shown = {title: curves for title, curves in filled.items() if curves}
    figure = new_figure(3.3 * max(len(shown), 1), 2.9)
    for position, (title, curves) in enumerate(shown.items(), 1):
        axes = figure.add_subplot(1, len(shown), position)
        for (name, points), colour in zip(curves, LINE_COLOURS, strict=False):
            axes.plot(points[:, 0], points[:, 1], color=colour, linewidth=1.6, marker="o", markersize=2.5,
                      label=name.replace("_", " "))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=8)
    save_figure(path, figure)
