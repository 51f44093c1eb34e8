"""The least error that a linear predictor can have on the phantom: what heights say of each other.

A phantom's healthy heights are only partly predictable from those of its other vertebrae: each level has
chance of its own. A ridge regression that knows the TRUE healthy heights of all the other vertebrae, fitted
on thousands of anatomies drawn as the phantom draws them, stands for the best that can be asked of a method
that looks at heights alone. It sees what no method sees, so it is a floor, not a competitor.
"""

from pathlib import Path

import numpy as np

from evaluation.scoreboard.truth import read_truth
from util.body_heights import THIRDS
from util.paths import atomic_path

FLOOR = "floor"
STREAM = 2_000_003          # of chance, apart from every patient's and plan's
FEMALE_SHARE = 0.6          # of the drawn, as among the phantom's patients
PENALTY = 1e-3              # on log heights, whose SD is about 0.06: hardly any


def draw_heights(draws: int, seed: int) -> np.ndarray:
    """Draw healthy anatomies and return their heights in mm, (draws, levels, 3), levels as `LABELLED`."""
    from tqdm import tqdm

    from phantom.anatomy import LABELLED
    from phantom.columns import third_heights
    from phantom.patient import draw_bodies
    from phantom.vertebra import Vertebra

    rng = np.random.default_rng([seed, STREAM])
    heights = np.empty((draws, len(LABELLED), len(THIRDS)))
    for one in tqdm(heights, desc="anatomies", unit="spine"):
        bodies = draw_bodies(rng, "female" if rng.random() < FEMALE_SHARE else "male")
        by_label = {body.level.label: body for body in bodies}
        for place, label in enumerate(LABELLED):
            one[place] = third_heights(Vertebra(by_label[label]))[0]
    return heights


def cached_heights(path: Path, draws: int, seed: int) -> np.ndarray:
    """Return drawn heights from a file, or draw them and write it."""
    if path.is_file():
        return np.load(path, allow_pickle=False)
    heights = draw_heights(draws, seed)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, heights)
    return heights


def predict_left_out(known: np.ndarray, spines: np.ndarray) -> np.ndarray:
    """Predict each vertebra's heights from those of all the others in its spine.

    Ridge regression of log heights, one model per level.

    Args:
        known: (draws, levels, 3) mm to fit on.
        spines: (spines, levels, 3) mm, true and healthy.

    Returns:
        (spines, levels, 3) mm.
    """
    from sklearn.linear_model import Ridge

    predicted = np.empty_like(spines)
    for level in range(known.shape[1]):
        features, seen = (np.delete(np.log(heights), level, axis=1).reshape(len(heights), -1)
                          for heights in (known, spines))
        model = Ridge(alpha=PENALTY).fit(features, np.log(known[:, level]))
        predicted[:, level] = np.exp(model.predict(seen))
    return predicted


def floor_heights(raw: Path, patients: list[str], cache: Path, draws: int,
                  seed: int) -> dict[str, np.ndarray]:
    """Return the floor's heights (3,) in mm of every vertebra of phantom patients, by case."""
    from phantom.anatomy import LABELLED
    from util.vertebrae import case_name

    truths = {patient: read_truth(raw, patient) for patient in patients}
    whole = {patient: np.array([truth[label]["height_before_mm"] for label in LABELLED])
             for patient, truth in truths.items() if truth and set(LABELLED) <= set(truth)}
    if not whole:
        return {}
    predicted = predict_left_out(cached_heights(cache, draws, seed), np.stack(list(whole.values())))
    return {case_name(patient, label): heights for patient, spine in zip(whole, predicted, strict=True)
            for label, heights in zip(LABELLED, spine, strict=True)}
