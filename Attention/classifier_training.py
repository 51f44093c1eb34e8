"""Fitting the fracture classifier, and its report per vertebra."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from Attention.checkpoint import save_classifier
from Attention.classifier import FractureClassifier, signed
from Attention.classifier_data import Vertebra, augment, draw_augmentation, draw_batch
from util.errors import InputError
from util.paths import told_if_full

EMA_DECAY = 0.95  # weights averaged over 20 steps: the judged loss no longer jumps from look to look
TEST_STRIDE = 3  # of a vertebra's slices every third, 3 mm, is judged while training


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to learn."""

    batch_size: int
    steps: int
    learning_rate: float
    validate_every: int
    seed: int


def check_classes(grades: Sequence[int], healthy_max_grade: int, source: str) -> None:
    """Both classes must be there to be told apart.

    Raises:
        InputError: a class is absent.
    """
    fractured = sum(grade > healthy_max_grade for grade in grades)
    for name, count, test in (
        ("healthy", len(grades) - fractured, f"<= {healthy_max_grade}"),
        ("fractured", fractured, f"> {healthy_max_grade}"),
    ):
        if not count:
            raise InputError(
                f"{source}: expected healthy and fractured cases in split 'train', found none that is {name} "
                f"(grade {test}); add such cases or change --healthy_max_grade"
            )


@torch.no_grad()
def vertebra_logits(
    classifier: FractureClassifier, vertebrae: Sequence[Vertebra], device: torch.device | str
) -> np.ndarray:
    """Mean logit over each vertebra's slices, (V,)."""
    classifier.eval()
    means = [
        classifier(signed(vertebra.images[::TEST_STRIDE], device)).mean().item() for vertebra in vertebrae
    ]
    return np.array(means)


def _share(hits: np.ndarray) -> dict[str, Any]:
    """A proportion with its counts; null where there is nothing to count."""
    return {"hits": int(hits.sum()), "of": len(hits), "share": float(hits.mean()) if len(hits) else None}


def report(logits: np.ndarray, grades: Sequence[int], healthy_max_grade: int) -> dict[str, Any]:
    """AUC, sensitivity, specificity, accuracy at probability 0.5, per vertebra.

    `loss` is the cross-entropy averaged over the classes, so that the rarer one weighs as much.
    `called_fractured` counts the vertebrae of each grade that were called fractured.
    """
    from sklearn.metrics import roc_auc_score

    grade = np.asarray(grades)
    truth, called = grade > healthy_max_grade, logits > 0.0
    surprise = np.logaddexp(0.0, np.where(truth, -logits, logits))
    present = [surprise[truth == side].mean() for side in (False, True) if (truth == side).any()]
    return {
        "auc": float(roc_auc_score(truth, logits)) if len(present) == 2 else None,
        "sensitivity": _share(called[truth]),
        "specificity": _share(~called[~truth]),
        "accuracy": _share(called == truth),
        "called_fractured": {str(value): _share(called[grade == value]) for value in np.unique(grade)},
        "loss": float(np.mean(present)),
    }


def describe(result: dict[str, Any]) -> str:
    """The report as one line."""
    auc = "undefined (one class only)" if result["auc"] is None else f"{result['auc']:.3f}"
    shares = [
        f"{name} {result[name]['hits']}/{result[name]['of']}"
        + ("" if result[name]["share"] is None else f" = {result[name]['share']:.2f}")
        for name in ("sensitivity", "specificity", "accuracy")
    ]
    called = [
        f"grade {grade} {part['hits']}/{part['of']}" for grade, part in result["called_fractured"].items()
    ]
    return f"AUC {auc}, {', '.join(shares)}; called fractured: {', '.join(called)}"


