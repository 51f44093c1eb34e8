"""From relative height loss to a grade: a linear SVM, folds by patient.

Everything here works on arrays. Grades are mapped to classes 0, 1, ... of a `ClassScheme`. The classifier is
one linear decision per pair of classes on standardised features (scikit-learn's SVC with a linear kernel and
balanced class weights); the pair decisions vote, so a class between two others can be told apart, which one
line against the rest cannot do. A fitted `LinearGrader` is plain numbers, saved as JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from evaluation.grade_metrics import Resampling, evaluate
from util.errors import InputError


@dataclass(frozen=True)
class ClassScheme:
    """Names of the classes, and the class of each Genant grade 0-3."""

    names: tuple[str, ...]
    class_of_grade: tuple[int, int, int, int]


SCHEMES = {
    "genant": ClassScheme(("healthy", "mild", "moderate", "severe"), (0, 1, 2, 3)),
    "merged": ClassScheme(("healthy or mild", "moderate", "severe"), (0, 0, 1, 2)),
    "fracture": ClassScheme(("healthy", "fractured"), (0, 1, 1, 1)),
}


@dataclass(frozen=True)
class LinearGrader:
    """A fitted classifier of F features into classes.

    Attributes:
        features: names of the features, F.
        scheme: key of `SCHEMES`.
        classes: the classes seen when fitting, ascending, C.
        mean, scale: (F,) standardisation.
        coefficients: (C (C - 1) / 2, F), one row per pair in the order of `itertools.combinations`;
            a positive decision votes for the first of the pair.
        intercepts: (C (C - 1) / 2,).
    """

    features: tuple[str, ...]
    scheme: str
    classes: tuple[int, ...]
    mean: np.ndarray
    scale: np.ndarray
    coefficients: np.ndarray
    intercepts: np.ndarray

    def predict(self, values: np.ndarray) -> np.ndarray:
        """Return the class of each row of (N, F) values: most votes, the lower class where votes tie."""
        decisions = (values - self.mean) / self.scale @ self.coefficients.T + self.intercepts  # (N, pairs)
        votes = np.zeros((len(values), len(self.classes)), int)
        for pair, (first, second) in enumerate(combinations(range(len(self.classes)), 2)):
            votes[:, first] += decisions[:, pair] > 0
            votes[:, second] += decisions[:, pair] <= 0
        return np.asarray(self.classes)[votes.argmax(axis=1)]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON content."""
        return {"kind": "linear SVM, one decision per pair of classes", "features": list(self.features),
                "scheme": self.scheme, "classes": list(self.classes), "mean": self.mean.tolist(),
                "scale": self.scale.tolist(), "coefficients": self.coefficients.tolist(),
                "intercepts": self.intercepts.tolist()}

    @classmethod
    def from_json(cls, content: Any, source: object) -> "LinearGrader":
        """Return the grader that `to_json` described.

        Raises:
            InputError: something is missing or does not fit together; names `source`.
        """
        try:
            arrays = {name: np.asarray(content[name], float)
                      for name in ("mean", "scale", "coefficients", "intercepts")}
            grader = cls(tuple(content["features"]), content["scheme"], tuple(content["classes"]), **arrays)
            pairs, width = len(list(combinations(grader.classes, 2))), len(grader.features)
            shapes = [array.shape for array in arrays.values()]
            fits = grader.scheme in SCHEMES and shapes == [(width,), (width,), (pairs, width), (pairs,)]
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise InputError(f"{source}: expected a grader that SVM_grading.py saved, found other content; "
                             f"fit one with SVM_grading.py")
        return grader


def fit_grader(values: np.ndarray, classes: np.ndarray, features: Sequence[str], scheme: str,
               penalty: float = 1.0) -> LinearGrader:
    """Fit a grader.

    Args:
        values: (N, F), finite.
        classes: (N,) classes of the scheme. If all are one, that one is always predicted.
        features: names of the columns.
        scheme: key of `SCHEMES`.
        penalty: weight C of violated margins in the SVM.
    """
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    scaler = StandardScaler().fit(values)
    if len(np.unique(classes)) == 1:
        return LinearGrader(tuple(features), scheme, (int(classes[0]),), scaler.mean_, scaler.scale_,
                            np.zeros((0, len(features))), np.zeros(0))
    svm = SVC(kernel="linear", class_weight="balanced", C=penalty).fit(scaler.transform(values), classes)
    sign = -1.0 if len(svm.classes_) == 2 else 1.0  # scikit-learn turns the sign round for two classes alone
    return LinearGrader(tuple(features), scheme, tuple(int(value) for value in svm.classes_), scaler.mean_,
                        scaler.scale_, sign * svm.coef_, sign * svm.intercept_)


