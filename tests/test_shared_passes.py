"""Several syntheses side by side: they share passes, and none notices another."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier, Event

import numpy as np
import pytest
import torch
from box_scan import CANDIDATES, Drawn, box_painter, box_scan, painter

from data.slice_input import RawSlices, SliceInput
from models import shared_passes
from models.iterative_inference import synthesize
from models.plane_model import Drawn as DrawnRows
from models.plane_model import PlaneModel
from models.shared_passes import Wanted, begun, run_alone, run_together
from util.errors import InputError
from util.lookahead import ahead, delayed


@dataclass
class CountingPainter:
    """A generator that remembers how many slices each pass had."""

    passes: list[int] = field(default_factory=list)

    def __call__(self, inputs: SliceInput) -> Drawn:
        self.passes.append(len(inputs.gap))
        return box_painter(30)(inputs)

    @property
    def model(self) -> PlaneModel:
        return PlaneModel(self, "sagittal", torch.device("cpu"))


def sizes_of_scans():
    return [box_scan(), box_scan(CANDIDATES | {20: (112, 136)}), box_scan({19: (78, 104), 20: (112, 133)})]


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("batch_slices", [7, 64, 1000])
def test_side_by_side_they_give_what_each_gives_alone(batch_slices, threads):
    planes = [painter(30), painter(31, "coronal")]
    alone = [run_alone(synthesize(scan, 20, planes), 16) for scan in sizes_of_scans()]
    tasks = ((number, begun(synthesize(scan, 20, planes))) for number, scan in enumerate(sizes_of_scans()))
    with ThreadPoolExecutor(threads or 1) as pool:
        together = dict(run_together(tasks, batch_slices, pool if threads else None))
    assert set(together) == {0, 1, 2}
    for number, expected in enumerate(alone):
        found = together[number].result()
        assert found.passes == expected.passes
        for kind in ("ct", "label", "heatmap"):
            assert np.array_equal(getattr(found.scan, kind), getattr(expected.scan, kind))


def test_passes_are_full_and_never_larger_than_told():
    """A box of 32 slices with a margin of 3 on either side wants 38; three of them 114."""
    counted = CountingPainter()
    model = counted.model
    tasks = [(number, synthesize(box_scan(), 20, [model], iterative=False)) for number in range(3)]
    assert len(list(run_together(tasks, 100))) == 3
    assert counted.passes == [100, 14]


def test_no_more_are_taken_in_hand_than_fill_a_pass():
    taken = []

    def tasks():
        for number in range(8):
            taken.append(number)
            yield number, synthesize(box_scan(), 20, [painter(30)], iterative=False)

    first = next(run_together(tasks(), 60))
    assert first[0] == 0 and taken == [0, 1, 2, 3]    # 38 slices do not fill 60, 76 do; and the next pass


def test_steps_are_taken_while_others_are_in_the_networks(monkeypatch):
    """The step after the first pass ends only once the second pass has begun, and the other way round."""
    passes, meeting = [], Barrier(2)

    def draw(model, raw, batch_slices):
        passes.append(len(raw.ct))
        if len(passes) == 2:
            meeting.wait(60)
        return DrawnRows(*(torch.zeros(len(raw.ct), *shape) for shape in ((40, 128), (40, 128), ())))

    def steps(number):
        yield Wanted(painter(30), RawSlices(*(torch.zeros(2, 1, 256, 128, dtype=torch.uint8),) * 7))
        if number == 0:
            meeting.wait(60)

    monkeypatch.setattr(shared_passes, "draw", draw)
    with ThreadPoolExecutor(1) as pool:
        assert [key for key, _ in run_together([(0, steps(0)), (1, steps(1))], 2, pool)] == [0, 1]
    assert passes == [2, 2]


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("passes", [0, 1])
def test_one_that_fails_does_not_stop_the_others_and_its_error_is_kept(threads, passes):
    def failing():
        for _ in range(passes):
            yield Wanted(painter(30), RawSlices(*(torch.zeros(2, 1, 256, 128, dtype=torch.uint8),) * 4,
                                                *torch.zeros(3, 2, dtype=torch.int64)))
        raise InputError("case: expected a good file, found a bad one; mend it")
        yield

    good = [(number, synthesize(box_scan(), 20, [painter(30)])) for number in range(3)]
    with ThreadPoolExecutor(threads or 1) as pool:
        found = dict(run_together([("bad", failing()), *good], 64, pool if threads else None))
    assert [found[number].result().passes[-1].rows for number in range(3)] == [30, 30, 30]
    with pytest.raises(InputError, match="mend it"):
        found["bad"].result()


def test_an_error_of_a_pass_ends_all_of_them(monkeypatch):
    def draw(*_):
        raise MemoryError("a pass too large")

    monkeypatch.setattr(shared_passes, "draw", draw)
    tasks = [(number, synthesize(box_scan(), 20, [painter(30)])) for number in range(4)]
    with ThreadPoolExecutor(2) as pool, pytest.raises(MemoryError, match="too large"):
        list(run_together(tasks, 64, pool))


def test_steps_that_are_begun_early_end_as_they_would():
    def nothing_wanted():
        return "result"
        yield

    def failing():
        raise InputError("at once")
        yield

    assert run_alone(begun(nothing_wanted()), 16) == "result"
    with pytest.raises(InputError, match="at once"):
        begun(failing())


def test_ahead_begins_work_before_its_turn_and_keeps_the_order():
    started = {name: Event() for name in "abcd"}

    def work(name: str) -> str:
        started[name].set()
        return name.upper()

    with ThreadPoolExecutor(1) as pool:
        loaded = ahead(pool, work, "abcd", 2)
        name, first = next(loaded)
        assert (name, first.result()) == ("a", "A")
        assert started["b"].wait(60) and started["c"].wait(60) and not started["d"].is_set()
        assert [future.result() for _, future in loaded] == ["B", "C", "D"]
    assert list(delayed([], 3)) == [] and list(delayed("ab", 0)) == ["a", "b"]
