"""The cohort's plan: who has which fracture, and who is in which split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phantom import anatomy
from phantom.columns import genant_grade
from phantom.patient import Order
from util.vertebrae import SPLITS

PLAN_STREAM = 1_000_003  # apart from every patient's number
EVEN_KINDS = ("wedge", "biconcave", "crush")
EVEN_LOSS = (0.0, 0.60)
# Runs of fractured vertebrae that one patient has, patients taking turns: so a target has none, one or two
# fractured neighbours, and a third of all vertebrae is fractured.
EVEN_RUNS = ((3, 1), (2, 1), (1, 1, 1), (3,))

NAME_PREFIX = "phantom-s"  # then the seed, so that cohorts of different seeds never collide
HOLD_OUTS = ("graded", "even")


@dataclass(frozen=True)
class Plan:
    """What cohort is wanted.

    Attributes:
        patients: how many.
        seed: decides everything.
        fracture_rate: share 0..1 of all vertebrae that is fractured, by Genant's grades in VerSe's shares.
        hold_out: fractures of the split val: `graded` as the rest, or `even` over losses and kinds.
        split_shares: of the patients that train, test and val take.
        scanner: see `phantom.scanner.draw_scan`.
    """

    patients: int
    seed: int
    fracture_rate: float = 0.20
    hold_out: str = "graded"
    split_shares: tuple[float, ...] = (0.50, 0.25, 0.25)  # as VerSe'19
    scanner: str = "varied"


def patient_names(seed: int, patients: int) -> list[str]:
    """Return the names; those of different seeds never collide."""
    return [f"{NAME_PREFIX}{seed}-{index:03d}" for index in range(patients)]


def plan_cohort(plan: Plan) -> tuple[list[list[Order]], list[str]]:
    """Return each patient's fractures and split."""
    rng = np.random.default_rng([plan.seed, PLAN_STREAM])
    orders = plan_fractures(rng, plan.patients, plan.fracture_rate)
    splits = plan_splits(rng, orders, plan.split_shares)
    if plan.hold_out == "even":
        held_out = [patient for patient, split in enumerate(splits) if split == "val"]
        for patient, even in zip(held_out, plan_even_fractures(rng, len(held_out)), strict=True):
            orders[patient] = even
    return orders, splits


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


def plan_even_fractures(rng: np.random.Generator, patients: int) -> list[list[Order]]:
    """Return each patient's fractures, every loss from 0 to 60 % and every kind being equally likely.

    Where the error of a measurement is asked for at every severity, VerSe's shares would leave the severe
    ones to chance.
    """
    return [_even_orders(rng, EVEN_RUNS[patient % len(EVEN_RUNS)]) for patient in range(patients)]


def _even_orders(rng: np.random.Generator, runs: tuple[int, ...]) -> list[Order]:
    """Return the fractures of one patient, in runs of adjacent vertebrae with whole ones between."""
    labels = sorted(anatomy.LABELLED)
    whole = len(labels) - sum(runs)
    gaps = np.sort(rng.choice(whole + 1, size=len(runs), replace=False))  # whole vertebrae before each run
    order = rng.permutation(runs)
    firsts = gaps + np.cumsum(order) - order
    broken = [int(first) + step for first, size in zip(firsts, order, strict=True) for step in range(size)]
    orders = []
    for place in broken:
        loss = float(rng.uniform(*EVEN_LOSS))
        orders.append(Order(labels[place], genant_grade(loss), loss, str(rng.choice(EVEN_KINDS))))
    return orders


def plan_splits(rng: np.random.Generator, orders: list[list[Order]],
                shares: Sequence[float] = Plan.split_shares) -> list[str]:
    """Return each patient's split, so that fractures of every grade spread over the splits.

    Patients with the most severe fractures choose first; each goes where his grades are most wanted.

    Args:
        rng: random state.
        orders: each patient's fractures.
        shares: of the patients that train, test and val take; their sum is 1.
    """
    patients = len(orders)
    counts = np.array([[sum(order.grade == grade for order in one) for grade in anatomy.GRADE_SHARE]
                       for one in orders], float).reshape(patients, len(anatomy.GRADE_SHARE))
    share = np.asarray(shares, float)
    places = _places(patients, share)
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


def _places(patients: int, share: np.ndarray) -> np.ndarray:
    """Return how many patients each split takes, (3,); one at least of a split with a share, if there are."""
    places = np.floor(share * patients + 1e-9).astype(int)
    places = np.maximum(places, (share > 0) & (patients >= len(SPLITS)))
    places[share.argmax()] += patients - places.sum()
    return places