def possible_folds(classes: np.ndarray, patients: np.ndarray, folds: int,
                   names: Sequence[str]) -> tuple[int, str]:
    """Return how many folds the data allow, and a note where that is fewer than asked, or a class too rare.

    Every fold should hold every class, so the patients with the rarest class limit the folds. A class that a
    single patient has cannot be in two folds; then two folds are made all the same.
    """
    spread = {int(value): len(np.unique(patients[classes == value])) for value in np.unique(classes)}
    rarest = min(spread, key=lambda value: spread[value])
    if len(np.unique(patients)) < 2:
        return 0, "no cross-validation: all vertebrae are of one patient"
    if np.unique(classes, return_counts=True)[1].max() < 2:
        return 0, "no cross-validation: no class has two vertebrae"
    if spread[rarest] < 2:
        return 2, (f"2 folds instead of {folds}: a single patient has class '{names[rarest]}', so one fold "
                   f"is fitted without it")
    if spread[rarest] < folds:
        return spread[rarest], (f"{spread[rarest]} folds instead of {folds}: no more patients have class "
                                f"'{names[rarest]}'")
    return folds, ""


def assign_folds(values: np.ndarray, classes: np.ndarray, patients: np.ndarray, folds: int,
                 seed: int) -> np.ndarray:
    """Return the fold 0, 1, ... of each row: a patient is in one fold, classes are spread evenly."""
    import warnings

    from sklearn.model_selection import StratifiedGroupKFold

    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    assigned = np.zeros(len(classes), int)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")  # `possible_folds` tells it
        for fold, (_, held_out) in enumerate(splitter.split(values, classes, patients)):
            assigned[held_out] = fold
    return assigned


@dataclass(frozen=True)
class Vertebrae:
    """What a grader is fitted on and judged by: features (N, F), classes (N,), patients (N,)."""

    values: np.ndarray
    classes: np.ndarray
    patients: np.ndarray

    def select(self, rows: np.ndarray) -> "Vertebrae":
        """Return the chosen rows."""
        return Vertebrae(self.values[rows], self.classes[rows], self.patients[rows])

    def judge(self, predicted: np.ndarray, names: Sequence[str], resampling: Resampling) -> dict[str, Any]:
        """Return the report on predicted classes, see `grade_metrics.evaluate`."""
        return evaluate(self.classes, predicted, self.patients.tolist(), len(names), resampling)


@dataclass(frozen=True)
class CrossValidation:
    """Metrics per fold and over all rows; fold and predicted class of each row, -1 for none."""

    report: dict[str, Any]
    fold_of: np.ndarray
    predicted: np.ndarray

    def fold_names(self) -> list[str]:
        """Return 'fold 1', ... of each row, empty where there are no folds."""
        return [f"fold {fold + 1}" if fold >= 0 else "" for fold in self.fold_of]


def cross_validate(vertebrae: Vertebrae, features: Sequence[str], scheme: str, *, folds: int, penalty: float,
                   resampling: Resampling) -> CrossValidation:
    """Predict each vertebra by a grader that saw none of its patient; one patient alone leaves no folds.

    The seed of the resampling also draws the folds.
    """
    names = SCHEMES[scheme].names
    count, note = possible_folds(vertebrae.classes, vertebrae.patients, folds, names)
    report: dict[str, Any] = {"folds": count, "note": note, "per_fold": []}
    predicted = np.full(len(vertebrae.classes), -1)
    if not count:
        return CrossValidation(report, predicted, predicted)
    fold_of = assign_folds(vertebrae.values, vertebrae.classes, vertebrae.patients, count, resampling.seed)
    for fold in range(count):
        held_out = fold_of == fold
        fitting, judged = vertebrae.select(~held_out), vertebrae.select(held_out)
        grader = fit_grader(fitting.values, fitting.classes, features, scheme, penalty)
        predicted[held_out] = grader.predict(judged.values)
        report["per_fold"].append(judged.judge(predicted[held_out], names, resampling))
    return CrossValidation(report | vertebrae.judge(predicted, names, resampling), fold_of, predicted)
