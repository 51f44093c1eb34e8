"""Fitting the fracture classifier, and its report per vertebra."""

from __future__ import annotations

import json
from collections.abc import Sequence
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


def _train_step(
    classifier: FractureClassifier,
    optimizer: torch.optim.Optimizer,
    images: np.ndarray,
    truth: np.ndarray,
    plane: str,
    generator: torch.Generator,
    device: torch.device | str,
) -> float:
    """One update; returns the loss."""
    slices = signed(images, device)  # (B, 1, R, C)
    slices = augment(slices, draw_augmentation(slices.shape, plane, generator))
    classifier.train()
    loss = functional.binary_cross_entropy_with_logits(
        classifier(slices), torch.as_tensor(truth, device=device)
    )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.item()


def fit(
    train: Sequence[Vertebra],
    test: Sequence[Vertebra],
    settings: dict[str, Any],
    schedule: Schedule,
    out: Path,
    device: torch.device | str,
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

    torch.manual_seed(schedule.seed)
    rng, generator = np.random.default_rng(schedule.seed), torch.Generator().manual_seed(schedule.seed)
    classifier = FractureClassifier(width).to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=schedule.learning_rate, weight_decay=0.01)
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.learning_rate, total_steps=schedule.steps)
    best: dict[str, Any] = {}
    losses: list[float] = []
    with (out / "log.jsonl").open("w", encoding="utf-8") as log, trange(schedule.steps, unit="step") as steps:
        for step in steps:
            batch = draw_batch(train, settings["healthy_max_grade"], schedule.batch_size, rng)
            losses.append(_train_step(classifier, optimizer, *batch, settings["plane"], generator, device))
            pace.step()
            steps.set_postfix(loss=f"{np.mean(losses[-20:]):.3f}")
            if (step + 1) % schedule.validate_every and step + 1 < schedule.steps:
                continue
            result = _judge(classifier, test, settings, device) | {"step": step + 1}
            entry = {"step": step + 1, "train_loss": float(np.mean(losses)), "test": result}
            print(json.dumps(entry), file=log, flush=True)
            losses.clear()
            best = _keep(classifier, result, best, settings, asdict(schedule), out)
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
    schedule: dict[str, Any],
    out: Path,
) -> dict[str, Any]:
    """Writes the weights as the latest and, where they are better, as the best; returns the best report."""
    training = {"schedule": schedule, "test": result}
    save_classifier(out / "latest.safetensors", classifier, settings, training)
    if best and result.get("loss", 0.0) > best.get("loss", 0.0):
        return best
    save_classifier(out / "best.safetensors", classifier, settings, training)
    return result
