"""The fracture classifier's batches, augmentation and report, counted by hand."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from util.errors import InputError
from util.vertebrae import Cohort, write_cohort

train_script = importlib.import_module("Attention.train_classifier")


def test_batches_are_balanced_and_repeat_with_the_seed() -> None:
    from Attention.classifier_data import Vertebra, draw_batch

    vertebrae = [
        Vertebra(f"p_{index}", int(index == 0), np.full((5, 4, 4), index, np.uint8)) for index in range(9)
    ]
    images, truth = draw_batch(vertebrae, 0, 8, np.random.default_rng(3))
    again, _ = draw_batch(vertebrae, 0, 8, np.random.default_rng(3))
    assert truth.sum() == 4
    assert ((images[:, 0, 0] == 0) == (truth == 1)).all()
    np.testing.assert_array_equal(images, again)


def test_augmentation_keeps_range_and_front() -> None:
    from Attention.classifier_data import augment, draw_augmentation

    slices = torch.full((16, 1, 64, 48), -1.0)
    slices[..., :16] = 1.0  # bright in front
    changes = draw_augmentation(slices.shape, "sagittal", torch.Generator().manual_seed(0))
    changed = augment(slices, changes)
    assert changed.min() >= -1 and changed.max() <= 1
    assert (changed[..., :12].mean((1, 2, 3)) > changed[..., -24:].mean((1, 2, 3))).all()


def test_no_augmentation_is_the_identity() -> None:
    from Attention.classifier_data import Augmentation, augment

    slices = torch.rand(2, 1, 12, 8) * 2 - 1
    one, zero = torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
    still = Augmentation(torch.tensor([[1.0, 0, 0], [0, 1, 0]]).repeat(2, 1, 1), one, zero, zero)
    torch.testing.assert_close(augment(slices, still), slices, rtol=0, atol=1e-5)


def test_report_by_hand() -> None:
    from Attention.classifier_training import describe, report

    result = report(np.array([-2.0, -1.0, 1.0, 3.0, -0.5]), [0, 0, 0, 2, 1], 0)
    assert result["auc"] == pytest.approx(5 / 6)
    assert result["sensitivity"] == {"hits": 1, "of": 2, "share": 0.5}
    assert result["specificity"] == {"hits": 2, "of": 3, "share": 2 / 3}
    assert result["accuracy"] == {"hits": 3, "of": 5, "share": 0.6}
    assert "sensitivity 1/2 = 0.50" in describe(result)


def test_report_of_one_class_is_undefined_not_wrong() -> None:
    from Attention.classifier_training import describe, report

    result = report(np.array([-2.0, -1.0]), [0, 0], 0)
    assert result["auc"] is None and result["sensitivity"]["share"] is None
    assert "AUC undefined" in describe(result) and "sensitivity 0/0," in describe(result)


def test_one_class_in_train_is_said(tmp_path: Path) -> None:
    cohort = tmp_path / "cohort.json"
    write_cohort(cohort, Cohort(cohort, {"train": {"a_20": 0, "b_20": 0}}))
    with pytest.raises(InputError, match=r"none that is fractured \(grade > 0\)"):
        train_script.main(["--cohort", str(cohort), "--dataroot", str(tmp_path)])


def test_every_missing_case_is_listed(tmp_path: Path) -> None:
    cohort = tmp_path / "cohort.json"
    write_cohort(cohort, Cohort(cohort, {"train": {"a_20": 0, "b_20": 3}}))
    with pytest.raises(InputError, match=r"2 of 2 cases of train: .*a_20.*b_20"):
        train_script.main(["--cohort", str(cohort), "--dataroot", str(tmp_path)])
