"""What a spine's other vertebrae say about the height of one: a Gaussian process along the spine.

The logarithms of the anterior, middle and posterior height, of depth and width of all healthy vertebrae of a
person are taken for jointly Gaussian: a mean per level, what a person's vertebrae share (covariance
`person`), and what each has of its own (covariance `own`), whose correlation falls with the distance in
levels:

    cov(x_i, x_j) = person + own * memory ** |i - j|

So the healthy height of a vertebra follows from those of the others by kriging (best linear unbiased
prediction; Henderson 1975, Robinson 1991), with whatever vertebrae the scan shows. Those that are too low for
what the others say are taken for fractured and left out, whether anybody has graded them or not.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from util.body_heights import THIRDS
from util.vertebrae import ANATOMICAL_ORDER, OPTIONAL_LABELS
from util.wording import counted

if TYPE_CHECKING:
    from data.slice_cache import SliceStore

MEMORIES = (0.0, 0.2, 0.4, 0.6, 0.8)   # tried; the likeliest is kept
LEAST_PATIENTS = 5                     # fewer say nothing about a covariance
SHRINKAGE = 0.1                        # of a covariance towards its diagonal: few patients overstate it
OUTLIER_SD = 2.5                       # a vertebra lower than this for what the others say is fractured
NORMAL_SD = 1.2533                     # of a normal distribution, in units of its mean absolute deviation
LEAST_DOUBT = 1e-4                     # 1 %
ITERATIONS = 30                        # of the expectation-maximisation
HEIGHTS = slice(len(THIRDS))           # among the measures

# Where each level lies along the spine, in levels. T13 and L6 lie half a level below the vertebra above: T12
# and L1 are one level apart, with T13 or without.
PLACES = {label: sum(other not in OPTIONAL_LABELS for other in ANATOMICAL_ORDER[:count])
                 - (0.5 if label in OPTIONAL_LABELS else 0.0)
          for count, label in enumerate(ANATOMICAL_ORDER)}

# label -> (K,) mm: heights of the thirds, depth and width (`util.body_heights.body_measures`).
Measures = Mapping[int, np.ndarray]


@dataclass(frozen=True)
class HeightPrior:
    """The fitted process.

    Attributes:
        mean: (K,) mean logarithm of the measures (mm) per label. K is 5: heights of the thirds, depth and
            width; or 3, of checkpoints from before sizes were weighed.
        person, own: (K, K) covariances of the logarithms.
        memory: correlation of `own` between adjacent levels, 0..1.
    """

    mean: dict[int, np.ndarray]
    person: np.ndarray
    own: np.ndarray
    memory: float

    @property
    def own_variance(self) -> np.ndarray:
        """Return the variance (3,) of the log heights that a vertebra has of its own."""
        return self.own.diagonal()[:len(THIRDS)]

    def predict(self, label: int, others: Measures) -> tuple[np.ndarray, np.ndarray] | None:
        """Predict the log heights of a healthy vertebra.

        Args:
            label: the vertebra.
            others: measures (K or more,) of other, healthy vertebrae; those of unknown levels are not used.

        Returns:
            Mean (3,) and covariance (3, 3) of its log heights in mm; None for a level without a mean.
        """
        if label not in self.mean:
            return None
        known = [other for other in others if other != label and other in self.mean]
        mean, prior = self.mean[label][:len(THIRDS)], self._covariance([label], [label])[HEIGHTS, HEIGHTS]
        if not known:
            return mean, prior
        residual = np.concatenate([self._residual(other, others[other]) for other in known])
        across = self._covariance([label], known)[HEIGHTS]                               # (3, K n)
        gain = np.linalg.solve(self._covariance(known, known), across.T).T               # (3, K n)
        return mean + gain @ residual, prior - gain @ across.T

    def _residual(self, label: int, measures: np.ndarray) -> np.ndarray:
        """Return how far the logarithms of measures lie from their level's mean, (K,)."""
        mean = self.mean[label]
        return np.log(measures[:len(mean)]) - mean

    def healthy(self, measures: Measures) -> dict[int, np.ndarray]:
        """Leave out, one after the other, the vertebra that is lowest for what the rest says."""
        kept = {label: value for label, value in measures.items() if label in self.mean}
        while kept:
            scores = {label: self._score(label, kept) for label in kept}
            worst = min(scores, key=scores.__getitem__)
            if scores[worst] > -OUTLIER_SD:
                break
            del kept[worst]
        return kept

    def doubt(self, error: float) -> float:
        """Return what heights leave open beyond a vertebra's own spread: a variance of log heights.

        Args:
            error: their mean absolute relative error.
        """
        return max(float((NORMAL_SD * error) ** 2 - self.own_variance.mean()), LEAST_DOUBT)

    def _score(self, label: int, measures: Measures) -> float:
        """Return how many standard deviations the lowest third is above (negative: below) its prediction."""
        predicted = self.predict(label, measures)
        assert predicted is not None  # `healthy` keeps known levels alone
        mean, covariance = predicted
        return float(((np.log(measures[label][HEIGHTS]) - mean) / np.sqrt(covariance.diagonal())).min())

    def _covariance(self, rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
        """Return the covariance between the log measures of levels, (K rows, K columns)."""
        correlation = self.memory ** _distances(rows, columns)             # (rows, columns)
        blocks = self.person[:, None] + correlation[:, None, :, None] * self.own[:, None]
        return blocks.reshape(len(rows) * len(self.own), len(columns) * len(self.own))

    def summary(self) -> str:
        """Return how well it predicts: the spread of what a vertebra has of its own."""
        spread = ", ".join(f"{100 * sd:.1f} % {third}" for third, sd in
                           zip(THIRDS, np.sqrt(self.own_variance), strict=True))
        return (f"height prior of {counted(len(self.mean), 'level')}: a healthy vertebra's own spread is "
                f"{spread}")

    def as_json(self) -> dict[str, Any]:
        """Return the process as JSON-ready values."""
        return {"mean": {str(label): mean.tolist() for label, mean in self.mean.items()},
                "person": self.person.tolist(), "own": self.own.tolist(), "memory": self.memory}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "HeightPrior":
        """Undo `as_json`."""
        return cls({int(label): np.array(mean) for label, mean in content["mean"].items()},
                   np.array(content["person"]), np.array(content["own"]), float(content["memory"]))


def _distances(rows: Sequence[int], columns: Sequence[int]) -> np.ndarray:
    """Return how many levels apart vertebrae are, (rows, columns)."""
    first, second = (np.array([PLACES[label] for label in labels]) for labels in (rows, columns))
    return np.abs(first[:, None] - second[None])


def fit_height_prior(patients: Collection[Measures]) -> HeightPrior | None:
    """Fit the process to healthy vertebrae of many patients.

    Args:
        patients: per patient the measures of his healthy vertebrae.

    Returns:
        The likeliest process; None where fewer than five patients show two vertebrae or more.
    """
    useful = [measures for measures in patients if len(measures) > 1]
    if len(useful) < LEAST_PATIENTS:
        return None
    mean = level_means(useful)
    residuals = [{label: np.log(value) - mean[label] for label, value in measures.items()}
                 for measures in useful]
    fits = [_fit_covariances(residuals, mean, memory) for memory in MEMORIES]
    return max(fits, key=lambda fit: _log_likelihood(fit, residuals))


def height_prior(store: "SliceStore") -> HeightPrior | None:
    """Fit the process to the vertebrae that are learned from, and say how well it predicts."""
    prior = fit_height_prior(store.measures_by_patient())
    print(prior.summary() if prior else
          f"no height prior: it takes {LEAST_PATIENTS} patients of two healthy vertebrae or more")
    return prior


def level_means(patients: Collection[Measures]) -> dict[int, np.ndarray]:
    """Return the mean log measures (K,) of each level as a least-squares fit of level and person effects.

    A plain mean would take a level that only tall people's scans show for a tall one.
    """
    labels = sorted({label for measures in patients for label in measures}, key=ANATOMICAL_ORDER.index)
    mean: dict[int, np.ndarray] = {}
    size = [np.zeros(1) for _ in patients]
    for _ in range(ITERATIONS):
        for label in labels:
            mean[label] = np.mean([np.log(measures[label]) - size[number]
                                   for number, measures in enumerate(patients) if label in measures], axis=0)
        size = [np.mean([np.log(value) - mean[label] for label, value in measures.items()], axis=0)
                for measures in patients]
        centre = np.mean(size, axis=0)
        size = [one - centre for one in size]
    return mean


def _fit_covariances(residuals: Sequence[Measures], mean: dict[int, np.ndarray],
                     memory: float) -> HeightPrior:
    """Fit `person` and `own` for one memory by expectation-maximisation (Laird & Ware 1982)."""
    every = np.concatenate([np.stack(list(one.values())) for one in residuals])
    person, own = np.cov(every.T) / 2, np.cov(every.T) / 2
    for _ in range(ITERATIONS):
        shared, rest, count = np.zeros_like(person), np.zeros_like(own), 0
        for one in residuals:
            labels = list(one)
            inverse = np.linalg.inv(memory ** _distances(labels, labels))                # (n, n)
            values = np.stack([one[label] for label in labels])                          # (n, K)
            weight = inverse.sum()
            posterior = np.linalg.inv(np.linalg.inv(person) + weight * np.linalg.inv(own))
            effect = posterior @ np.linalg.solve(own, inverse.sum(0) @ values)           # (K,)
            left = values - effect
            shared += np.outer(effect, effect) + posterior
            rest += left.T @ inverse @ left + weight * posterior
            count += len(labels)
        person, own = _shrunk(shared / len(residuals)), _shrunk(rest / count)
    return HeightPrior(mean, person, own, memory)


def _shrunk(covariance: np.ndarray) -> np.ndarray:
    """Shrink a covariance towards its diagonal."""
    return (1 - SHRINKAGE) * covariance + SHRINKAGE * np.diag(covariance.diagonal())


def _log_likelihood(prior: HeightPrior, residuals: Sequence[Measures]) -> float:
    """Return the log likelihood of the residuals, up to a constant."""
    total = 0.0
    for one in residuals:
        labels = list(one)
        covariance = prior._covariance(labels, labels)
        values = np.concatenate([one[label] for label in labels])
        total -= np.linalg.slogdet(covariance)[1] + values @ np.linalg.solve(covariance, values)
    return total
