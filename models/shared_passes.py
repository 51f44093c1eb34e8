"""Several syntheses through the networks together, so that a pass is full.

A synthesis is a generator: it yields the slices that it wants drawn and is sent what was drawn, until it
returns its result. `run_together` advances many of them side by side and lets slices of the same network
share its passes, `batch_slices` at a time. That number bounds the memory of a pass, however many wait.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

import torch

from data.slice_input import RawSlices
from models.plane_model import Drawn, PlaneModel, draw

LANES = 2  # groups of syntheses by turns: one is in the networks, steps of the other are taken

T = TypeVar("T")
Key = TypeVar("Key")


class Wanted(NamedTuple):
    """Slices that a synthesis wants drawn."""

    model: PlaneModel
    raw: RawSlices


Steps = Generator[Wanted, Drawn, T]


def in_turn(many: Iterable[Steps[T]]) -> Steps[list[T]]:
    """Take the steps of several one after the other; return what each returns."""
    results = []
    for steps in many:
        result = yield from steps
        results.append(result)
    return results


def run_alone(steps: Steps[T], batch_slices: int) -> T:
    """Run one synthesis to its end."""
    [(_, result)] = run_together([(0, steps)], batch_slices)
    return result.result()


@dataclass(eq=False)
class _Live(Generic[Key, T]):
    """A synthesis that waits for slices."""

    key: Key
    steps: Steps[T]
    wanted: Wanted


def begun(steps: Steps[T]) -> Steps[T]:
    """Take the first step, which may be work, at once; return the steps as if none had been taken.

    An error is raised at once too.
    """
    try:
        wanted = next(steps)
    except StopIteration as result:
        return _ended(result.value)
    return _continued(steps, wanted)


def _ended(result: T) -> Steps[T]:
    """Want nothing."""
    return result
    yield


def _continued(steps: Steps[T], wanted: Wanted) -> Steps[T]:
    """Want once more what was wanted, then go on."""
    while True:
        drawn = yield wanted
        try:
            wanted = steps.send(drawn)
        except StopIteration as result:
            return result.value


def run_together(tasks: Iterable[tuple[Key, Steps[T]]], batch_slices: int,
                 pool: Executor | None = None) -> Iterator[tuple[Key, Future[T]]]:
    """Run many syntheses, as many at the same time as fill a pass, or with a pool two passes.

    Args:
        tasks: taken from one by one, as there is room.
        batch_slices: slices that go through a network at once.
        pool: whose threads take the steps between two passes, while slices of other syntheses go through
            the networks; without it steps are taken one by one, between the passes.

    Yields:
        Each key with the result, or the error that ended its synthesis, one pass after it is there.
    """
    waiting = iter(tasks)
    lanes = [_lane(waiting, batch_slices, pool) for _ in range(LANES if pool else 1)]
    while lanes:
        for lane in list(lanes):
            ended = next(lane, None)
            if ended is None:
                lanes.remove(lane)
            else:
                yield from ended


def _lane(waiting: Iterator[tuple[Key, Steps[T]]], batch_slices: int,
          pool: Executor | None) -> Iterator[list[tuple[Key, Future[T]]]]:
    """Take syntheses from pass to pass; after each pass yield those that had ended before it.

    What follows the pass is then under way in the pool.
    """
    advanced: Iterable[_Live[Key, T] | tuple[Key, Future[T]]] = ()
    while True:
        live, ended = list[_Live[Key, T]](), list[tuple[Key, Future[T]]]()
        for each in chain(advanced, _started(waiting, live, batch_slices)):
            if isinstance(each, _Live):
                live.append(each)
            else:
                ended.append(each)
        answers = _draw_together([one.wanted for one in live], batch_slices)
        keys, steps = [one.key for one in live], [one.steps for one in live]
        advanced = (pool.map if pool else map)(_advance, keys, steps, answers)
        yield ended
        if not live:
            return


def _started(waiting: Iterator[tuple[Key, Steps[T]]], live: Sequence[_Live[Key, T]],
             batch_slices: int) -> Iterator[_Live[Key, T] | tuple[Key, Future[T]]]:
    """Take up syntheses until those that are live fill a pass."""
    while sum(len(one.wanted.raw.ct) for one in live) < batch_slices:
        task = next(waiting, None)
        if task is None:
            return
        yield _advance(*task, None)


def _advance(key: Key, steps: Steps[T], drawn: Drawn | None) -> _Live[Key, T] | tuple[Key, Future[T]]:
    """Send a synthesis what was drawn; return it with what it wants next, or how it ended."""
    ended: Future[T] = Future()
    try:
        wanted = steps.send(drawn) if drawn else next(steps)
        return _Live(key, steps, wanted)
    except StopIteration as result:
        ended.set_result(result.value)
    except Exception as error:  # this one's own: the others go on
        ended.set_exception(error)
    return key, ended


def _draw_together(wanted: Sequence[Wanted], batch_slices: int) -> list[Drawn]:
    """Draw what several want; those of the same network share its passes."""
    answers: dict[int, Drawn] = {}
    for model in dict.fromkeys(each.model for each in wanted):
        own = [place for place, each in enumerate(wanted) if each.model is model]
        batches = [RawSlices(*(tensor.to(model.device) for tensor in wanted[place].raw)) for place in own]
        raw = RawSlices(*map(torch.cat, zip(*batches, strict=True))) if len(own) > 1 else batches[0]
        counts = [len(wanted[place].raw.ct) for place in own]
        parts = zip(*(tensor.split(counts) for tensor in draw(model, raw, batch_slices)), strict=True)
        answers |= {place: Drawn(*part) for place, part in zip(own, parts, strict=True)}
    return [answers[place] for place in range(len(wanted))]
