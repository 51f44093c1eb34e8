"""Crops of a body's slices: where they lie, and that pasting undoes cutting."""

from __future__ import annotations

import numpy as np
import pytest
from box_spine import box_case
from hypothesis import given, settings
from hypothesis import strategies as st

from Attention.body_slices import central_part, cut_body_slices, paste_slices


@given(
    top=st.integers(0, 40), height=st.integers(1, 20), left=st.integers(0, 30), width=st.integers(1, 12),
    plane=st.sampled_from(["sagittal", "coronal"]), rows=st.integers(20, 90), columns=st.integers(12, 80),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_pasting_undoes_cutting(
    top: int, height: int, left: int, width: int, plane: str, rows: int, columns: int
) -> None:
    """Inside the crop everything comes back to its place, at the volume's edges too."""
    body = np.zeros((60, 44, 36), bool)
    body[top : top + height, left : left + width, 5:9] = True
    ct = np.random.default_rng(0).integers(1, 255, body.shape).astype(np.uint8)
    slices = cut_body_slices(ct, body, plane, rows, columns)
    back = np.zeros_like(ct)
    paste_slices(back, slices.images, slices, plane)
    copied = back > 0
    np.testing.assert_array_equal(back[copied], ct[copied])
    assert copied[body].all()
    assert len(slices.images) == (width if plane == "coronal" else 4)


def test_body_lies_in_the_middle_of_its_crop() -> None:
    _, label = box_case(20, 0, {}, seed=0)  # 25 rows, 32 columns deep, 40 slices wide
    ct = np.arange(256, dtype=np.uint8)[:, None, None].repeat(256, 1).repeat(64, 2)
    slices = cut_body_slices(ct, label == 20, "sagittal", 112, 80)
    assert slices.images.shape == (40, 112, 80)
    assert slices.indices.tolist() == list(range(12, 52))
    assert slices.corner == (128 - 56, 128 - 40)
    assert slices.images[0, :, 0].tolist() == list(range(72, 184))


@pytest.mark.parametrize(
    ("count", "kept"), [(1, [0]), (2, [0, 1]), (10, list(range(1, 9))), (5, list(range(5)))]
)
def test_central_part(count: int, kept: list[int]) -> None:
    assert list(range(count))[central_part(count, 0.8)] == kept
