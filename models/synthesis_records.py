"""What is kept of a synthesis beside its volumes: a record per case, and the table of all records."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from util.body_heights import THIRDS
from util.paths import atomic_path, read_json, visible
from util.vertebrae import ANATOMICAL_ORDER, label_name, split_case

if TYPE_CHECKING:
    from models.iterative_inference import Restoration, Synthesis

STEPS = ("", "upper_", "lower_")  # prefixes of the table's columns: the target's own, then its neighbours'
STEP_COLUMNS = ("vertebra", "height_mm", "spread_mm", "original_height_mm", "sagittal_height_mm",
                "coronal_height_mm", *(f"agreed_{third}_mm" for third in THIRDS))


def record_path(output: Path, case: str) -> Path:
    """Return the path of a case's record."""
    return output / "synthesis" / f"{case}.json"


def record_of(case: str, result: "Synthesis") -> dict[str, Any]:
    """Return the row of the table that one case makes."""
    label = split_case(case)[1]
    record: dict[str, Any] = {"case": case}
    for step in reversed(result.passes):
        order = ANATOMICAL_ORDER.index(step.label) - ANATOMICAL_ORDER.index(label)
        prefix = STEPS[0] if order == 0 else STEPS[1] if order < 0 else STEPS[2]
        record |= {prefix + key: value for key, value in _step_values(step).items()}
    if result.direct_height_mm is not None:
        record["direct_height_mm"] = round(result.direct_height_mm, 3)
    return record


def _step_values(step: "Restoration") -> dict[str, Any]:
    """Return one pass as values of the columns `STEP_COLUMNS`."""
    planes = {f"{plane}_height_mm": round(height, 3) for plane, height in step.plane_heights_mm.items()}
    agreed = {f"agreed_{third}_mm": round(height, 3)
              for third, height in zip(THIRDS, step.agreed_mm, strict=False)}  # none without a prior
    values = {"vertebra": label_name(step.label), "height_mm": round(step.height_mm, 3),
              "spread_mm": round(step.spread_mm, 3), "original_height_mm": step.original_height_mm}
    return values | planes | agreed


def remark(result: "Synthesis") -> str | None:
    """Return a warning where a generator drew no body."""
    undrawn = [label_name(step.label) for step in result.passes if not step.voxels]
    return f"no body drawn for {', '.join(undrawn)}; the generator needs more training" if undrawn else None


def write_table(output: Path) -> Path:
    """Write `synthesis.csv`: one row per case that has a record, by name.

    Columns: case; then vertebra, predicted height, its standard deviation over slices, the height of the
    extent before, each plane's height, and the heights of the thirds that were agreed on, all in mm, for the
    target and (prefixes `upper_`, `lower_`) for the neighbours' passes. What was not made or not agreed upon
    leaves its cells empty. Last, `direct_height_mm`: the target's height as predicted before the neighbours
    were restored.
    """
    import csv

    columns = ["case", *(prefix + column for prefix in STEPS for column in STEP_COLUMNS), "direct_height_mm"]
    records = [read_json(path) for path in visible(output / "synthesis", "*.json")]
    with atomic_path(output / "synthesis.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(records)
    return output / "synthesis.csv"
