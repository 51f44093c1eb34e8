"""What training reads and draws, on boxes that can be counted by hand."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from box_spine import DISC_ROWS, VIEW, BoxCohort, body_rows, write_box_cohort
from hypothesis import given, settings
from hypothesis import strategies as st

from data.aligned_dataset import (
    CaseVolumes,
    VertebraSlices,
    body_slices,
    central_draw,
    cut_vertebra,
    epoch_batches,
    load_case,
    slice_distances,
    slice_weights,
)
from data.integrity import read_cohort_slices
from data.slice_cache import SliceStore
from data.slice_input import INFERENCE_CONTEXT_ROWS, TRAINING_CONTEXT_ROWS
from options.train_options import TrainOptions
from util.errors import InputError
from util.volume import Volume, read_volume, write_volume


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> BoxCohort:
    """Three patients, one of each split, two targets each; p0's T12 has collapsed to 14 rows."""
    folder = tmp_path_factory.mktemp("boxes")
    return write_box_cohort(folder, patients=3, labels=(19, 20), fractures={"p0_19": 14})


@pytest.fixture
def own_boxes(boxes: BoxCohort, tmp_path: Path) -> BoxCohort:
    """A copy, to be damaged."""
    folder = tmp_path / "own"
    shutil.copytree(boxes.path.parent, folder)
    return replace(boxes, dataroot=folder / "straightened", heatmaps=folder / "heatmap",
                   path=folder / "cohort.json")


def read(cohort: BoxCohort, *flags: str):
    """Read a cohort as train.py does."""
    return read_cohort_slices(TrainOptions().parse([*cohort.flags, *flags]))


def store_of(counts: list[int]) -> SliceStore:
    """A store of vertebrae with so many slices each, of 2 x 2 pixels that hold vertebra and place."""
    vertebrae = []
    for number, count in enumerate(counts):
        images = np.zeros((count, 2, 2, 2), np.uint8)
        images[:, 0] = (np.arange(count)[:, None, None] + 100 * number) % 256
        distance = np.linspace(-0.8, 0.8, count, dtype=np.float32)
        vertebrae.append(VertebraSlices(f"p_{number}", images, distance, 100 + number, 125 + number))
    return SliceStore(vertebrae)


def test_a_case_is_read_as_it_was_written(boxes: BoxCohort) -> None:
    volumes = load_case(boxes.dataroot, "p1_20", boxes.heatmaps, crop_cols=128)
    assert volumes.ct.shape == volumes.label.shape == (256, 128, 64)
    assert volumes.heatmap is not None and volumes.heatmap.max() == 0
    rows = np.flatnonzero((volumes.label == 20).any(axis=(1, 2)))
    assert len(rows) == boxes.healthy_rows["p1_20"]
    assert rows[0] == 128 - len(rows) // 2


def test_the_heatmap_of_a_fracture_is_hot(boxes: BoxCohort) -> None:
    volumes = load_case(boxes.dataroot, "p0_19", boxes.heatmaps, crop_cols=128)
    assert volumes.heatmap is not None
    assert np.array_equal(volumes.heatmap == 255, volumes.label == 19)


@pytest.mark.parametrize(("plane", "columns"), [("sagittal", 128), ("coronal", 64)])
def test_slices_of_a_vertebra(boxes: BoxCohort, plane: str, columns: int) -> None:
    volumes = load_case(boxes.dataroot, "p0_20", boxes.heatmaps, crop_cols=128)
    vertebra = cut_vertebra("p0_20", volumes, healthy={17, 18, 20, 21}, plane=plane)
    first, last = body_slices(volumes.label == 20, plane)
    assert vertebra.images.shape == (len(vertebra.distance), 3, 256, columns)
    assert len(vertebra.distance) == last - first
    assert vertebra.measures_mm[:3] == pytest.approx([boxes.healthy_rows["p0_20"]] * 3, abs=0.5)
    assert vertebra.bottom - vertebra.top == boxes.healthy_rows["p0_20"]
    masks = vertebra.images[:, 1]
    assert set(np.unique(masks)) == {0, 1, 2}
    body = (masks & 1).any(axis=(0, 2))
    assert np.array_equal(np.flatnonzero(body), np.arange(vertebra.top, vertebra.bottom))


