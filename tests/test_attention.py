"""The fracture classifier and its heatmaps, on boxes that can be counted by hand."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from Attention.body_slices import central_part, cut_body_slices, paste_slices
from Attention.grad_cam import combine, grad_cam_plus_plus, recorded_activation
from tests.box_spine import BoxCohort, box_case, write_box_cohort
from util.errors import InputError
from util.vertebrae import Cohort, read_cohort, write_cohort
from util.volume import read_volume

heatmap_script = importlib.import_module("Attention.grad_CAM_3d_sagittal")
train_script = importlib.import_module("Attention.train_classifier")

PRESSED_ROWS = 14  # of 25
SPLIT_CASES = {"train": ["p0_20", "p1_20", "p2_20", "p3_20"], "test": ["p4_20", "p5_20"]}


def small_network(axes: int, seed: int = 0) -> nn.Sequential:
    """Two convolutions, a pool and a linear layer, in evaluation mode, with gradients of ordinary size."""
    torch.manual_seed(seed)
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[axes]
    pool = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[axes]
    layers = [
        convolution(1, 4, 3, padding=1),
        nn.ReLU(),
        convolution(4, 6, 3, stride=2, padding=1),
        nn.ReLU(),
    ]
    head = nn.Linear(6, 3)
    head.weight.data.mul_(100.0)  # MONAI's absolute epsilon must not show
    return nn.Sequential(*layers, pool(1), nn.Flatten(), head).double().eval()


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> BoxCohort:
    """L1 of six patients; every other one is pressed."""
    pressed = {f"p{number}_20": PRESSED_ROWS for number in (1, 3, 5)}
    return write_box_cohort(tmp_path_factory.mktemp("boxes"), 6, (20,), fractures=pressed)


@pytest.fixture(scope="module")
def cohort(boxes: BoxCohort) -> Path:
    """The boxes split so that both classes are in `train` and in `test`."""
    grades = boxes.cohort.grades
    splits = {split: {case: grades[case] for case in cases} for split, cases in SPLIT_CASES.items()}
    path = boxes.path.with_name("balanced.json")
    write_cohort(path, Cohort(path, splits))
    return path


@pytest.fixture(scope="module")
def classifier_folder(boxes: BoxCohort, cohort: Path) -> Path:
    """What the training script makes of the boxes."""
    out = boxes.path.with_name("classifier")
    length = ["--max_steps=60", "--lr=0.01", "--validate_every=60"]
    assert train_script.main([*training_flags(boxes, cohort, out), *length]) == 0
    return out


def training_flags(boxes: BoxCohort, cohort: Path, out: Path) -> list[str]:
    """A small network on the boxes."""
    files = [f"--dataroot={boxes.dataroot}", f"--cohort={cohort}", f"--out={out}"]
    return [*files, "--batch_size=8", "--width=8", "--device=cpu"]


def heatmap_flags(boxes: BoxCohort, cohort: Path, out: Path, classifier_folder: Path) -> list[str]:
    """Heatmaps of the boxes by the small network."""
    files = [f"--dataroot={boxes.dataroot}", f"--cohort={cohort}", f"--out={out}", "--device=cpu"]
    return [*files, f"--checkpoint={classifier_folder / 'best.safetensors'}"]


# Grad-CAM++


@pytest.mark.parametrize("axes", [2, 3])
def test_equals_monai_one_sample_at_a_time(axes: int) -> None:
    from monai.visualize.class_activation_maps import GradCAMpp

    network = small_network(axes)
    inputs = torch.rand(3, 1, *(12, 10, 8)[:axes], dtype=torch.float64)
    ours = grad_cam_plus_plus(network, network[3], inputs, class_index=1).maps
    oracle = GradCAMpp(network, target_layers="3", postprocessing=lambda array: array)
    for index in range(3):
        theirs = torch.as_tensor(oracle(inputs[index : index + 1], class_idx=1))[0]
        torch.testing.assert_close(
            ours[index] / ours[index].max(), theirs / theirs.max(), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("axes", [2, 3])
def test_batch_equals_its_samples(axes: int) -> None:
    network = small_network(axes)
    inputs = torch.rand(2, 1, *(12, 10, 8)[:axes], dtype=torch.float64)
    together = grad_cam_plus_plus(network, network[3], inputs)
    for index in range(2):
        alone = grad_cam_plus_plus(network, network[3], inputs[index : index + 1])
        torch.testing.assert_close(together.maps[index : index + 1], alone.maps)
        torch.testing.assert_close(together.scores[index : index + 1], alone.scores)


def test_combine_by_hand() -> None:
    activation = torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]])  # two channels of 1 x 2, sums 4 and 2
    gradient = torch.tensor([[[[0.5, 0.5]], [[-1.0, -1.0]]]])
    weight = (
        2 * 0.5 / (2 + 0.5 * 4)
    )  # first channel: alpha = 1/4 at both places; the second pulls the other way
    torch.testing.assert_close(combine(activation, gradient), weight * activation[:, :1])


@given(st.integers(-15, 0))
@settings(max_examples=20, deadline=None)
def test_small_gradients_give_the_map_of_the_limit(exponent: int) -> None:
    """At g far below 1, alpha is 1/2 everywhere and the map scales with g; no epsilon drowns it."""
    generator = torch.Generator().manual_seed(0)
    activation = torch.rand(1, 4, 5, 5, generator=generator)
    gradient = torch.rand(1, 4, 5, 5, generator=generator) * 1e-6
    scale = 10.0**exponent
    torch.testing.assert_close(
        combine(activation, gradient * scale) / scale, combine(activation, gradient), rtol=1e-3, atol=0.0
    )


def test_hook_is_gone_after_an_error() -> None:
    layer = nn.Conv2d(1, 1, 1)
    with pytest.raises(RuntimeError, match="expected"), recorded_activation(layer):
        raise RuntimeError("expected")
    assert not layer._forward_hooks


def test_training_mode_is_refused() -> None:
    network = small_network(2).train()
    with pytest.raises(ValueError, match="evaluation mode"):
        grad_cam_plus_plus(network, network[3], torch.rand(1, 1, 8, 8, dtype=torch.float64))


# crops


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


# classifier


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


def test_training_separates_pressed_boxes(classifier_folder: Path) -> None:
    lines = (classifier_folder / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["test"]["auc"] == 1.0
    assert (classifier_folder / "best.safetensors").stat().st_size < 2.5e6


def test_same_seed_same_training(boxes: BoxCohort, cohort: Path, tmp_path: Path) -> None:
    logs = []
    for name in ("first", "second"):
        assert train_script.main([*training_flags(boxes, cohort, tmp_path / name), "--max_steps=2"]) == 0
        logs.append((tmp_path / name / "log.jsonl").read_text())
    assert logs[0] == logs[1]


def test_without_a_test_split_the_last_weights_are_kept(
    boxes: BoxCohort, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cohort.json"
    write_cohort(path, Cohort(path, {"train": {"p0_20": 0, "p1_20": 3}}))
    assert train_script.main([*training_flags(boxes, path, tmp_path / "out"), "--max_steps=2"]) == 0
    assert "nothing is reported" in capsys.readouterr().out
    assert (tmp_path / "out" / "best.safetensors").is_file()


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


# heatmaps


def test_heatmaps_show_the_pressed_body(boxes: BoxCohort, cohort: Path, classifier_folder: Path) -> None:
    out, pair = boxes.path.with_name("found"), boxes.path.with_name("pair.json")
    write_cohort(pair, Cohort(pair, {"test": read_cohort(cohort).splits["test"]}))
    assert heatmap_script.main(heatmap_flags(boxes, pair, out, classifier_folder)) == 0
    healthy, pressed = (read_volume(out / f"{case}.nii.gz").array for case in SPLIT_CASES["test"])
    body = read_volume(boxes.dataroot / "label" / "p5_20.nii.gz").array > 0
    assert pressed.dtype == np.float32 and pressed.shape == (256, 256, 64)
    assert healthy.min() >= 0 and pressed.max() <= 1
    assert pressed.max() > 2 * healthy.max()
    assert not pressed[:, :, ~body.any((0, 1))].any()
    assert abs(int(pressed.sum((1, 2)).argmax()) - 128) <= 20  # rows: on the target, not on its neighbours


def test_second_run_skips(
    boxes: BoxCohort, classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cohort.json"
    write_cohort(path, Cohort(path, {"test": {"p0_20": 0}}))
    flags = heatmap_flags(boxes, path, tmp_path / "heat", classifier_folder)
    assert heatmap_script.main(flags) == 0
    assert heatmap_script.main(flags) == 0
    assert "1 skipped" in capsys.readouterr().out


def test_batch_of_slices_does_not_change_the_heatmap(classifier_folder: Path) -> None:
    from Attention.checkpoint import load_classifier
    from Attention.volume_heatmap import volume_heatmap

    classifier, its_settings = load_classifier(classifier_folder / "best.safetensors")
    ct, label = box_case(20, 0, {20: PRESSED_ROWS}, seed=1)
    few, _ = volume_heatmap(classifier, its_settings, ct, label, batch_slices=7)
    whole, probabilities = volume_heatmap(classifier, its_settings, ct, label, batch_slices=64)
    assert np.abs(few - whole).max() <= 1 / 255 + 1e-6
    assert {19, 20, 21} <= set(probabilities)


def test_bodies_cut_off_by_the_view_are_not_judged() -> None:
    from Attention.volume_heatmap import whole_bodies

    label = np.zeros((20, 4, 4), np.uint8)
    label[:3], label[5:9], label[18:] = 8, 9, 10
    assert whole_bodies(label) == [9]


def test_missing_checkpoint_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.safetensors.*python Attention/train_classifier\.py"):
        heatmap_script.main(["--checkpoint", str(tmp_path / "none.safetensors")])


def test_no_checkpoint_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights that are shipped for the phantom never step in unasked."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"classifier/best.*python Attention/train_classifier\.py"):
        heatmap_script.main([])


def test_another_file_is_no_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    broken, foreign = tmp_path / "broken.safetensors", tmp_path / "foreign.safetensors"
    broken.write_bytes(b"no weights")
    save_file({"weight": torch.zeros(1)}, foreign)
    for path in (broken, foreign):
        with pytest.raises(InputError, match="expected"):
            heatmap_script.main(["--checkpoint", str(path)])


def test_cohort_paths_replace_the_default_folders(
    boxes: BoxCohort, classifier_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {"straightened": str(boxes.dataroot), "heatmap": "elsewhere"}
    write_cohort("cohort.json", Cohort(Path("cohort.json"), {"test": {"p0_20": 0}}, paths))
    checkpoint = f"--checkpoint={classifier_folder / 'best.safetensors'}"
    assert heatmap_script.main(["--cohort=cohort.json", checkpoint, "--device=cpu"]) == 0
    assert Path("elsewhere/p0_20.nii.gz").is_file()


def test_a_bad_case_does_not_stop_the_others(
    boxes: BoxCohort, classifier_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cohort.json"
    write_cohort(path, Cohort(path, {"test": {"missing_20": 0, "p0_20": 0}}))
    assert heatmap_script.main(heatmap_flags(boxes, path, tmp_path / "heat", classifier_folder)) == 1
    said = capsys.readouterr()
    assert "1 done" in said.out and "1 failed" in said.out and "missing_20" in said.err
