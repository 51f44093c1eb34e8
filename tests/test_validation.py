"""What validation measures, on a generator that draws the truth."""


import numpy as np
import pytest
import torch
from box_spine import BoxCohort
from small_training import parse

from data.integrity import read_cohort_slices
from evaluation.validation import Restored, measure, results_picture, validate
from models.generator_output import GeneratorOutput


class Truthful(torch.nn.Module):
    """Draws the truth that it was told, at a height of one's choice."""

    def __init__(self, truth, error_mm: float) -> None:
        super().__init__()
        self.truth, self.error_mm = truth, error_mm

    def forward(self, seen) -> GeneratorOutput:
        from util.geometry import gather_rows, opened_body_map

        truth = self.truth
        rows = opened_body_map(truth.top, truth.bottom, truth.ct.shape[2])
        ct = gather_rows(truth.ct, rows, -1.0)
        height = truth.height_mm + self.error_mm
        return GeneratorOutput(ct, truth.neighbours, height, ct, truth.body, height)


@pytest.mark.parametrize("error_mm", [0.0, 2.0, -4.0])
def test_validation_measures_at_the_predicted_height(boxes: BoxCohort, error_mm: float) -> None:
    from data.aligned_dataset import central_draw
    from data.slice_input import build_slice_truth

    store = read_cohort_slices(parse(boxes)).test
    draw = central_draw(store)
    truth = build_slice_truth(store.gather(draw), draw.context_above, draw.context_below)
    metrics, restored = validate(Truthful(truth, error_mm), store, 8, "cpu")
    height = float(truth.height_mm[0])
    assert metrics["height_bias_mm"] == pytest.approx(error_mm)
    assert metrics["height_error_percent"] == pytest.approx(100 * abs(error_mm) / height)
    assert metrics["neighbours_dice"] == 1.0
    assert int(restored[0].band.any(1).sum()) == max(height, height + error_mm)
    assert (metrics["body_dice"] == 1.0) == (error_mm >= 0)  # a gap too wide holds the whole body
    assert np.array_equal(restored[0].ct, restored[0].true_ct) == (error_mm == 0)
    assert (metrics["ssim"] > 0.999) == (error_mm == 0)
    shown = results_picture(restored)
    assert shown.shape[0] == 2 * (160 + 4) and shown.dtype == np.uint8


def test_copying_the_truth_measures_perfect() -> None:
    image, mask = np.full((256, 64), 90, np.uint8), np.zeros((256, 64), bool)
    mask[100:130, 20:40] = True
    result = Restored("p_20", image, image, image, mask, mask, mask, 1.0, 30.0, 30.0)
    assert measure(result)["body_dice"] == 1.0
