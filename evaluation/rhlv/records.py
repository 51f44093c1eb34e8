"""What the stages leave of each case: where the files lie, and the records that tables are made from."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.heights import HeightLoss
from models.synthesis_records import record_path
from util.paths import read_json, write_json

PLANES = ("sagittal_height_mm", "coronal_height_mm")


@dataclass(frozen=True)
class Folders:
    """Where straightened labels are read, and where synthetic labels lie and results go."""

    dataroot: Path
    output: Path

    def record(self, case: str) -> Path:
        """Measured numbers of a case, from which the table is made."""
        return self.output / "RHLV" / "cases" / f"{case}.json"

    @property
    def calibration(self) -> Path:
        """Calibration of the intervals in the table."""
        return self.output / "RHLV" / "calibration.json"

    def loss_map(self, case: str) -> Path:
        """Axial map of height loss in percent."""
        return self.output / "RHLV" / "maps" / f"{case}.nii.gz"

    def map_picture(self, case: str) -> Path:
        """The same as a picture."""
        return self.output / "RHLV" / "maps" / f"{case}.png"

    def curve_picture(self, case: str) -> Path:
        """Heights and loss from anterior to posterior."""
        return self.output / "RHLV" / "curves" / f"{case}.png"


def write_record(path: Path, loss: HeightLoss, missing_neighbours: int) -> None:
    """Write the numbers of a case; JSON has no NaN, so what is undefined is null."""
    def listed(values: np.ndarray) -> list[float | None]:
        return [float(value) if math.isfinite(value) else None for value in values]

    write_json(path, {"original_mm": listed(loss.original_mm), "synthetic_mm": listed(loss.synthetic_mm),
                      "rhlv": listed(loss.rhlv), "reason": loss.reason,
                      "missing_neighbours": missing_neighbours})


@dataclass(frozen=True)
class MeasuredCase:
    """What is known of a case once it is synthesized and measured."""

    case: str
    measured: dict[str, Any]     # record of RHLV_quantification.py
    synthesized: dict[str, Any]  # record of eval_3d_sagittal_twostage.py; empty where there is none

    @property
    def rhlv(self) -> np.ndarray:
        """Loss of the thirds and overall, (4,); NaN where undefined."""
        return np.array([math.nan if value is None else value for value in self.measured["rhlv"]])

    @property
    def recipe(self) -> str:
        """Digest of the weights and method that synthesized it; '' if unknown."""
        return str(self.synthesized.get("recipe", ""))

    @cached_property
    def disagreement(self) -> np.ndarray:
        """How much the synthesis disagrees with itself, (4,), as `uncertainty_scale.DISAGREEMENTS` names it.

        Relative to the predicted height: the planes' difference, the standard deviation over slices, the
        change since the prediction before the neighbours were restored; then the number of neighbours that
        are not there, 0 to 2. A single plane and a single pass cannot disagree: 0. Without a record: NaN.
        """
        found = self.synthesized
        missing = float(self.measured["missing_neighbours"])
        if "height_mm" not in found:
            return np.array([math.nan, math.nan, math.nan, missing])
        height = max(float(found["height_mm"]), 1.0)
        planes = [found[plane] for plane in PLANES if plane in found]
        apart_mm = (max(planes) - min(planes) if planes else 0.0, found["spread_mm"],
                    abs(found.get("direct_height_mm", found["height_mm"]) - found["height_mm"]))
        return np.array([*(value / height for value in apart_mm), missing])


def read_measured(case: str, folders: Folders) -> MeasuredCase:
    """Read both records of a case.

    Raises:
        InputError: one is damaged.
    """
    synthesis = record_path(folders.output, case)
    return MeasuredCase(case, read_json(folders.record(case)),
                        read_json(synthesis) if synthesis.is_file() else {})