def test_only_healthy_others_are_neighbours(boxes: BoxCohort) -> None:
    slices = read(boxes)
    assert slices.train.cases == ["p0_20"]  # p0_19 has collapsed
    draw = central_draw(slices.train)
    raw = slices.train.gather(draw)
    rows = torch.nonzero(raw.neighbours[0, 0].any(1)).squeeze(1)
    assert not ((rows < raw.top[0]) & (rows >= raw.top[0] - DISC_ROWS - 14)).any()  # T12, pressed to 14 rows
    assert (rows < raw.top[0] - 2 * DISC_ROWS - 14 + 1).any()                      # T11 is healthy
    assert not (raw.neighbours * raw.body).any()


def test_a_grade_may_count_as_healthy(boxes: BoxCohort) -> None:
    assert set(read(boxes, "--healthy_max_grade", "3").train.cases) == {"p0_19", "p0_20"}


def test_without_heatmaps_attention_sees_none(boxes: BoxCohort) -> None:
    slices = read(boxes, "--attention", "none", "--heatmaps", "/nowhere")
    assert slices.train.images.parts[0].shape[1] == 2
    assert not slices.train.gather(central_draw(slices.train)).heatmap.any()


def test_distances_run_from_one_end_to_the_other() -> None:
    assert slice_distances(1).tolist() == [0.0]
    assert slice_distances(5).tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]


def test_weights_fall_from_one_to_a_half() -> None:
    weights = slice_weights(np.array([-1.0, -0.5, 0.0, 0.5, 1.0]))
    assert np.allclose(weights, [0.5, 0.75, 1.0, 0.75, 0.5])


@settings(max_examples=25, deadline=None)
@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=12), batch_size=st.integers(1, 5),
       seed=st.integers(0, 2**32), epoch=st.integers(0, 1000))
def test_every_vertebra_once_an_epoch(counts: list[int], batch_size: int, seed: int, epoch: int) -> None:
    store = store_of(counts)
    batches = list(epoch_batches(store, batch_size, seed, epoch))
    assert all(len(batch.place) == batch_size for batch in batches[:-1])
    assert sorted(torch.cat([batch.vertebra for batch in batches]).tolist()) == list(range(len(counts)))
    low, high = TRAINING_CONTEXT_ROWS
    for batch in batches:
        assert (batch.place < torch.tensor(counts)[batch.vertebra]).all()
        for context in (batch.context_above, batch.context_below):
            assert ((context >= low) & (context <= high)).all()
        raw = store.gather(batch)
        assert torch.equal(raw.ct[:, 0, 0, 0].long(), (100 * batch.vertebra + batch.place) % 256)
        assert torch.equal(raw.top, 100 + batch.vertebra)


def test_an_epoch_follows_from_seed_and_number() -> None:
    store = store_of([9] * 8)
    drawn = [[torch.cat([b.vertebra, b.place]).tolist() for b in epoch_batches(store, 3, seed, epoch)]
             for seed, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2] and drawn[0] != drawn[3] and drawn[2] != drawn[3]


def test_central_slices_come_twice_as_often_as_the_ends() -> None:
    store = store_of([5] * 4000)
    (batch,) = epoch_batches(store, 4000, 0, 0)
    counts = Counter(batch.place.tolist())
    expected = {0: 500, 1: 750, 2: 1000, 3: 750, 4: 500}  # out of 3500 parts
    assert all(abs(counts[place] - share * 4000 / 3500) < 120 for place, share in expected.items())


def test_validation_draws_the_centre() -> None:
    draw = central_draw(store_of([5, 9, 1]))
    assert draw.place.tolist() == [2, 4, 0]
    assert draw.context_above.tolist() == [INFERENCE_CONTEXT_ROWS] * 3


def test_a_body_higher_than_the_gap_is_refused() -> None:
    label = np.zeros((256, 64, 64), np.uint8)
    label[100:141, 20:40, 20:40] = 20
    with pytest.raises(InputError, match="at most 40 rows"):
        cut_vertebra("p_20", CaseVolumes(label, label, None, np.eye(4)), {20}, "sagittal")