class Fitting:
    """The network being fitted, its optimiser and its sources of chance.

    Attributes:
        averaged: the weights to judge and to keep, a moving average of the fitted ones.
    """

    def __init__(
        self,
        train: Sequence[Vertebra],
        settings: dict[str, Any],
        schedule: Schedule,
        device: torch.device | str,
        width: int,
    ) -> None:
        torch.manual_seed(schedule.seed)
        self.train, self.settings, self.schedule, self.device = train, settings, schedule, device
        self.rng = np.random.default_rng(schedule.seed)
        self.generator = torch.Generator().manual_seed(schedule.seed)
        self.classifier = FractureClassifier(width).to(device)
        self.averaged = deepcopy(self.classifier)
        rate = schedule.learning_rate
        self.optimizer = torch.optim.AdamW(self.classifier.parameters(), lr=rate, weight_decay=0.01)
        self.pace = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rate, total_steps=schedule.steps)

    def step(self) -> float:
        """One update; returns the loss."""
        images, truth = draw_batch(
            self.train, self.settings["healthy_max_grade"], self.schedule.batch_size, self.rng
        )
        slices = signed(images, self.device)  # (B, 1, R, C)
        changes = draw_augmentation(slices.shape, self.settings["plane"], self.generator)
        logits = self.classifier.train()(augment(slices, changes))  # (B,)
        loss = functional.binary_cross_entropy_with_logits(logits, torch.as_tensor(truth, device=self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.pace.step()
        self._average()
        return loss.item()

    @torch.no_grad()
    def _average(self) -> None:
        """Moves the averaged weights and normalisation statistics towards the fitted ones."""
        fitted = self.classifier.state_dict()
        done = self.pace.last_epoch  # the initial weights fade faster than the late ones
        share = 1.0 - min(EMA_DECAY, done / (done + 9.0))
        for name, value in self.averaged.state_dict().items():
            if value.is_floating_point():
                value.lerp_(fitted[name], share)


def fit(
    train: Sequence[Vertebra],
    test: Sequence[Vertebra],
    settings: dict[str, Any],
    schedule: Schedule,
    out: Path,
    device: torch.device | str = "cpu",
    width: int = 16,
) -> dict[str, Any]:
    """Fits on `train`, keeps the weights with the lowest class-balanced loss on `test`.

    Writes best.safetensors, latest.safetensors and log.jsonl into `out`.

    Args:
        train: vertebrae of both classes.
        test: monitors; empty means that the last weights count as the best.
        settings: `plane`, `rows`, `columns`, `healthy_max_grade`; stored with the weights.
        schedule: length, speed, seed.
        out: folder, existing.
        device: where to compute.
        width: of the network.

    Returns:
        The report on `test` of the best weights, with its `step`; empty without a test split.
    """
    from tqdm import trange

    fitting = Fitting(train, settings, schedule, device, width)
    best: dict[str, Any] = {}
    losses: list[float] = []
    path = out / "log.jsonl"
    with told_if_full(path), path.open("w", encoding="utf-8") as log:
        for step in trange(1, schedule.steps + 1, desc="fitting", unit="step", mininterval=1.0):
            losses.append(fitting.step())
            if step % schedule.validate_every and step < schedule.steps:
                continue
            result = _judge(fitting.averaged, test, settings, device)
            entry = {"step": step, "train_loss": float(np.mean(losses)), "test": result}
            print(json.dumps(entry), file=log, flush=True)
            losses.clear()
            best = _keep(fitting.averaged, result, best, settings, schedule, step, out)
    return best if test else {}


def _judge(
    classifier: FractureClassifier,
    test: Sequence[Vertebra],
    settings: dict[str, Any],
    device: torch.device | str,
) -> dict[str, Any]:
    """The report on the test split, empty where that is empty."""
    if not test:
        return {}
    grades = [vertebra.grade for vertebra in test]
    return report(vertebra_logits(classifier, test, device), grades, settings["healthy_max_grade"])


def _keep(
    classifier: FractureClassifier,
    result: dict[str, Any],
    best: dict[str, Any],
    settings: dict[str, Any],
    schedule: Schedule,
    step: int,
    out: Path,
) -> dict[str, Any]:
    """Writes the weights as the latest and, where they are better, as the best; returns the best report."""
    training = {"step": step, "schedule": asdict(schedule), "test": result}
    save_classifier(out / "latest.safetensors", classifier, settings, training)
    if best and result.get("loss", 0.0) > best.get("loss", 0.0):
        return best
    save_classifier(out / "best.safetensors", classifier, settings, training)
    return result | {"step": step}
