"""A cohort of box spines, as straightening would leave it: bodies that can be counted by hand.

Every patient is a column of boxes with a shell and a core, parted by discs of 6 rows, in muscle and fat. Each
case is that column with the target's centre at row 128. A fractured target is pressed to the stated rows;
its column closes up around it. Heatmaps are hot inside fractured bodies and zero elsewhere.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from util.paths import heatmap_path, straightened_ct, straightened_label
from util.vertebrae import SPLITS, Cohort, case_name, write_cohort
from util.volume import CONTENT_COLUMNS, STRAIGHTENED_CENTRE, STRAIGHTENED_SHAPE, Volume, write_volume

VIEW = tuple(range(17, 25))                      # T10 to L5 stand in every column
HEIGHTS = dict(zip(VIEW, range(22, 30), strict=True))  # rows of a healthy body before the patient's own size
DISC_ROWS = 6
SHELL_ROWS = 2
AFFINE = np.array([[0, 0, -1, 32], [0, -1, 0, 128], [-1, 0, 0, 128], [0, 0, 0, 1]], float)  # axes I-P-L


@dataclass(frozen=True)
class BoxCohort:
    """Where a cohort of boxes was written, and how high each case's healthy body is."""

    dataroot: Path
    heatmaps: Path
    path: Path
    cohort: Cohort
    healthy_rows: dict[str, int] = field(default_factory=dict)

    @property
    def flags(self) -> list[str]:
        """The flags that point a script at this cohort."""
        return [f"--dataroot={self.dataroot}", f"--heatmaps={self.heatmaps}", f"--cohort={self.path}"]


def body_rows(label: int, size: int) -> int:
    """Height in rows of a healthy body of a patient of `size` (-2..2 rows above the mean)."""
    return HEIGHTS[label] + size


def box_case(target: int, size: int, pressed: dict[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return CT and label (256, 256, 64) uint8 of a column whose target lies at the centre.

    Args:
        target: label at row 128.
        size: rows above the mean height; also widens the boxes.
        pressed: rows of the bodies that have collapsed.
        seed: of the noise.
    """
    rows = {label: pressed.get(label, body_rows(label, size)) for label in VIEW}
    top = STRAIGHTENED_CENTRE[0] - rows[target] // 2
    top -= sum(rows[label] + DISC_ROWS for label in VIEW if label < target)
    ct = np.full(STRAIGHTENED_SHAPE, 80.0, np.float32)                   # muscle
    ct[:, :90], ct[:, 168:] = 45.0, 45.0                                 # fat
    label_volume = np.zeros(STRAIGHTENED_SHAPE, np.uint8)
    front, back, right, left = 128 - 16 - size, 128 + 16 + size, 32 - 20 - size, 32 + 20 + size
    ct[:, back + 2:back + 14, 26:38] = 70.0                              # canal
    for label in VIEW:
        first, last = max(top, 0), min(top + rows[label], len(ct))
        inner = slice(max(top + SHELL_ROWS, 0), max(top + rows[label] - SHELL_ROWS, 0))
        label_volume[first:last, front:back, right:left] = label
        ct[first:last, front:back, right:left] = 190.0
        ct[inner, front + 2:back - 2, right + 2:left - 2] = 120.0 + label
        ct[max(last, 0):max(last + DISC_ROWS, 0), front:back, right:left] = 95.0
        top += rows[label] + DISC_ROWS
    ct += np.random.default_rng(seed).normal(0.0, 4.0, (256, 256, 1)).astype(np.float32)
    edge = (STRAIGHTENED_SHAPE[1] - CONTENT_COLUMNS) // 2
    ct[:, :edge], ct[:, -edge:] = 0.0, 0.0
    return np.clip(ct, 0, 255).astype(np.uint8), label_volume


def write_box_cohort(folder: Path, patients: int = 6, labels: tuple[int, ...] = (19, 20, 21), *,
                     fractures: dict[str, int] | None = None, seed: int = 0) -> BoxCohort:
    """Write straightened CT, label and heatmap of every case, and the cohort file.

    Args:
        folder: gets `straightened/`, `heatmap/` and `cohort.json`.
        patients: named p0, p1, ...; the last sixth is `val`, the sixth before `test`, at least one of each.
        labels: the targets of every patient, within T10-L5 (17-24).
        fractures: rows to which a case (`p3_20`) is pressed; its grade follows from the loss.
        seed: of sizes and noise.
    """
    rng = np.random.default_rng(seed)
    fractures = fractures or {}
    held = max(1, patients // 6)
    splits: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    result = BoxCohort(folder / "straightened", folder / "heatmap", folder / "cohort.json",
                       Cohort(folder / "cohort.json", splits))
    for number in range(patients):
        split = "val" if number >= patients - held else "test" if number >= patients - 2 * held else "train"
        size = int(rng.integers(-2, 3))
        pressed = {label: fractures[case_name(f"p{number}", label)] for label in VIEW
                   if case_name(f"p{number}", label) in fractures}
        for label in labels:
            case = case_name(f"p{number}", label)
            ct, label_volume = box_case(label, size, pressed, seed=100 * number + label)
            _write_case(result, case, ct, label_volume, pressed)
            result.healthy_rows[case] = body_rows(label, size)
            splits[split][case] = genant_grade(pressed.get(label, result.healthy_rows[case]),
                                               result.healthy_rows[case])
    write_cohort(result.path, result.cohort)
    return result


def genant_grade(rows: int, healthy_rows: int) -> int:
    """Genant grade by the loss of height."""
    loss = 1.0 - rows / healthy_rows
    return sum(loss >= limit for limit in (0.20, 0.25, 0.40))


def _write_case(cohort: BoxCohort, case: str, ct: np.ndarray, label: np.ndarray,
                pressed: dict[int, int]) -> None:
    """Write the three volumes of a case."""
    heat = np.isin(label, list(pressed)).astype(np.float32)
    write_volume(straightened_ct(cohort.dataroot, case), Volume(ct, AFFINE))
    write_volume(straightened_label(cohort.dataroot, case), Volume(label, AFFINE))
    write_volume(heatmap_path(cohort.heatmaps, case), Volume(heat, AFFINE))
