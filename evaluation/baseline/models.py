"""The baselines that need no network: which there are, how they are fitted, and the file they are kept in.

    baselines = load_baselines("weights/phantom_baselines.json")
    surroundings = read_surroundings("dataset/straightened", "patient01_20", cohort)
    for baseline in baselines.methods:
        reference = baseline.reference(surroundings)   # heights_mm (4,), mask, reason
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.baseline.classical import PosteriorBaseline, SixPointBaseline
from evaluation.baseline.ratio import RatioBaseline, fit_ratio, ratio_from_json
from evaluation.baseline.reference import Baseline
from evaluation.baseline.shape import ShapeBaseline, fit_shape, shape_from_json
from evaluation.baseline.surroundings import Surroundings
from util.errors import InputError
from util.paths import read_json, write_json
from util.vertebrae import LABELS, split_case

METHODS = ("ratio", "shape", "six_point", "posterior")
MASK_METHODS = ("ratio", "shape")  # those that make a body
FORMAT = "baselines 1"


@dataclass(frozen=True)
class Baselines:
    """The fitted baselines, and how many healthy vertebrae of how many patients they were fitted on."""

    ratio: RatioBaseline
    shape: ShapeBaseline
    vertebrae: int
    patients: int

    @property
    def methods(self) -> tuple[Baseline, ...]:
        """Every baseline, in the order of `METHODS`."""
        return self.ratio, self.shape, SixPointBaseline(), PosteriorBaseline()


def fit_baselines(healthy: Mapping[str, Surroundings]) -> Baselines:
    """Fit ratios and shapes on healthy vertebrae.

    Args:
        healthy: surroundings by case. Cases without heights of their own are left out.

    Raises:
        InputError: too few for the shapes, see `fit_shape`.
    """
    used = {case: one for case, one in sorted(healthy.items()) if not one.own_reason}
    patients = [split_case(case)[0] for case in used]
    surroundings = list(used.values())
    shape = fit_shape(surroundings, patients)
    return Baselines(fit_ratio(surroundings), shape, len(used), len(set(patients)))


def save_baselines(path: str | Path, baselines: Baselines) -> None:
    """Write fitted baselines as JSON; the same fit gives the same bytes."""
    write_json(path, {"format": FORMAT, "vertebrae": baselines.vertebrae, "patients": baselines.patients,
                      "ratio": baselines.ratio.to_json(), "shape": baselines.shape.to_json()})


def load_baselines(path: str | Path) -> Baselines:
    """Read fitted baselines.

    Raises:
        InputError: the file is missing, or is none that `save_baselines` wrote.
    """
    content: Any = read_json(path)
    labels = {name: label for label, name in LABELS.items()}
    try:
        if content["format"] != FORMAT:
            raise ValueError(f"format '{content['format']}'")
        return Baselines(ratio_from_json(content["ratio"], labels), shape_from_json(content["shape"], labels),
                         int(content["vertebrae"]), int(content["patients"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected fitted baselines ({FORMAT}), found another file "
                         f"({type(error).__name__}: {error}); "
                         f"fit them by evaluation/baselines.py --fit_only") from error
