"""The mean of the healthy neighbours, each scaled by how high the target's level is against its own."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.baseline.body_shape import solid_columns
from evaluation.baseline.reference import NO_NEIGHBOUR, Reference, restored_labels, undefined, with_overall
from evaluation.baseline.surroundings import Surroundings, nearest_healthy, steps_away
from util.body_heights import THIRDS, measure_body, own_body, third_heights_mm
from util.vertebrae import label_name, neighbours
from util.wording import counted

LEAST_PAIRS = 5  # healthy pairs that a ratio is fitted on; with fewer, all levels of the region give it


@dataclass(frozen=True)
class Ratio:
    """Height of the target's level over the neighbour's by thirds (3,), and how many pairs it is of."""

    thirds: np.ndarray
    pairs: int


def region(label: int) -> str:
    """Return the part of the spine that a level belongs to."""
    return {"C": "cervical", "T": "thoracic", "L": "lumbar"}[label_name(label)[0]]


@dataclass(frozen=True)
class RatioBaseline:
    """Mean of the nearest healthy neighbours, one on each side, times the ratio of the levels.

    Attributes:
        levels: ratio by the labels of target and neighbour.
        regions: ratio by the target's region and the steps to the neighbour, negative above.
    """

    levels: dict[tuple[int, int], Ratio]
    regions: dict[tuple[str, int], Ratio]
    name: str = "ratio"

    def reference(self, surroundings: Surroundings) -> Reference:
        """Return the mean over the nearest healthy neighbours, one above and one below where there are."""
        nearest = nearest_healthy(surroundings)
        if not nearest:
            return undefined(NO_NEIGHBOUR)
        heights, remarks = {}, []
        for direction, (steps, other) in nearest.items():
            ratio, remark = self.ratio(surroundings.label, other, direction * steps)
            remarks += [remark] if remark else []
            if ratio is not None:
                heights[other] = ratio.thirds * surroundings.bodies[other].heights_mm[:len(THIRDS)]
        if not heights:
            return undefined("; ".join(remarks))
        thirds_mm = np.mean(list(heights.values()), axis=0)
        donor = min((steps, other) for steps, other in nearest.values() if other in heights)[1]
        mask = _restored(surroundings, donor, thirds_mm)
        return Reference(with_overall(thirds_mm), mask, "; ".join(remarks))

    def ratio(self, label: int, other: int, steps: int) -> tuple[Ratio | None, str]:
        """Return a ratio and what had to be fallen back to; None and why where there is none."""
        own = self.levels.get((label, other))
        if own is not None and own.pairs >= LEAST_PAIRS:
            return own, ""
        pair = f"{label_name(label)} to {label_name(other)}"
        fitted = counted(own.pairs if own else 0, "healthy pair")
        shared = self.regions.get((region(label), steps))
        if shared is None or shared.pairs < LEAST_PAIRS:
            return None, f"no ratio of {pair}: {fitted} in the fit"
        return shared, f"ratio of the {region(label)} region for {pair} ({fitted} in the fit)"

    def few_pairs(self) -> list[tuple[int, int]]:
        """Return the adjacent levels, target and neighbour, whose ratio the region has to give."""
        present = {label for label, _ in self.levels}
        adjacent = [pair for pair in self.levels if pair[0] in neighbours(pair[1], present)]
        return [pair for pair in adjacent if self.levels[pair].pairs < LEAST_PAIRS]

    def to_json(self) -> dict[str, Any]:
        """Return what is fitted as JSON."""
        def numbers(ratio: Ratio) -> list[float]:
            return [ratio.pairs, *ratio.thirds.round(5).tolist()]

        return {"levels": [[label_name(label), label_name(other), *numbers(ratio)]
                           for (label, other), ratio in self.levels.items()],
                "regions": [[where, steps, *numbers(ratio)]
                            for (where, steps), ratio in self.regions.items()]}


def ratio_from_json(content: dict[str, Any], labels: dict[str, int]) -> RatioBaseline:
    """Undo `RatioBaseline.to_json`; `labels` by name."""
    levels = {(labels[level], labels[other]): Ratio(np.array(thirds), pairs)
              for level, other, pairs, *thirds in content["levels"]}
    regions = {(where, steps): Ratio(np.array(thirds), pairs)
               for where, steps, pairs, *thirds in content["regions"]}
    return RatioBaseline(levels, regions)


def fit_ratio(healthy: Sequence[Surroundings]) -> RatioBaseline:
    """Fit the geometric mean of the ratio of every pair of healthy vertebrae up to four levels apart.

    Args:
        healthy: surroundings of healthy targets that have heights of their own.
    """
    levels: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
    regions: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)
    for one in healthy:
        for direction in (-1, 1):
            for steps, other in steps_away(one.label, {*one.bodies, one.label}, direction):
                if other in one.healthy:
                    log_ratio = np.log(one.own_heights_mm / one.bodies[other].heights_mm)[:len(THIRDS)]
                    levels[one.label, other].append(log_ratio)
                    regions[region(one.label), direction * steps].append(log_ratio)
    return RatioBaseline({pair: _mean_ratio(logs) for pair, logs in sorted(levels.items())},
                         {part: _mean_ratio(logs) for part, logs in sorted(regions.items())})


def _mean_ratio(log_ratios: Iterable[np.ndarray]) -> Ratio:
    """Return the geometric mean of ratios given by their logarithms (3,) each."""
    logs = np.array(list(log_ratios))
    return Ratio(np.exp(logs.mean(axis=0)), len(logs))


def _restored(surroundings: Surroundings, donor: int, thirds_mm: np.ndarray) -> np.ndarray | None:
    """Return the labels with a neighbour's body, stretched to the thirds (3,), in the target's place."""
    if surroundings.labels is None:
        return None
    body = stretched_body(own_body(surroundings.labels, donor), thirds_mm)
    return restored_labels(surroundings.labels, surroundings.label, body)


def stretched_body(mask: np.ndarray, thirds_mm: np.ndarray) -> np.ndarray:
    """Return a body whose columns are stretched, third by third, to the stated mean heights.

    Args:
        mask: (R, C, Z) of one connected body, rows of 1 mm.
        thirds_mm: (3,) wanted heights.

    Returns:
        (H, C, Z) boolean.
    """
    body = measure_body(mask)
    factor = thirds_mm / third_heights_mm(body)[:len(THIRDS)]
    inside = body.depth[slice(*body.slices)]
    # a sliver beside the body has no depth of its own: that of the body's last slice counts
    index = np.clip(np.arange(mask.shape[2]), *(np.array(body.slices) - [0, 1]))
    first, last = np.where(body.depth[index].any(axis=1, keepdims=True), body.depth[index],
                           np.median(inside, axis=0)).T                              # (Z,)
    share = (np.arange(mask.shape[1])[:, None] + 0.5 - first) / (last - first)       # (C, Z) 0..1 inside
    third = np.clip(np.floor(share * len(THIRDS)), 0, len(THIRDS) - 1).astype(int)
    top = mask[slice(*body.rows)].argmax(axis=0)
    return solid_columns(body.columns_mm * factor[third], top + body.columns_mm / 2)
