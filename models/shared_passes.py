"""Several syntheses through the networks together, so that a pass is full.

A synthesis is a generator: it yields the slices that it wants drawn and is sent what was drawn, until it
returns its result. `run_together` advances many of them side by side and lets slices of the same network
share its passes, `batch_slices` at a time. That number bounds the memory, however many wait.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch

from data.slice_input import RawSlices
from models.plane_model import Drawn, PlaneModel, draw

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
    """Run many syntheses, as many at the same time as fill a pass.

    Args:
        tasks: taken from one by one, as there is room.
        batch_slices: slices that go through a network at once.
        pool: whose threads take the steps between two passes; without it they are taken one by one.

    Yields:
        Each key with the result, or the error that ended its synthesis, as it is there.
    """
    waiting, live = iter(tasks), list[_Live[Key, T]]()
    while True:
        while sum(len(one.wanted.raw.ct) for one in live) < batch_slices:
            task = next(waiting, None)
            if task is None:
                break
            one, result = _advance(*task, None)
            if one:
                live.append(one)
            else:
                yield task[0], result
        if not live:
            return
        answers = _draw_together([one.wanted for one in live], batch_slices)
        keys, steps = [one.key for one in live], [one.steps for one in live]
        advanced = list((pool.map if pool else map)(_advance, keys, steps, answers))
        yield from ((one.key, result) for one, (after, result) in zip(live, advanced, strict=True)
                    if not after)
        live = [after for after, _ in advanced if after]


def _advance(key: Key, steps: Steps[T], drawn: Drawn | None) -> tuple[_Live[Key, T] | None, Future[T]]:
    """Send a synthesis what was drawn; return it with what it wants next, or None and how it ended."""
    ended: Future[T] = Future()
    try:
        wanted = steps.send(drawn) if drawn else next(steps)
        return _Live(key, steps, wanted), ended
    except StopIteration as result:
        ended.set_result(result.value)
    except Exception as error:  # this one's own: the others go on
        ended.set_exception(error)
    return None, ended


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
