"""What loss explains the heights that were measured: small by nature, or collapsed?

RHLV compares a vertebra with what the others imply, from which people's vertebrae differ by a few percent: a
healthy one that is 5 % lower than expected shows a loss of 5 % in every third. But fractures have shapes,
most vertebrae have none, and a healthy one is as often larger than expected as smaller. Bayes' theorem weighs
that. With r the residual of a healthy vertebra (`evaluation.rhlv.uncertainty`),

    log(1 - RHLV) = log(1 - loss) - r,

so each conceivable loss of the three thirds makes a residual; it is the likelier, the more usual that
residual is, and the more frequent that loss. The expected loss is the mean over all of them.

The shapes are the phantom's (`phantom.vertebra`): wedge, biconcave, crush and mixtures. On phantoms it is
therefore judged by the very law that its prior is made of, which flatters it.

It is no measurement: where a loss is small, it is mostly what is known of other vertebrae. RHLV stays as
defined, and this stands beside it.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.heights import GENANT_LIMITS, genant_grades
from evaluation.rhlv.uncertainty import Calibration
from util.body_heights import THIRDS
from util.vertebrae import Cohort

PATTERNS = 200                         # shapes of fractures that are drawn
LOSSES = np.linspace(0.01, 0.70, 70)   # of the third that loses most, evenly likely
USUAL_PREVALENCE = 0.2                 # of fractures, as in VerSe'19
PRIOR_VERTEBRAE = 50
MOST_LOSS = 0.99                       # of a measurement: a third that is gone has no logarithm
COVARIANCE_SHRINKAGE = 0.1             # towards the diagonal: few healthy vertebrae overstate correlations


@dataclass(frozen=True, eq=False)
class LossPrior:
    """Conceivable losses of a vertebra and how frequent each is.

    Attributes:
        losses: (K, 3) of the anterior, middle and posterior third; the first is none at all.
        frequency: (K,) sums to 1.
    """

    losses: np.ndarray
    frequency: np.ndarray


def loss_prior(prevalence: float, seed: int = 0) -> LossPrior:
    """Return losses in the shapes of wedge, biconcave, crush and mixed fractures.

    Args:
        prevalence: share 0..1 of vertebrae that is fractured.
        seed: of the shapes that are drawn.
    """
    from phantom.columns import third_losses
    from phantom.patient import draw_bodies, draw_collapse
    from phantom.vertebra import Vertebra

    rng = np.random.default_rng(seed)
    bodies = draw_bodies(rng, "female")
    small = [third_losses(Vertebra(body, draw_collapse(rng, body, LOSSES[0])))
             for body in (bodies[int(place)] for place in rng.integers(len(bodies), size=PATTERNS))]
    shapes = np.array(small) / LOSSES[0]                                    # (P, 3), the worst third is 1
    fractured = (LOSSES[:, None, None] * shapes).reshape(-1, len(THIRDS))
    frequency = np.full(len(fractured), prevalence / len(fractured))
    return LossPrior(np.vstack([np.zeros(len(THIRDS)), fractured]), np.append(1.0 - prevalence, frequency))


def prevalence(cohort: Cohort) -> float:
    """Return the share of fractured vertebrae among those graded outside the hold-out.

    A usual share counts beside them like PRIOR_VERTEBRAE more, so that a cohort without a fracture does not
    rule fractures out.
    """
    grades = [grade for split, cases in cohort.splits.items() if split != "val" for grade in cases.values()]
    fractured = sum(grade > 0 for grade in grades)
    return (fractured + USUAL_PREVALENCE * PRIOR_VERTEBRAE) / (len(grades) + PRIOR_VERTEBRAE)


@dataclass(frozen=True, eq=False)
class LossBelief:
    """What is believed of one vertebra's loss.

    Attributes:
        expected: (3,) mean loss of the thirds.
        grade_probabilities: (3,) that the Genant grade is at least 1, 2, 3.
    """

    expected: np.ndarray
    grade_probabilities: np.ndarray


def believe(rhlv: np.ndarray, scale: float, calibration: Calibration, prior: LossPrior) -> LossBelief:
    """Weigh every conceivable loss by how well it explains a measured one.

    Args:
        rhlv: (3,) or more, measured loss of the thirds.
        scale: of this vertebra's residuals, as `calibration.scale.of` gives it.
        calibration: residuals of healthy vertebrae.
        prior: conceivable losses.

    Returns:
        NaN where the measured loss is undefined.
    """
    thirds = len(THIRDS)
    if not np.isfinite(rhlv[:thirds]).all():
        return LossBelief(np.full(thirds, np.nan), np.full(len(GENANT_LIMITS), np.nan))
    covariance = np.cov(calibration.scores[:, :thirds].T)
    covariance = ((1 - COVARIANCE_SHRINKAGE) * covariance
                  + COVARIANCE_SHRINKAGE * np.diag(covariance.diagonal())) * scale**2
    measured = np.log1p(-np.minimum(rhlv[:thirds], MOST_LOSS))
    residual = np.log1p(-prior.losses) - measured - calibration.centre[:thirds]          # (K, 3)
    distance = np.einsum("ki,ij,kj->k", residual, np.linalg.inv(covariance), residual)
    weight = prior.frequency * np.exp(-0.5 * (distance - distance.min()))
    weight /= weight.sum()
    reached = genant_grades(prior.losses.max(axis=1)) >= np.arange(1, len(GENANT_LIMITS) + 1)[:, None]
    return LossBelief(weight @ prior.losses, reached @ weight)
