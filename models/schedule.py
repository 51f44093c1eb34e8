"""The course of a run: how many steps, at what learning rate, and what each step draws.

One number, the steps taken so far, fixes everything that follows: the epoch, the batch within it and the
learning rate. That is why a run can stop anywhere and go on exactly.
"""

import math
import signal
import time
from argparse import Namespace
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from types import FrameType

from data.aligned_dataset import Draw, epoch_batches
from data.slice_cache import SliceStore
from util.distributed import World


@dataclass(frozen=True)
class Schedule:
    """Steps of a run and its learning rate.

    Attributes:
        steps: in all.
        decay_steps: the last of them, in which the rate falls linearly to zero.
        steps_per_epoch: batches in which every vertebra comes once.
        rate: before the fall.
    """

    steps: int
    decay_steps: int
    steps_per_epoch: int
    rate: float

    @classmethod
    def of(cls, options: Namespace, vertebrae: int) -> "Schedule":
        """Return the schedule that the flags describe; --max_steps shrinks both parts of it alike."""
        per_epoch = math.ceil(vertebrae / options.batch_size)
        epochs = options.n_epochs + options.n_epochs_decay
        steps = min(options.max_steps or epochs * per_epoch, epochs * per_epoch)
        return cls(steps, round(steps * options.n_epochs_decay / epochs), per_epoch, options.lr)

    def learning_rate(self, step: int) -> float:
        """Return the rate of a step (the first is 0)."""
        return self.rate * min(1.0, (self.steps - step) / (self.decay_steps + 1))

    def draws(self, store: SliceStore, batch_size: int, seed: int, start: int, kinds: Collection[str] = (),
              plane: str = "sagittal") -> Iterator[Draw]:
        """Yield what each step from `start` on draws, to the end of the run.

        Args:
            store, batch_size, seed, kinds, plane: as `data.aligned_dataset.epoch_batches` takes them.
            start: steps that have been taken.
        """
        for epoch in range(start // self.steps_per_epoch, math.ceil(self.steps / self.steps_per_epoch)):
            first = epoch * self.steps_per_epoch
            batches = epoch_batches(store, batch_size, seed, epoch, kinds, plane)
            yield from islice(batches, max(0, start - first), self.steps - first)


class StopRequest:
    """Catch Ctrl-C and SIGTERM, so that the step in hand is finished and the run saved. A second ends it.

    One within a second of the first is the same: torchrun passes on what the terminal has sent already.
    """

    def __init__(self) -> None:
        self.is_set, self._since = False, 0.0

    def agreed(self, world: World) -> bool:
        """Tell whether any process of the run was asked to stop; then every one was.

        A request that comes while they agree is kept for the next time.
        """
        agreed = world.any(self.is_set)
        if agreed:
            self.is_set = True
        return agreed

    def __enter__(self) -> "StopRequest":
        caught = signal.SIGINT, signal.SIGTERM
        self._before = {number: signal.signal(number, self._note) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.is_set and time.monotonic() - self._since > 1.0:
            self._restore()
            signal.raise_signal(number)
        elif not self.is_set:
            self.is_set, self._since = True, time.monotonic()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
