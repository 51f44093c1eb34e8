"""Where a run keeps its slices: every place gives the same bytes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from box_spine import BoxCohort, write_box_cohort

import train
from benchmarks.loader import CHANNELS, plain_slices
from data.aligned_dataset import Draw, VertebraSlices, epoch_batches
from data.augmentation import KINDS, augment
from data.integrity import CohortSlices, read_cohort_slices
from data.slice_cache import SliceStore, choose_cache
from data.slice_files import SliceCutter
from data.slice_input import RawSlices, build_slice_input, build_slice_truth
from options.train_options import TrainOptions
from util.errors import InputError

GIGABYTE = 10**9
PLACES = ("memory", "device", "none")
SMALL = ["--ngf=4", "--ndf=4", "--crop_cols=64", "--batch_size=3", "--gpu_ids=-1", "--augment=all",
         "--max_steps=3", "--val_freq=3"]


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> BoxCohort:
    """Two patients to learn from, one to watch, one held out; two targets each; heat around T11."""
    return write_box_cohort(tmp_path_factory.mktemp("boxes"), patients=4, labels=(19, 20),
                            fractures={"p0_18": 16})


@pytest.fixture(scope="module")
def kept(boxes: BoxCohort) -> dict[str, CohortSlices]:
    """The cohort's slices in every place."""
    return {place: read_cohort_slices(TrainOptions().parse([*boxes.flags, f"--cache={place}"]))
            for place in PLACES}


def draws(store: SliceStore) -> list[Draw]:
    """Two epochs, with all augmentation."""
    return [draw for epoch in range(2) for draw in epoch_batches(store, 3, 0, epoch, KINDS)]


def assert_same(one: RawSlices, other: RawSlices) -> None:
    """Compare slices to the last bit."""
    for name, first, second in zip(RawSlices._fields, one, other, strict=True):
        assert first.dtype == second.dtype and torch.equal(first, second), name


def test_every_place_gives_the_same_slices(kept: dict[str, CohortSlices]) -> None:
    stores = [kept[place].train for place in PLACES]
    assert stores[0].cases == stores[1].cases == stores[2].cases
    assert [np.stack(store.measures_mm).tolist() for store in stores[1:]] == [
        np.stack(stores[0].measures_mm).tolist()] * 2
    batches = [(draw, stores[0].gather(draw)) for draw in draws(stores[0])]
    for name in ("ct", "body", "neighbours", "heatmap"):
        assert any(getattr(raw, name).any() for _, raw in batches), name
    for draw, raw in batches:
        for store in stores[1:]:
            assert_same(store.gather(draw), raw)


def test_the_plain_loop_of_the_benchmark_gives_the_same_slices(boxes: BoxCohort,
                                                               kept: dict[str, CohortSlices]) -> None:
    cutter = SliceCutter(boxes.dataroot, boxes.heatmaps, "sagittal", 128, {})
    store = kept["memory"].train
    draw = draws(store)[0]
    plain, raw = plain_slices(store, draw, cutter), store.gather(draw)
    for place, name in enumerate(CHANNELS):
        assert np.array_equal(plain[:, place], getattr(raw, name)[:, 0].numpy()), name


def test_draws_follow_where_vertebrae_have_different_numbers_of_slices() -> None:
    counts = (3, 1, 5)
    vertebrae = [VertebraSlices(f"p_{number}", np.full((count, 2, 1, 1), number, np.uint8)
                                + np.arange(count, dtype=np.uint8)[:, None, None, None] * 10,
                                np.arange(count, dtype=np.float32) / 8, 100 + number, 120 + number)
                 for number, count in enumerate(counts)]
    vertebra, place = torch.tensor([2, 0, 1, 2]), torch.tensor([4, 2, 0, 0])
    for on_device in (False, True):
        raw = SliceStore(vertebrae, on_device=on_device).gather(Draw(vertebra, place, place, place))
        assert raw.ct.flatten().tolist() == [42, 20, 1, 2]
        assert raw.top.tolist() == [102, 100, 101, 102] and raw.bottom.tolist() == [122, 120, 121, 122]
        assert raw.distance.tolist() == [0.5, 0.25, 0.0, 0.0]


def test_on_the_device_nothing_asks_the_host(boxes: BoxCohort) -> None:
    """The meta device holds no values, so whatever looked at one to go on would fail."""
    cutter = SliceCutter(boxes.dataroot, boxes.heatmaps, "sagittal", 128, {})
    store = SliceStore([cutter.cut(case) for case in ("p0_19", "p0_20", "p1_19")], "meta", on_device=True)
    for draw in draws(store):
        assert draw.augmentation is not None
        raw = augment(store.gather(draw), draw.augmentation)
        context = draw.context_above.to("meta"), draw.context_below.to("meta")
        seen, truth = build_slice_input(raw, *context), build_slice_truth(raw, *context)
        assert seen.masked_ct.device.type == truth.height_mm.device.type == "meta"


@pytest.fixture(scope="module")
def whole_run(boxes: BoxCohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on a mapped store."""
    folder = tmp_path_factory.mktemp("runs") / "memory"
    run(boxes, folder, "--cache=memory")
    return folder


def run(boxes: BoxCohort, folder: Path, *flags: str) -> None:
    """Run train.py's main for a small run."""
    assert train.main([*boxes.flags, *SMALL, f"--checkpoints_dir={folder.parent}", f"--name={folder.name}",
                       *flags]) == 0


@pytest.mark.parametrize("place", ["device", "none"])
def test_every_place_trains_to_the_same_bytes(boxes: BoxCohort, whole_run: Path, tmp_path: Path,
                                              place: str) -> None:
    run(boxes, tmp_path / "run", f"--cache={place}")
    for name in ("latest_generator.safetensors", "best_generator.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole_run / name).read_bytes(), name


@pytest.mark.parametrize(("wanted", "device", "needed", "chosen", "said"), [
    ("auto", "cpu", GIGABYTE, "memory", "1,000 MB mapped into memory from --cache_dir, since training runs "
     "on the CPU"),
    ("auto", "cuda", 10 * GIGABYTE, "device", "10,000 MB held on cuda, since cuda has 20,000 MB free, and "
     "50% of it shall stay so"),
    ("auto", "cuda:1", 10 * GIGABYTE + 1, "memory", "since cuda:1 has 20,000 MB free"),
    ("memory", "cuda", GIGABYTE, "memory", "1,000 MB mapped into memory from --cache_dir"),
    ("device", "cuda", 15 * GIGABYTE, "device", "15,000 MB held on cuda"),
    ("device", "cpu", GIGABYTE, "device", "1,000 MB held on cpu"),
])
def test_auto_takes_a_gpu_with_room(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
                                    wanted: str, device: str, needed: int, chosen: str, said: str) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (20 * GIGABYTE, 24 * GIGABYTE))
    assert choose_cache(wanted, device, needed) == chosen
    out = capsys.readouterr().out
    assert said in out and ("since" in out) == (wanted == "auto") and out.count("\n") == 1


def test_a_gpu_without_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (20 * GIGABYTE, 24 * GIGABYTE))
    with pytest.raises(InputError, match="--cache device: expected room for 21,000 MB on cuda, found 20,000"):
        choose_cache("device", "cuda", 21 * GIGABYTE)