def test_every_problem_is_listed(own_boxes: BoxCohort, capsys: pytest.CaptureFixture[str]) -> None:
    root = own_boxes.dataroot
    (root / "label" / "p0_20.nii.gz").unlink()                                    # train: no label
    ct = root / "CT" / "p1_19.nii.gz"
    ct.write_bytes(ct.read_bytes()[:2000])                                        # test: cut off
    label = read_volume(root / "label" / "p1_20.nii.gz")
    write_volume(root / "label" / "p1_20.nii.gz",
                 Volume(np.where(label.array == 20, 0, label.array).astype(np.uint8), label.affine))
    (own_boxes.heatmaps / "p2_20.nii.gz").unlink()                                # val: no heatmap
    with pytest.raises(InputError, match="found 4 with the problems above"):
        read(own_boxes)
    lines = capsys.readouterr().err.splitlines()
    problems = [line for line in lines if line.startswith("problem: ")]
    for expected in ("label/p0_20", "CT/p1_19", "expected label 20 of case 'p1_20'", "heatmap/p2_20"):
        assert any(expected in line for line in problems), expected
    assert len(problems) == 4


def test_bad_cases_may_be_skipped(own_boxes: BoxCohort) -> None:
    (own_boxes.dataroot / "CT" / "p1_19.nii.gz").unlink()
    slices = read(own_boxes, "--skip_bad_cases")
    assert slices.test.cases == ["p1_20"]
    assert slices.status == 1


@pytest.mark.parametrize(("array", "message"), [
    (np.zeros((256, 256, 63), np.float32), "expected the shape of"),
    (np.full((256, 256, 64), 2.0, np.float32), r"expected values in 0\.\.1"),
    (np.full((256, 256, 64), np.nan, np.float32), r"expected values in 0\.\.1"),
])
def test_a_wrong_heatmap(own_boxes: BoxCohort, array: np.ndarray, message: str) -> None:
    write_volume(own_boxes.heatmaps / "p0_20.nii.gz", Volume(array, np.eye(4)))
    with pytest.raises(InputError, match=message):
        load_case(own_boxes.dataroot, "p0_20", own_boxes.heatmaps, 128)


def test_no_heatmaps_at_all_names_the_command(boxes: BoxCohort, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"grad_CAM_3d_sagittal\.py, or do without by --attention none"):
        read(boxes, f"--heatmaps={tmp_path}")


def test_no_straightened_cases_names_the_command(boxes: BoxCohort, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"straighten_mask_3d\.py"):
        read(boxes, f"--dataroot={tmp_path}")


def test_a_case_that_is_not_straightened(own_boxes: BoxCohort) -> None:
    path = own_boxes.dataroot / "CT" / "p0_20.nii.gz"
    volume = read_volume(path)
    write_volume(path, Volume(volume.array.astype(np.int16), volume.affine))
    with pytest.raises(InputError, match="voxels of uint8"):
        load_case(own_boxes.dataroot, "p0_20", None, 128)


def test_a_split_without_healthy_vertebrae(own_boxes: BoxCohort) -> None:
    content = json.loads(own_boxes.path.read_text())
    content["test"] = dict.fromkeys(content["test"], 2)
    own_boxes.path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="in split 'test', found none among 2"):
        read(own_boxes)


def test_folders_come_from_the_cohort_unless_flags_name_them(own_boxes: BoxCohort) -> None:
    content = json.loads(own_boxes.path.read_text())
    content["paths"] = {"straightened": "elsewhere/s"}
    own_boxes.path.write_text(json.dumps(content))
    parse = TrainOptions().parse
    options = parse([f"--cohort={own_boxes.path}"])
    assert (options.dataroot, options.heatmaps) == (Path("elsewhere/s"), Path("Attention/heatmap"))
    assert parse([f"--cohort={own_boxes.path}", "--dataroot=x"]).dataroot == Path("x")


def test_box_columns_are_as_stated() -> None:
    assert [body_rows(label, 0) for label in VIEW] == [22, 23, 24, 25, 26, 27, 28, 29]
