"""Which calibration a run of RHLV uses: read from a file, or fitted on the cohort's own healthy vertebrae."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from evaluation.rhlv.expected_loss import LossBelief, LossPrior, believe
from evaluation.rhlv.records import MeasuredCase
from evaluation.rhlv.uncertainty import (
    SPECIFICITY_AIM,
    Calibration,
    LossUncertainty,
    Origin,
    fit_calibration,
    least_vertebrae,
    read_calibration,
)
from util.errors import InputError
from util.vertebrae import Cohort
from util.wording import counted, named, vertebrae

CALIBRATION_SPLIT = "test"  # not the hold-out, and no step learns from it; but it chooses the best weights


def given_calibration(choice: str, level: float) -> Calibration | None:
    """Return the calibration of the file that --calibration names; None for 'auto' and 'none'.

    Raises:
        InputError: the file is none, or has too few vertebrae for the level.
    """
    if choice in ("auto", "none"):
        return None
    calibration = read_calibration(Path(choice))
    if len(calibration.residuals) < least_vertebrae(level):
        raise InputError(f"--level {level:g}: expected a calibration on at least {least_vertebrae(level)} "
                         f"vertebrae, found {len(calibration.residuals)} in {choice}; ask for a lower level")
    return replace(calibration, level=level)


def choose_calibration(choice: str, given: Calibration | None, level: float, cohort: Cohort,
                       measured: Sequence[MeasuredCase]) -> Calibration | None:
    """Return the calibration that --calibration asks for, and print what it is or why there is none.

    Args:
        choice: 'auto', 'none', or the path of a file.
        given: what `given_calibration` says of it.
        level: coverage of the intervals, 0..1.
        cohort: of the cases.
        measured: every measured case of the cohort.

    Raises:
        InputError: the calibration belongs to other weights.
    """
    if choice == "none" or not measured:
        return None
    if given:
        _check_weights(choice, given, measured)
    calibration = given or fit_on_healthy(level, cohort, measured)
    if calibration:
        print(_summary(calibration))
    return calibration


def _summary(calibration: Calibration) -> str:
    """Return what a calibration is made from and what it says, in one line."""
    origin, threshold = calibration.origin, calibration.threshold(SPECIFICITY_AIM)
    parts = [f"{100 * calibration.level:g} % intervals from {vertebrae(len(origin.cases), 'healthy')} of "
             f"{counted(origin.patients, 'patient')} ({origin.cohort})",
             "of one width" if calibration.scale.is_constant else "wider where the synthesis disagrees"]
    if np.isfinite(threshold):
        parts.append(f"{100 * SPECIFICITY_AIM:g} % of healthy ones seem to lose less than "
                     f"{100 * threshold:.1f} % in the worst third")
    return f"calibration: {', '.join(parts)}"


def fit_on_healthy(level: float, cohort: Cohort, measured: Sequence[MeasuredCase]) -> Calibration | None:
    """Return a calibration on the grade 0 cases of split test, or print why there is none."""
    recipes = {case.recipe for case in measured}
    if len(recipes) > 1:
        print(f"calibration: none, since the cases were synthesized with {len(recipes)} different weights or "
              f"methods; run eval_3d_sagittal_twostage.py again for all")
        return None
    grades = cohort.splits.get(CALIBRATION_SPLIT, {})
    healthy = [case for case in measured if grades.get(case.case) == 0 and np.isfinite(case.rhlv).all()]
    needed = least_vertebrae(level)
    if len(healthy) < needed:
        print(f"calibration: none, since {counted(len(healthy), 'grade 0 case')} of split "
              f"{CALIBRATION_SPLIT} {named(len(healthy), 'is', 'are')} measured and {100 * level:g} % "
              f"intervals need {needed}; synthesize more of them, or name a calibration.json of the "
              f"same weights with --calibration")
        return None
    origin = Origin(cohort.path.name, recipes.pop(), tuple(case.case for case in healthy))
    return fit_calibration(np.array([case.rhlv for case in healthy]),
                           np.array([case.disagreement for case in healthy]), origin, level)


def _check_weights(path: str, calibration: Calibration, measured: Sequence[MeasuredCase]) -> None:
    """Check that a calibration is one of the weights that synthesized the cases."""
    foreign = [case for case in measured if case.recipe != calibration.origin.recipe]
    if foreign:
        raise InputError(
            f"--calibration {path}: expected one of the weights that synthesized the cases (recipe "
            f"{foreign[0].recipe or 'unknown'} of {foreign[0].case}), found one of recipe "
            f"{calibration.origin.recipe or 'unknown'}; use --calibration auto or synthesize with those")


def weigh(case: MeasuredCase, calibration: Calibration | None, prior: LossPrior | None) -> LossBelief | None:
    """Return what loss explains a case; None without a calibration."""
    if calibration is None or prior is None:
        return None
    return believe(case.rhlv, float(calibration.scale.of(case.disagreement)), calibration, prior)


def judge(case: MeasuredCase, calibration: Calibration | None) -> LossUncertainty | None:
    """Return what a calibration says of a case; None without one."""
    return calibration.judge(case.rhlv, case.disagreement) if calibration else None
