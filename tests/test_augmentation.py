"""Augmentation of raw slices, on boxes that can be counted, and in training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from box_spine import BoxCohort, write_box_cohort
from slice_boxes import boxes, joined, noisy

import train
from data.aligned_dataset import VertebraSlices, central_draw, epoch_batches
from data.augmentation import (
    KINDS,
    Augmentation,
    add_noise,
    augment,
    draw_augmentation,
    mirror,
    tint,
    white_noise,
)
from data.context_fracture import press_neighbours
from data.integrity import read_cohort_slices
from data.slice_affine import turn_and_scale
from data.slice_cache import SliceStore
from data.slice_input import RawSlices
from options.train_options import AUGMENTATIONS, TrainOptions
from util.errors import InputError
from util.geometry import GAP_ROWS


def spines(count: int = 4) -> RawSlices:
    """A batch of boxes of several heights, with texture."""
    return joined(*(noisy(boxes((6, 22 + i), (7, 24), target=20 + 3 * i, outside=3), i)
                    for i in range(count)))


def drawn(count: int, *kinds: str, plane: str = "sagittal", seed: int = 0) -> Augmentation:
    return draw_augmentation(count, kinds, plane, torch.Generator().manual_seed(seed))


def assert_same(one: RawSlices, other: RawSlices) -> None:
    for name, first, second in zip(RawSlices._fields, one, other, strict=True):
        assert first.dtype == second.dtype, name
        assert torch.equal(first, second), name


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), KINDS])
def test_a_batch_equals_its_elements(kinds: tuple[str, ...], plane: str) -> None:
    raw, augmentation = spines(6), drawn(6, *kinds, plane=plane, seed=5)
    together = augment(raw, augmentation)
    changed = [not torch.equal(before, after) for before, after in zip(raw, together, strict=True)]
    assert any(changed)
    for index in range(6):
        alone = augment(RawSlices(*(field[index:index + 1] for field in raw)),
                        augmentation.map(lambda tensor, i=index: tensor[i:i + 1]))
        assert_same(alone, RawSlices(*(field[index:index + 1] for field in together)))


def test_application_has_no_chance_and_leaves_its_input() -> None:
    raw, augmentation = spines(), drawn(4, *KINDS)
    kept = RawSlices(*(field.clone() for field in raw))
    first = augment(raw, augmentation)
    torch.manual_seed(99)
    assert_same(first, augment(raw, augmentation))
    assert_same(raw, kept)


def test_what_is_drawn_for_a_kind_does_not_depend_on_the_others() -> None:
    alone, among = drawn(50, "affine"), drawn(50, *KINDS)
    assert torch.equal(alone.angle_deg, among.angle_deg) and torch.equal(alone.scale, among.scale)
    assert not alone.fractures.loss.any() and among.fractures.loss.any()
    assert torch.equal(among.scale, drawn(50, *KINDS).scale)
    assert not torch.equal(among.scale, drawn(50, *KINDS, seed=1).scale)


def test_nothing_drawn_changes_nothing() -> None:
    raw = spines()
    assert_same(augment(raw, drawn(4)), raw)
    none = drawn(4)
    assert_same(turn_and_scale(raw, none.angle_deg, none.scale), raw)
    assert_same(press_neighbours(raw, none.fractures), raw)


def test_sagittal_slices_are_never_mirrored_but_change_sides() -> None:
    raw = spines(20)
    flipped = drawn(20, "flip")
    after = augment(raw, flipped)
    assert torch.equal(after.ct, raw.ct)
    assert 4 < flipped.mirror_distance.sum() < 16
    assert torch.equal(after.distance, torch.where(flipped.mirror_distance, -raw.distance, raw.distance))


def test_coronal_slices_are_mirrored_and_keep_their_distance() -> None:
    raw = spines(20)
    flipped = drawn(20, "flip", plane="coronal")
    after = augment(raw, flipped)
    assert torch.equal(after.distance, raw.distance)
    for index, mirrored in enumerate(flipped.mirror_columns):
        for name in ("ct", "body", "neighbours", "heatmap"):
            before = getattr(raw, name)[index]
            assert torch.equal(getattr(after, name)[index], before.flip(2) if mirrored else before)
    twice = mirror(after, flipped.mirror_columns, flipped.mirror_distance)
    assert torch.equal(twice.ct, raw.ct)


def test_gain_stretches_about_water() -> None:
    ct = torch.tensor([0, 1, 60, 70, 170, 255], dtype=torch.uint8).view(1, 1, 1, 6)
    stretched = tint(ct, torch.tensor([1.1]), torch.tensor([2.0]))
    assert stretched.flatten().tolist() == [0, 0, 61, 72, 182, 255]  # 69.5 + 1.1 (v - 69.5) + 2
    assert tint(ct, torch.tensor([0.85]), torch.tensor([8.0])).flatten()[0] == 0


def test_noise_is_normal_and_follows_its_seed() -> None:
    noise = white_noise(torch.tensor([3, 4, 3]), 65536)
    assert torch.equal(noise[0], noise[2])
    assert (noise.mean(1).abs() < 0.02).all() and ((noise.std(1) - 1).abs() < 0.02).all()
    assert abs(float(torch.corrcoef(noise[:2])[0, 1])) < 0.02
    lag = torch.stack([noise[0, :-1], noise[0, 1:]])
    assert abs(float(torch.corrcoef(lag)[0, 1])) < 0.02
    ct = torch.full((1, 1, 256, 256), 128, dtype=torch.uint8)
    ct[..., :100] = 0
    after = add_noise(ct, torch.tensor([10.0]), torch.tensor([7]))
    assert not after[..., :100].any()
    assert abs(float(after[..., 100:].float().std()) - 10.0) < 0.3


@pytest.mark.parametrize("kinds", [("intensity",), ("noise",), ("intensity", "noise", "fracture")])
def test_outside_the_scan_stays_zero(kinds: tuple[str, ...]) -> None:
    raw = spines(8)
    after = augment(raw, drawn(8, *kinds))
    assert not torch.equal(raw.ct, after.ct)
    assert not after.ct[:, :, :, :3].any()
    assert after.ct[:, :, 100:150, 4:].min() > 0


@pytest.mark.parametrize("plane", ["sagittal", "coronal"])
def test_every_batch_is_a_valid_sample(plane: str) -> None:
    raw = spines(40)
    after = augment(raw, drawn(40, *KINDS, plane=plane))
    assert all(getattr(after, name).dtype == torch.uint8 for name in ("ct", "body", "neighbours", "heatmap"))
    assert int(after.body.max()) == int(after.neighbours.max()) == 1
    assert not (after.body & after.neighbours).any()
    assert ((after.bottom - after.top) <= GAP_ROWS).all()
    assert set(drawn(200, *KINDS, plane=plane).fractures.kind.flatten().tolist()) == (
        {0, 1, 2} if plane == "sagittal" else {1, 2})


def test_an_epoch_draws_the_same_slices_with_and_without() -> None:
    images, distance = np.zeros((3, 2, 1, 1), np.uint8), np.array([-0.5, 0.0, 0.5], np.float32)
    store = SliceStore([VertebraSlices(str(number), images, distance, 0, 1) for number in range(7)])
    plain = list(epoch_batches(store, 3, 0, 5))
    changed = list(epoch_batches(store, 3, 0, 5, KINDS, "coronal"))
    whole, = epoch_batches(store, 7, 0, 5, KINDS, "coronal")
    assert all(batch.augmentation is None for batch in plain)
    for one, other in zip(plain, changed, strict=True):
        assert all(torch.equal(first, second) for first, second in zip(one[:4], other[:4], strict=True))
    assert torch.equal(torch.cat([batch.augmentation.gain for batch in changed]), whole.augmentation.gain)
    again = next(epoch_batches(store, 3, 0, 6, KINDS, "coronal"))
    assert not torch.equal(again.augmentation.gain, changed[0].augmentation.gain)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> BoxCohort:
    """Three patients to learn from, one to watch, one held out."""
    return write_box_cohort(tmp_path_factory.mktemp("boxes"), patients=5, labels=(20,))


def train_boxes(cohort: BoxCohort, folder: Path, *flags: str) -> bytes:
    """Train a small generator without adversaries and return its file."""
    small = ["--ngf=4", "--crop_cols=64", "--batch_size=2", "--gpu_ids=-1", "--lambda_gan=0", "--threads=1"]
    assert train.main([*cohort.flags, *small, f"--checkpoints_dir={folder}", "--name=run", *flags]) == 0
    return (folder / "run" / "latest_generator.safetensors").read_bytes()


def test_stopped_and_continued_equals_not_stopped(cohort: BoxCohort, tmp_path: Path) -> None:
    course = ["--max_steps=5", "--augment", "all"]
    whole = train_boxes(cohort, tmp_path / "whole", *course)
    train_boxes(cohort, tmp_path / "parts", *course, "--stop_after=3")
    torch.manual_seed(99)
    assert train_boxes(cohort, tmp_path / "parts", *course, "--continue_train") == whole
    assert train_boxes(cohort, tmp_path / "plain", "--max_steps=5") != whole
    with pytest.raises(InputError, match="--augment"):
        train_boxes(cohort, tmp_path / "parts", "--max_steps=5", "--continue_train")
    options = tmp_path / "plain" / "run" / "options.json"
    earlier = {name: value for name, value in json.loads(options.read_text()).items() if name != "augment"}
    options.write_text(json.dumps(earlier))  # a run from before the flag was there goes on without it
    train_boxes(cohort, tmp_path / "plain", "--max_steps=5", "--continue_train")


def test_the_flag_names_the_kinds(cohort: BoxCohort, capsys: pytest.CaptureFixture[str]) -> None:
    def kinds(*flags: str) -> list[str]:
        return TrainOptions().parse([*cohort.flags, *flags]).augment

    assert tuple(AUGMENTATIONS) == KINDS
    assert kinds() == kinds("--augment", "none") == []
    assert kinds("--augment", "noise", "flip") == ["flip", "noise"]
    assert kinds("--augment", "all") == list(KINDS)
    with pytest.raises(InputError, match="found both"):
        kinds("--augment", "none", "flip")
    with pytest.raises(SystemExit) as stopped:
        kinds("--augment", "twist")
    assert stopped.value.code == 2
    assert "invalid choice: 'twist'" in capsys.readouterr().err


def test_validation_is_not_augmented(cohort: BoxCohort) -> None:
    options = TrainOptions().parse([*cohort.flags, "--augment", "all"])
    assert central_draw(read_cohort_slices(options).test).augmentation is None
