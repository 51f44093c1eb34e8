"""The cohort's plan: who has which fracture, and who is in which split."""

import numpy as np

from phantom import anatomy
from phantom.patient import Order
from util.vertebrae import SPLITS

SPLIT_SHARE = {"train": 0.50, "test": 0.25, "val": 0.25}  # as VerSe'19

NAME_PREFIX = "phantom-s"  # then the seed, so that cohorts of different seeds never collide


def patient_names(seed: int, patients: int) -> list[str]:
    """Return the names; those of different seeds never collide."""
    return [f"{NAME_PREFIX}{seed}-{index:03d}" for index in range(patients)]


def plan_fractures(rng: np.random.Generator, patients: int, rate: float) -> list[list[Order]]:
    """Return each patient's fractures: grades in VerSe's shares over the cohort, clustered in the frail.

    Args:
        rng: random state.
        patients: how many.
        rate: share 0..1 of all vertebrae that is fractured.
    """
    labels = anatomy.LABELLED
    count = round(rate * patients * len(labels))
    frailty = rng.uniform(0.1, 1.0, patients) ** 1.5  # some have none; nobody is all fractures
    level = np.array([anatomy.LEVEL_WEIGHT[label] for label in labels])
    weight = np.outer(frailty, level).ravel()
    chosen = rng.choice(len(weight), size=count, replace=False, p=weight / weight.sum())
    orders: list[list[Order]] = [[] for _ in range(patients)]
    for place, grade in zip(chosen, rng.permutation(_grades(count)), strict=True):
        loss = float(rng.uniform(*anatomy.GRADE_LOSS[int(grade)]))
        orders[place // len(labels)].append(Order(labels[place % len(labels)], int(grade), loss))
    return orders


def _grades(count: int) -> np.ndarray:
    """Return `count` grades in their shares, the remainder going where most is missing, (count,)."""
    exact = np.array([share * count for share in anatomy.GRADE_SHARE.values()])
    whole = np.floor(exact).astype(int)
    for index in np.argsort(whole - exact, kind="stable")[:count - int(whole.sum())]:
        whole[index] += 1
    return np.repeat(list(anatomy.GRADE_SHARE), whole)


def plan_splits(rng: np.random.Generator, orders: list[list[Order]]) -> list[str]:
    """Return each patient's split, so that fractures of every grade spread over the splits.

    Patients with the most severe fractures choose first; each goes where his grades are most wanted.
    """
    patients = len(orders)
    counts = np.array([[sum(order.grade == grade for order in one) for grade in anatomy.GRADE_SHARE]
                       for one in orders], float).reshape(patients, len(anatomy.GRADE_SHARE))
    places = _places(patients)
    share = np.array([SPLIT_SHARE[split] for split in SPLITS])
    want = share[:, None] * counts.sum(axis=0)
    value = np.array([1.0, 1.4, 3.0])  # severe ones are few
    first = np.argsort(-(counts @ value) + 1e-3 * rng.random(patients), kind="stable")
    splits = [""] * patients
    for patient in first:
        wanted = np.minimum(want, counts[patient]).clip(0.0) @ value
        surplus = (counts[patient] - want).clip(0.0) @ value
        need = wanted - 0.3 * surplus
        need[places == 0] = -np.inf
        chosen = int(np.argmax(need + 1e-3 * places))
        splits[patient], places[chosen] = SPLITS[chosen], places[chosen] - 1
        want[chosen] -= counts[patient]
    return splits


def _places(patients: int) -> np.ndarray:
    """Return how many patients each split takes, (3,); every split takes one where there are three."""
    places = np.floor(np.array([SPLIT_SHARE[split] for split in SPLITS]) * patients).astype(int)
    places = np.maximum(places, 1 if patients >= len(SPLITS) else 0)
    places[0] += patients - places.sum()
    return places
