"""The table of relative height loss: where its parts lie, and how it is made from them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.heights import HeightLoss, fracture_kind, genant_grade
from util.body_heights import THIRDS
from util.paths import atomic_path, read_json, write_json
from util.vertebrae import Cohort, label_name, split_case

if TYPE_CHECKING:
    import pandas as pd

PARTS = (*THIRDS, "overall")


@dataclass(frozen=True)
class Folders:
    """Where straightened labels are read, and where synthetic labels lie and results go."""

    dataroot: Path
    output: Path

    def record(self, case: str) -> Path:
        """Measured numbers of a case, from which the table is made."""
        return self.output / "RHLV" / "cases" / f"{case}.json"

    def loss_map(self, case: str) -> Path:
        """Axial map of height loss in percent."""
        return self.output / "RHLV" / "maps" / f"{case}.nii.gz"

    def map_picture(self, case: str) -> Path:
        """The same as a picture."""
        return self.output / "RHLV" / "maps" / f"{case}.png"

    def curve_picture(self, case: str) -> Path:
        """Heights and loss from anterior to posterior."""
        return self.output / "RHLV" / "curves" / f"{case}.png"


def write_record(path: Path, loss: HeightLoss) -> None:
    """Write the numbers of a case; JSON has no NaN, so what is undefined is null."""
    def listed(values: np.ndarray) -> list[float | None]:
        return [float(value) if math.isfinite(value) else None for value in values]

    write_json(path, {"original_mm": listed(loss.original_mm), "synthetic_mm": listed(loss.synthetic_mm),
                      "rhlv": listed(loss.rhlv), "reason": loss.reason})


def table_row(case: str, cohort: Cohort, folders: Folders, trained_on: str) -> dict[str, Any]:
    """Return the table's row of a measured case; `trained_on` names the split that the generator has seen."""
    patient, label = split_case(case)
    record = read_json(folders.record(case))
    rhlv = np.array([math.nan if value is None else value for value in record["rhlv"]])
    row: dict[str, Any] = {"case": case, "patient": patient, "label": label, "level": label_name(label),
                           "split": cohort.split_of(case), "grade": cohort.grades[case]}
    row |= dict(zip((f"height_original_{part}_mm" for part in PARTS), record["original_mm"], strict=True))
    row |= dict(zip((f"height_synthetic_{part}_mm" for part in PARTS), record["synthetic_mm"], strict=True))
    row |= dict(zip((f"rhlv_{part}" for part in PARTS), rhlv, strict=True))
    return row | {"kind": fracture_kind(rhlv), "rule_grade": genant_grade(rhlv),
                  "seen_in_training": row["split"] == trained_on, "reason": record["reason"]}


def write_table(rows: list[dict[str, Any]], folder: Path) -> "pd.DataFrame":
    """Write `rhlv.csv` and `rhlv.xlsx`, and return the table."""
    import pandas as pd

    table = pd.DataFrame(rows).astype({"rule_grade": "Int64"})
    with atomic_path(folder / "rhlv.csv") as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
    with atomic_path(folder / "rhlv.xlsx") as temporary:
        table.round(4).to_excel(temporary, index=False, sheet_name="RHLV", freeze_panes=(1, 1))
    return table


def summarize(table: "pd.DataFrame") -> None:
    """Print what was found: cases per kind, and those whose loss is undefined."""
    undefined = table[table["reason"] != ""]
    kinds = table.loc[table["kind"] != "", "kind"].value_counts()
    if len(kinds):
        print("kinds: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    if len(undefined):
        print(f"undefined: {len(undefined)} (column 'reason' says why)")
